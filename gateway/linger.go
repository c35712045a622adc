package gateway

import (
	"io"
	"time"
)

// Bounds of what is read of a body after its request was refused.
const (
	lingerTime  = 250 * time.Millisecond
	lingerBytes = 64 << 10 // what the client may have under way: the window of a stream at its beginning
	lingerMost  = 256      // requests at once; who comes then is answered without
)

// linger ends a refused request of HTTP/2 whose body is still being sent. net/http
// ends it with the answer and RST_STREAM (RFC 9113 section 8.1), in one breath; curl
// then forgets the answer that it has not read yet, and says that the transfer was
// closed. So the answer goes first. A client that takes it stops sending, which ends
// the wait within a round trip; for one that does not there are bounds, after which
// RST_STREAM comes as before. Nothing that is read here is looked at, and the request
// holds no place any more.
func (g *Gateway) linger(c *call) {
	if !c.refused || c.read || c.r.ProtoMajor != 2 {
		return
	}
	defer g.lingering.Add(-1)
	if g.lingering.Add(1) > lingerMost {
		return
	}
	control := &c.pacing.control
	if control.Flush() != nil || control.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, c.pacing.body.ReadCloser, lingerBytes) // whatever ends it, the request ends
}
