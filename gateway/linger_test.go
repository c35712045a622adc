package gateway

import (
	"bytes"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestRefusedWhileSending: over HTTP/2 an answer that comes before the body has
// ended is there whole before the stream ends, and the stream ends without a word
// from the client, too.
func TestRefusedWhileSending(t *testing.T) {
	h := open(t)
	dial := h.dialer("h2")
	for name, tc := range map[string]struct {
		stops bool // the client ends its body when it has read the answer
		more  int  // DATA frames that it sends without heeding the answer
	}{
		"a client that stops":           {stops: true},
		"a client that says no more":    {},
		"a client that goes on sending": {more: 6},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial()
			defer conn.Close()
			must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
			c := begin(t, conn)
			for range tc.more {
				must(t, c.WriteData(1, false, make([]byte, 10<<10)))
			}
			var body []byte
			var order string
			for order == "" || order[len(order)-1] != 'E' {
				f, err := c.ReadFrame()
				must(t, err)
				switch f := f.(type) {
				case *http2.HeadersFrame:
					order += "H"
				case *http2.DataFrame:
					if len(f.Data()) > 0 {
						order, body = order+"D", append(body, f.Data()...)
						if tc.stops {
							must(t, c.WriteData(1, true, nil))
						}
					}
					if f.StreamEnded() {
						order += "E"
					}
				case *http2.RSTStreamFrame:
					t.Fatalf("RST_STREAM %v after %q", f.ErrCode, order)
				}
			}
			if order != "HDE" || !bytes.Contains(body, []byte("request_entity_too_large")) {
				t.Errorf("frames %q, body %q", order, body)
			}
			must(t, c.WritePing(false, [8]byte{1}))
			var reset *http2.RSTStreamFrame
			for done := false; !done; {
				f, err := c.ReadFrame()
				must(t, err)
				switch f := f.(type) {
				case *http2.RSTStreamFrame:
					reset, done = f, true
				case *http2.PingFrame:
					done = tc.stops && f.IsAck() && f.Data == [8]byte{1}
				}
			}
			if (reset == nil) != tc.stops || reset != nil && reset.ErrCode != http2.ErrCodeNo {
				t.Errorf("after its end the stream is reset: %v", reset)
			}
			if n := h.gw.lingering.Load(); n != 0 && tc.stops {
				t.Errorf("%d requests linger", n)
			}
		})
	}
}

// begin asks for what is refused by its declared length alone.
func begin(t *testing.T, conn net.Conn) *http2.Framer {
	c := http2.NewFramer(conn, conn)
	_, err := conn.Write([]byte(http2.ClientPreface))
	must(t, err)
	must(t, c.WriteSettings())
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/orders"}, {"content-type", "application/json"}, {"content-length", "3000000"}} {
		must(t, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	must(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b.Bytes(), EndHeaders: true}))
	return c
}
