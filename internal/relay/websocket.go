package relay

import (
	"bufio"
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455 asks for it, and no secret depends on it
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// TakeWebSocket reports whether r asks to become a WebSocket (RFC 6455, section
// 4.1). If it does, Upgrade and Connection are taken off it, so that what reads it
// next finds a plain GET. A request that asks for anything else, or badly, keeps
// them.
func TakeWebSocket(r *http.Request) bool {
	h := r.Header
	key, err := base64.StdEncoding.DecodeString(h.Get("Sec-Websocket-Key"))
	switch {
	case r.Method != http.MethodGet || r.ProtoMajor != 1 || r.ProtoMinor != 1 || r.ContentLength != 0,
		len(h["Upgrade"]) != 1 || !strings.EqualFold(h.Get("Upgrade"), "websocket"),
		len(h["Connection"]) != 1 || !isListed(h["Connection"], "Upgrade"),
		len(h["Sec-Websocket-Key"]) != 1 || err != nil || len(key) != 16,
		len(h["Sec-Websocket-Version"]) != 1 || h.Get("Sec-Websocket-Version") != "13":
		return false
	}
	h.Del("Upgrade")
	h.Del("Connection")
	return true
}

// Bounds end what stays open.
type Bounds struct {
	Idle  time.Duration // without a byte either way
	Total time.Duration
}

// Counts are what went through a WebSocket, in bytes.
type Counts struct {
	FromClient, FromService int64
}

// WebSocket sends out, which came of a request that TakeWebSocket took, and joins
// the client's connection with the service's, until one of them ends, a bound is
// reached or out's context is done. Extensions are not passed on: what is
// compressed could be neither bounded nor, one day, looked into. An answer other
// than 101 is relayed as Send does. An error means that nothing was written to w.
func WebSocket(w http.ResponseWriter, in, out *http.Request, rt http.RoundTripper, edit func(http.Header), b Bounds) (Counts, error) {
	for _, name := range []string{"Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Protocol"} {
		if v := in.Header[name]; len(v) == 1 {
			out.Header[name] = v
		}
	}
	out.Header["Connection"], out.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	res, err := rt.RoundTrip(out)
	if err != nil {
		return Counts{}, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusSwitchingProtocols {
		return Counts{}, pass(out.Context(), w, res, edit, nil)
	}
	service, ok := res.Body.(io.ReadWriteCloser)
	if err := agreed(in, res); err != nil || !ok {
		return Counts{}, errors.Join(err, errIf(!ok, "relay: the transport keeps the connection to itself"))
	}
	head := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Accept": res.Header["Sec-Websocket-Accept"]}
	if v := res.Header["Sec-Websocket-Protocol"]; len(v) == 1 {
		head["Sec-Websocket-Protocol"] = v
	}
	if edit != nil {
		edit(head)
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return Counts{}, fmt.Errorf("relay: %w", err)
	}
	defer conn.Close()
	if guarded, ok := conn.(interface{ Tunnel() }); ok {
		guarded.Tunnel()
	}
	if err := switched(conn, head); err != nil {
		return Counts{}, nil // the client has gone, and nobody is left to tell
	}
	return join(out.Context(), conn, buffered.Reader, service, b), nil
}

func errIf(bad bool, text string) error {
	if bad {
		return errors.New(text)
	}
	return nil
}

// agreed demands that the service speaks WebSocket, for this very request, with a
// protocol that was offered and without extensions (RFC 6455, section 4.1).
func agreed(in *http.Request, res *http.Response) error {
	sum := sha1.Sum([]byte(in.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // RFC 6455, section 1.3
	h := res.Header
	switch chosen := h.Get("Sec-Websocket-Protocol"); {
	case !strings.EqualFold(h.Get("Upgrade"), "websocket"), h.Get("Sec-Websocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]):
		return errors.New("relay: the service changed to a protocol that was not asked for")
	case h.Get("Sec-Websocket-Extensions") != "", chosen != "" && !offered(in.Header.Get("Sec-Websocket-Protocol"), chosen):
		return errors.New("relay: the service chose what was not offered")
	}
	return nil
}

func offered(list, chosen string) bool {
	return slices.ContainsFunc(strings.Split(list, ","), func(p string) bool { return strings.TrimSpace(p) == chosen })
}

// switched answers the client. From here on no deadline of the server holds.
func switched(conn net.Conn, head http.Header) error {
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	out := bufio.NewWriter(conn)
	_, _ = out.WriteString("HTTP/1.1 101 Switching Protocols\r\n") // Flush tells
	_ = head.Write(out)
	_, _ = out.WriteString("\r\n")
	if err := out.Flush(); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// join copies both ways. Whatever ends first ends both: half a WebSocket is none.
func join(ctx context.Context, conn net.Conn, client io.Reader, service io.ReadWriteCloser, b Bounds) Counts {
	end := sync.OnceFunc(func() { conn.Close(); service.Close() })
	defer context.AfterFunc(ctx, end)()
	defer time.AfterFunc(b.Total, end).Stop()
	idle := time.AfterFunc(b.Idle, end)
	defer idle.Stop()
	var up, down atomic.Int64
	var both sync.WaitGroup
	copyTo := func(to io.Writer, from io.Reader, count *atomic.Int64) {
		defer end()
		_, _ = io.Copy(counted{to, count, func() { idle.Reset(b.Idle) }}, from) // how a connection ends is no news
	}
	both.Go(func() { copyTo(service, client, &up) })
	both.Go(func() { copyTo(conn, service, &down) })
	both.Wait()
	return Counts{up.Load(), down.Load()}
}

// counted counts what is written, and notes that something was.
type counted struct {
	to    io.Writer
	count *atomic.Int64
	note  func()
}

func (c counted) Write(p []byte) (int, error) {
	c.note()
	n, err := c.to.Write(p)
	c.count.Add(int64(n))
	return n, err
}
