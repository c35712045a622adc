package http1

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

const (
	holdBack  = 4 << 10  // bytes of an answer that are gathered before any is sent
	keepBytes = 16 << 10 // memory beyond this is not kept for other answers
)

// answer is the http.ResponseWriter of an exchange. As net/http says of its own, a
// handler that has returned must not use it; one that does finds it closed.
type answer struct {
	x      *exchange
	header http.Header
	old    bool // of HTTP/1.0
	isHead bool

	status   int     // 0: not said yet
	length   int64   // of the body as the handler says; -1: it has not said
	written  int64   // bytes of the body
	memory   *[]byte // from memories
	out      []byte  // what is not sent yet
	held     []byte  // the body's beginning while it is not known how it is framed
	sniff    bool    // nobody has said what the body is
	framed   bool    // the head is complete
	chunked  bool
	last     bool // the connection ends after it
	done     bool // the handler has returned
	hijacked bool
	err      error // of writing; the first

	interim sync.Mutex // held while an interim answer is sent, by who reads the body
	begun   bool       // part of the answer may have been sent; guarded by interim
}

// memories are what answers are written in before they are sent. One goes back when
// its answer has been sent and the handler has returned.
var memories = sync.Pool{New: func() any { return new([]byte) }}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = make(http.Header, 12)
	}
	return a.header
}

// WriteHeader implements http.ResponseWriter. Interim answers are not sent.
func (a *answer) WriteHeader(status int) {
	if a.status != 0 || a.done || a.hijacked || 100 <= status && status < 200 {
		return
	}
	if status < 200 || status > 999 {
		panic("http1: invalid status " + strconv.Itoa(status)) // as net/http does
	}
	a.status = status
	a.memory = memories.Get().(*[]byte)
	a.out = appendStatus((*a.memory)[:0], status)
	a.appendFields()
}

func appendStatus(b []byte, status int) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(status)...)
	return append(b, "\r\n"...)
}

// appendFields writes the header as it is now, but for what says where the answer
// ends: that is this package's to say.
func (a *answer) appendFields() {
	var few [24]string
	names := few[:0]
	for name := range a.header {
		names = append(names, name)
	}
	slices.Sort(names)
	a.sniff = hasBody(a.status)
	dated := false
	for _, name := range names {
		switch values := a.header[name]; name {
		case "Content-Length":
			a.takeLength(values)
		case "Connection":
			a.last = a.last || httpguts.HeaderValuesContainsToken(values, "close")
		case "Transfer-Encoding", "Trailer", "Keep-Alive", "Upgrade":
		case "Content-Type", "Content-Encoding":
			if hasBody(a.status) {
				a.appendField(name, values)
				a.sniff = false
			}
		case "Date":
			dated = true
			a.appendField(name, values)
		default:
			a.appendField(name, values)
		}
	}
	if !dated {
		a.appendOne("Date", a.x.conn.srv.date.at(time.Now()))
	}
}

func (a *answer) takeLength(values []string) {
	if len(values) != 1 { // none, as handlers for HTTP/2 write it, says nothing
		return
	}
	if n, err := strconv.ParseUint(values[0], 10, 63); err == nil {
		a.length = int64(n)
	}
}

func (a *answer) appendField(name string, values []string) {
	if !httpguts.ValidHeaderFieldName(name) {
		return
	}
	for _, v := range values {
		a.appendOne(name, v)
	}
}

// appendOne writes a field. What could end its line is a space (RFC 9110 section 5.5).
func (a *answer) appendOne(name, value string) {
	a.out = append(a.out, name...)
	a.out = append(a.out, ": "...)
	from := len(a.out)
	a.out = append(a.out, strings.Trim(value, " \t\r\n")...)
	for i, c := range a.out[from:] {
		if c < ' ' && c != '\t' || c == 0x7f {
			a.out[from+i] = ' '
		}
	}
	a.out = append(a.out, "\r\n"...)
}

// hasBody reports whether an answer with this status may have a body (RFC 9110
// sections 15.3.5 and 15.4.5).
func hasBody(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}

