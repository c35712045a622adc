package gateway

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/network/shed"
)

// echo is a service that becomes a WebSocket and sends back what it gets; as it
// never looks into frames, neither do its clients here.
func echo(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || r.Header.Get("Rampart-Identity") == "" {
		w.WriteHeader(http.StatusUpgradeRequired)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: b\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX-Secret: leak\r\n\r\n")
	io.Copy(conn, rw.Reader)
}

// dial opens a WebSocket with the key of RFC 6455, section 1.3.
func (h *house) dial(path string, header ...string) (*tls.Conn, *bufio.Reader, *http.Response) {
	h.t.Helper()
	cfg := h.client.Transport.(*http.Transport).TLSClientConfig.Clone()
	cfg.NextProtos = []string{"http/1.1"}
	conn, err := tls.Dial("tcp", h.gw.Addr(), cfg)
	must(h.t, err)
	h.t.Cleanup(func() { conn.Close() })
	must(h.t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	text := "GET " + path + " HTTP/1.1\r\nHost: " + h.gw.Addr() + "\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: a, b\r\n" +
		"Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Key: " + base64.StdEncoding.EncodeToString([]byte("the sample nonce")) + "\r\n"
	for i := 0; i+1 < len(header); i += 2 {
		text += header[i] + ": " + header[i+1] + "\r\n"
	}
	_, err = io.WriteString(conn, text+"\r\n")
	must(h.t, err)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	must(h.t, err)
	return conn, in, res
}

// TestWebSocket: who may open one, what goes through, and what ends it.
func TestWebSocket(t *testing.T) {
	const app = "https://app.example"
	h := open(t, shopFlow("    stream: [websocket]\n    cors: { origins: ["+app+"], credentials: true }\n")...)
	h.serve(echo)
	ann, session, own := h.token("ann", "app"), h.login("ann"), "https://"+h.gw.Addr()
	for name, tc := range map[string]struct {
		path   string
		header []string
		status int
	}{
		"a program":                            {"/orders/o1", []string{"Authorization", ann}, 101},
		"our own page":                         {"/orders/o1", []string{"Cookie", session, "Origin", own}, 101},
		"a page that the file names":           {"/orders/o1", []string{"Cookie", session, "Origin", app}, 101},
		"a page of another site":               {"/orders/o1", []string{"Cookie", session, "Origin", "https://evil.example"}, 403},
		"a cookie that comes from no page":     {"/orders/o1", []string{"Cookie", session}, 403},
		"another site's page with a token":     {"/orders/o1", []string{"Authorization", ann, "Origin", "https://evil.example"}, 403},
		"nobody":                               {"/orders/o1", nil, 401},
		"a service that allows none":           {"/stock/mugs", []string{"Authorization", ann}, 400},
		"another protocol beside it":           {"/orders/o1", []string{"Authorization", ann, "Upgrade", "h2c"}, 400},
		"who may not see stock, to be refused": {"/nothing", []string{"Authorization", ann}, 404},
	} {
		t.Run(name, func(t *testing.T) {
			conn, in, res := h.dial(tc.path, tc.header...)
			if res.StatusCode != tc.status {
				t.Fatalf("%s, want %d", res.Status, tc.status)
			}
			if tc.status != 101 {
				return
			}
			if res.Header.Get("Sec-Websocket-Protocol") != "b" || res.Header.Get("Sec-Websocket-Extensions") != "" || res.Header.Get("X-Secret") != "" {
				t.Errorf("the answer has %v", res.Header)
			}
			for _, piece := range []string{"hello", "GET / HTTP/1.1\r\nbare\n\n", strings.Repeat("x", 100_000)} {
				go io.WriteString(conn, piece)
				got := make([]byte, len(piece))
				if _, err := io.ReadFull(in, got); err != nil || string(got) != piece {
					t.Fatalf("%.20q came back as %.20q: %v", piece, got, err)
				}
			}
		})
	}
	ends := func(what string, in *bufio.Reader) {
		t.Helper()
		began := make(chan error, 1)
		go func() { _, err := in.ReadByte(); began <- err }()
		select {
		case err := <-began:
			if err == nil {
				t.Errorf("%s: a byte came", what)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: it stays open", what)
		}
	}
	_, in, _ := h.dial("/orders/o1", "Cookie", h.login("gone"), "Origin", own)
	_, stays, _ := h.dial("/orders/o1", "Authorization", ann)
	h.Revoke("sub", "user:gone")
	ends("revoked", in)
	h.stop()
	ends("the gateway stops", stays)
	closed := 0
	for _, e := range h.Events("gateway_edge") {
		if e.Code == "closed" && e.Detail["bytes_in"] != "" {
			closed++
		}
	}
	if closed < 3 {
		t.Errorf("%d WebSockets are on record as closed", closed)
	}
}

// TestEvents: an event stream arrives piece by piece where the flow allows it, and
// ends with its credential.
func TestEvents(t *testing.T) {
	h := open(t, shopFlow("    stream: sse\n")...)
	next := make(chan string)
	h.serve(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			http.NewResponseController(w).Flush()
			select {
			case text := <-next:
				io.WriteString(w, text)
			case <-r.Context().Done():
				return
			}
		}
	})
	req, err := http.NewRequest("GET", "https://"+h.gw.Addr()+"/orders/o1", nil)
	must(t, err)
	req.Header.Set("Authorization", h.token("gone", "app"))
	res, err := h.client.Do(req)
	must(t, err)
	defer res.Body.Close()
	in := bufio.NewReader(res.Body)
	for _, want := range []string{"data: 1\n", "data: 2\n"} {
		select {
		case next <- want:
		case <-time.After(10 * time.Second):
			t.Fatal("the service does not listen")
		}
		if got, err := in.ReadString('\n'); got != want {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	h.Revoke("sub", "user:gone")
	ended := make(chan error, 1)
	go func() { _, err := in.ReadByte(); ended <- err }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a byte came")
		}
	case <-time.After(10 * time.Second):
		t.Error("it goes on")
	}
}

// TestStreamsHoldNoPlaces: what stays open holds no place of a request, however many
// there are; and there may be so many of a caller, and of a service. Who is refused is
// told when to come back, and what ends makes room.
func TestStreamsHoldNoPlaces(t *testing.T) {
	h := open(t, shopFlow("    stream: [sse, websocket]\n")...)
	end := make(chan struct{})
	h.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			echo(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		http.NewResponseController(w).Flush()
		select {
		case <-end:
		case <-r.Context().Done():
		}
	})
	ann, busy := h.token("ann", "app"), h.token("busy", "app")
	var streams *openStreams
	var gate shedder
	for _, tg := range h.gw.table.Load().targets {
		if tg.name == "shop" {
			streams = tg.backend.streams
		}
	}
	for _, s := range h.gw.table.Load().stages {
		if s, ok := s.(shedder); ok {
			gate = s
		}
	}
	streams.most, streams.each = 3, 2
	first := h.stream("Authorization", ann)
	_, _, socket := h.dial("/orders/o1", "Authorization", ann)
	if socket.StatusCode != 101 {
		t.Fatalf("a WebSocket: %s", socket.Status)
	}
	if n := h.gw.flight.n[heldBy{subject: "user:ann"}]; n != 0 {
		t.Errorf("they hold %d requests of their user's", n)
	}
	for range maxConcurrent {
		must(t, gate.gate.Enter(shed.Important))
	}
	for range maxConcurrent {
		gate.gate.Leave()
	}
	refused := func(what, who string) {
		t.Helper()
		if res := h.do("GET", "/orders/o1", "", "Authorization", who); res.StatusCode != 503 || res.Header.Get("Retry-After") == "" || !strings.Contains(res.body, `"streams"`) {
			t.Errorf("%s: %s %v", what, res.Status, res.Header)
		}
	}
	refused("a third one of a caller", ann)
	h.stream("Authorization", busy)
	refused("a fourth one of the service", busy)
	close(end)
	<-first
	h.Until("there is room again", func() bool { streams.mu.Lock(); defer streams.mu.Unlock(); return streams.n == 1 })
	if res := h.do("GET", "/orders/o1", "", "Authorization", ann); res.StatusCode != 200 {
		t.Errorf("afterwards: %s", res.Status)
	}
}

// TestNewcomersFindStreams: sixty callers, one after another, who open all they may do
// not take the places of who comes next; and one alone has what it had.
func TestNewcomersFindStreams(t *testing.T) {
	o := newOpenStreams()
	open := func(who string) (n int) {
		for o.enter(who) == nil {
			n++
		}
		return n
	}
	if n := open("0"); n != streamShare {
		t.Errorf("one alone opens %d, want %d", n, streamShare)
	}
	for i := range 60 {
		if n := open("a" + strconv.Itoa(i)); n < 2 || n > streamShare {
			t.Fatalf("caller %d opens %d, when %d are open", i, n, o.n)
		}
	}
	if o.n < maxStreams*7/8 {
		t.Errorf("%d are open: they did not take what they could", o.n)
	}
	for range streamShare {
		o.leave("0")
	}
	if n := open("new"); n < streamFew/2 {
		t.Errorf("a newcomer opens %d when a large one has gone", n)
	}
}
