// Package relay passes one checked request on and its answer back. The request
// is our own, built from what was checked, never the caller's bytes; of the
// answer only its final form leaves: no interim answers, no trailers, and never
// more than MaxAnswer bytes. What may stay open or change the protocol has functions
// of its own, for flows that ask for it.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/rampart-security/rampart/internal/hop"
	"github.com/rampart-security/rampart/internal/leash"
)

// MaxAnswer bounds the body of an answer.
const MaxAnswer = 64 << 20

// Request returns a request to the address to, with the method, context and
// body of in, and those of its end-to-end headers that keep admits. The host is
// that of to.
func Request(in *http.Request, to *url.URL, keep func(name string) bool) *http.Request {
	out := Outgoing(in.Context(), in.Method, to, Header(in, keep))
	if in.ContentLength != 0 {
		out.Body, out.ContentLength = in.Body, in.ContentLength
	}
	return out
}

// Outgoing returns a request to the address to, without a body, whose header is h: it
// belongs to the request from here on. The host is that of to.
func Outgoing(ctx context.Context, method string, to *url.URL, h http.Header) *http.Request {
	out := (&http.Request{}).WithContext(ctx) // once: WithContext copies what there is
	out.Method, out.URL, out.Host, out.Body, out.Header = method, to, to.Host, http.NoBody, h
	out.Proto, out.ProtoMajor, out.ProtoMinor = "HTTP/1.1", 1, 1
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = noAgent[:] // else the transport would name itself
	}
	return out
}

// noAgent is the value of a User-Agent that is not sent. All share it, and nobody
// changes values in place.
var noAgent = [...]string{""}

// Header returns a new header with the fields of in that keep lets pass, and
// without those that end here. The values are those of in.
func Header(in *http.Request, keep func(name string) bool) http.Header {
	out := make(http.Header, len(in.Header)+4)
	for name, values := range in.Header {
		if keep(name) && !isHopByHop(name) && !isListed(in.Header["Connection"], name) {
			out[name] = values
		}
	}
	return out
}

// field is one field of a header.
type field struct {
	name   string
	values []string
}

// Inside is Header for what Inbound of declared lets in, with room for more fields.
// It knows how many there are before it makes the map, which is half the size then.
func Inside(in http.Header, more int, declared ...[]string) http.Header {
	var few [16]field // on the stack
	kept, connection := few[:0], in["Connection"]
	for name, values := range in {
		if isInbound(name, declared) && !isHopByHop(name) && !isListed(connection, name) {
			kept = append(kept, field{name, values})
		}
	}
	out := make(http.Header, len(kept)+more)
	for _, f := range kept {
		out[f.name] = f.values
	}
	return out
}

// isHopByHop reports headers that end here (RFC 9110, section 7.6.1), and
// Expect, which was met when the body was read.
func isHopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Expect":
		return true
	}
	return false
}

// isListed reports whether Connection declares the header as one that ends here.
func isListed(connection []string, name string) bool {
	for _, line := range connection {
		for token := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(token), name) {
				return true
			}
		}
	}
	return false
}

// Send sends out over rt and copies the answer to w. edit, if not nil, sees the
// answer's headers before they leave. An error means that nothing was written
// to w. An answer that breaks off, or turns out too long, breaks off for the
// client too: Send panics with http.ErrAbortHandler, since a body cut short
// must not look whole.
func Send(w http.ResponseWriter, out *http.Request, rt http.RoundTripper, edit func(http.Header)) error {
	return send(w, out, rt, edit, nil)
}

// Events is Send for a flow that may stay open: an answer of type
// text/event-stream goes on for as long as b says, and may be of any length.
func Events(w http.ResponseWriter, out *http.Request, rt http.RoundTripper, edit func(http.Header), b Bounds) error {
	var l leash.Leash // ends with the one above, at once: a context of package context ends a goroutine later
	l.Begin(out.Context())
	defer l.End(nil)
	return send(w, out.WithContext(&l), rt, edit, &open{Bounds: b, cancel: func() { l.End(nil) }})
}

func send(w http.ResponseWriter, out *http.Request, rt http.RoundTripper, edit func(http.Header), o *open) error {
	// The transport may still read the body when it has answered.
	defer out.Body.Close()
	res, err := rt.RoundTrip(out)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return pass(out.Context(), w, res, edit, o)
}

// pass relays an answer, which is that of a request with this context. o, if not nil,
// is what bounds an event stream.
func pass(ctx context.Context, w http.ResponseWriter, res *http.Response, edit func(http.Header), o *open) error {
	if res.StatusCode < http.StatusOK {
		return withhold(fmt.Errorf("relay: the answer has status %d, which is not a final one", res.StatusCode))
	}
	if res.ContentLength > MaxAnswer {
		return withhold(errors.New("relay: the answer is too long"))
	}
	from := res.Header
	if err := passable(from); err != nil {
		return withhold(err)
	}
	if edit != nil {
		edit(from)
	}
	whole, _ := res.Body.(*hop.Whole)
	if ctx.Err() != nil {
		panic(http.ErrAbortHandler) // as if it broke off: edit may have found that it must end, and of what is in memory, or empty, no read fails
	}
	to := w.Header()
	for name, values := range from {
		to[name] = values
	}
	w.WriteHeader(res.StatusCode)
	if whole != nil {
		_, _ = w.Write(whole.Bytes()) // an error: the client has gone
		return nil
	}
	if o = o.of(res); o != nil {
		defer o.begin(w)()
	}
	copyBody(w, res, o)
	return nil
}

// MaxAnswerHeaders bounds the fields of an answer; transports bound their size.
const MaxAnswerHeaders = 128

// passable takes off h what ends here, and refuses what has two readings.
func passable(h http.Header) error {
	if err := checkHeaders(h); err != nil {
		return err
	}
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for name := range h {
		if isHopByHop(name) {
			delete(h, name)
		}
	}
	return nil
}

func checkHeaders(h http.Header) error {
	n := 0
	for name, values := range h {
		if strings.IndexByte(name, ' ') >= 0 || strings.IndexByte(name, '\t') >= 0 {
			return errors.New("relay: the answer has a field whose name ends in a space") // two readings: RFC 9112, section 5.1
		}
		n += len(values)
	}
	if n > MaxAnswerHeaders {
		return fmt.Errorf("relay: the answer has more than %d header fields", MaxAnswerHeaders)
	}
	return nil
}

// buffers spares an allocation of its 32 KiB per answer.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// copyBody copies the answer, at once piece by piece when its length is open:
// whoever sends that way means it to be seen as it comes.
func copyBody(w http.ResponseWriter, res *http.Response, o *open) {
	buf, ok := buffers.Get().(*[32 << 10]byte)
	if !ok {
		buf = new([32 << 10]byte)
	}
	defer buffers.Put(buf)
	flush := func() error { return nil }
	if res.ContentLength < 0 {
		flush = http.NewResponseController(w).Flush
	}
	for left := MaxAnswer; ; {
		n, err := res.Body.Read(buf[:])
		if left -= n; left < 0 && o == nil {
			panic(http.ErrAbortHandler)
		}
		o.alive()
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return // the client has gone
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			panic(http.ErrAbortHandler)
		}
		_ = flush() // a writer that cannot flush holds back on purpose
	}
}