// Write implements io.Writer.
func (a *answer) Write(p []byte) (int, error) {
	switch {
	case a.hijacked:
		return 0, http.ErrHijacked
	case a.done:
		return 0, net.ErrClosed
	}
	a.WriteHeader(http.StatusOK)
	if len(p) == 0 || a.err != nil {
		return 0, a.err
	}
	if !hasBody(a.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if a.written += int64(len(p)); a.length >= 0 && a.written > a.length {
		return 0, http.ErrContentLength
	}
	a.guess(p)
	if !a.framed && a.length < 0 && len(a.held)+len(p) <= holdBack {
		a.held = append(a.held, p...)
		return len(p), nil
	}
	a.frame()
	a.put(p)
	return len(p), a.err
}

// guess says what the body is if nobody has, as net/http does: so that an answer is
// the same over HTTP/1.1 and HTTP/2.
func (a *answer) guess(p []byte) {
	if a.sniff {
		a.sniff = false
		a.appendOne("Content-Type", http.DetectContentType(p))
	}
}

// frame ends the head: it says how long the body is, how the client finds its end,
// and whether another answer can come.
func (a *answer) frame() {
	if a.framed {
		return
	}
	a.framed = true
	a.last = a.last || !a.x.body.spent() || a.x.conn.srv.closing.Load()
	switch {
	case !hasBody(a.status):
	case a.length >= 0:
		a.appendLength(a.length)
	case a.done && (!a.isHead || len(a.held) > 0):
		a.appendLength(int64(len(a.held)))
	case a.isHead:
	case a.old:
		a.last = true // its end is the connection's
	default:
		a.chunked = true
		a.out = append(a.out, "Transfer-Encoding: chunked\r\n"...)
	}
	switch {
	case a.last:
		a.out = append(a.out, "Connection: close\r\n"...)
	case a.old:
		a.out = append(a.out, "Connection: keep-alive\r\n"...)
	}
	a.out = append(a.out, "\r\n"...)
	held := a.held
	a.held = nil
	a.put(held)
}

func (a *answer) appendLength(n int64) {
	a.out = append(a.out, "Content-Length: "...)
	a.out = strconv.AppendInt(a.out, n, 10)
	a.out = append(a.out, "\r\n"...)
}

// put adds to the body, and sends when there is enough.
func (a *answer) put(p []byte) {
	if a.isHead || len(p) == 0 {
		return
	}
	if a.chunked {
		a.out = strconv.AppendInt(a.out, int64(len(p)), 16)
		a.out = append(a.out, "\r\n"...)
	}
	if len(p) >= holdBack { // not copied, as it fills what is sent at once anyway
		a.send()
		a.sendBytes(p)
	} else {
		a.out = append(a.out, p...)
	}
	if a.chunked {
		a.out = append(a.out, "\r\n"...)
	}
	if len(a.out) >= holdBack {
		a.send()
	}
}

// send sends what was gathered.
func (a *answer) send() {
	if len(a.out) > 0 {
		a.sendBytes(a.out)
		a.out = a.out[:0]
	}
}

func (a *answer) sendBytes(p []byte) {
	if a.err != nil {
		return
	}
	a.interim.Lock()
	a.begun = true
	a.interim.Unlock()
	if _, a.err = a.x.conn.rwc.Write(p); a.err != nil {
		a.x.leash.End(nil) // nobody is there any more
	}
}

// goOn tells a client that waits for it to go on, unless it has an answer.
func (a *answer) goOn() error {
	a.interim.Lock()
	defer a.interim.Unlock()
	if a.begun {
		return nil
	}
	_, err := io.WriteString(a.x.conn.rwc, "HTTP/1.1 100 Continue\r\n\r\n")
	return err
}

// FlushError sends what was written, for http.ResponseController.
func (a *answer) FlushError() error {
	switch {
	case a.hijacked:
		return http.ErrHijacked
	case a.done:
		return net.ErrClosed
	}
	a.WriteHeader(http.StatusOK)
	a.frame()
	a.send()
	return a.err
}

// Flush implements http.Flusher.
func (a *answer) Flush() { _ = a.FlushError() }

// SetReadDeadline is for http.ResponseController.
func (a *answer) SetReadDeadline(t time.Time) error { return a.x.conn.rwc.SetReadDeadline(t) }

// SetWriteDeadline is for http.ResponseController.
func (a *answer) SetWriteDeadline(t time.Time) error { return a.x.conn.rwc.SetWriteDeadline(t) }

// Hijack implements http.Hijacker: the connection is the caller's, and has no
// deadlines.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	switch {
	case a.hijacked:
		return nil, nil, http.ErrHijacked
	case a.status != 0 || a.done || !a.x.body.over.Load():
		return nil, nil, http.ErrNotSupported // what is on the way belongs to this exchange
	}
	c := a.x.conn
	c.unwatch()
	if err := c.rwc.SetDeadline(time.Time{}); err != nil {
		return nil, nil, err // it stays ours, to be closed
	}
	a.hijacked = true
	in := bufio.NewReader(taken{c})
	if n := c.end - c.at; n > 0 {
		_, _ = in.Peek(n) // so that it counts as buffered: it is in memory, and cannot fail
	}
	return c.rwc, bufio.NewReadWriter(in, bufio.NewWriter(c.rwc)), nil
}

// finish ends the answer when the handler has returned. An error: the connection can
// bear no other.
func (a *answer) finish() error {
	a.WriteHeader(http.StatusOK)
	a.done = true
	a.frame()
	if a.chunked {
		a.out = append(a.out, "0\r\n\r\n"...)
	}
	wrong := a.length >= 0 && a.written != a.length && !a.isHead && hasBody(a.status)
	a.send()
	a.drop()
	if a.err == nil && wrong {
		return http.ErrContentLength // the client sees by the connection's end that it was cut short
	}
	return a.err
}

// drop gives the memory back.
func (a *answer) drop() {
	a.done = true
	if a.memory == nil {
		return
	}
	if cap(a.out) <= keepBytes {
		*a.memory = a.out[:0]
		memories.Put(a.memory)
	}
	a.memory, a.out = nil, nil
}
