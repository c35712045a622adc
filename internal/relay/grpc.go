package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// IsGRPC reports whether r is a gRPC call by HTTP/2: what a client can read
// trailers of, and expects a status of gRPC for.
func IsGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && r.Method == http.MethodPost && IsGRPCType(r.Header) && slices.Equal(r.Header["Te"], []string{"trailers"})
}

// IsGRPCType reports whether the headers are those of gRPC messages. gRPC-Web is
// another protocol.
func IsGRPCType(h http.Header) bool {
	given := h["Content-Type"]
	if len(given) != 1 {
		return false
	}
	kind, _, _ := strings.Cut(given[0], ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	return kind == "application/grpc" || strings.HasPrefix(kind, "application/grpc+")
}

// GRPCOptions bound a call and say what may be told of it.
type GRPCOptions struct {
	MaxMessage int64             // bytes of one message of the client's
	Bounds     Bounds            // Total bounds the client's own deadline too
	Head       func(http.Header) // edits the head of the answer; nil: nobody does
	Trailer    func(http.Header) // edits the trailers; nil: nobody does
}

// GRPCEnd is how a call ended.
type GRPCEnd struct {
	Counts
	Status string // as the client was told; "" if it had gone
}

// mercy is how long a write may go on for a call that has ended: the trailers come
// behind it.
const mercy = 2 * time.Second

// GRPC sends out, which came of in, for which IsGRPC holds, and passes messages both
// ways as they come, the head and all trailers back. Of the messages only their
// length is read. rt must speak HTTP/2.
//
// What cancels out's context with a cause ends the call, and the client is told the
// cause. An error means that nothing was written to w, and is a cause too.
func GRPC(w http.ResponseWriter, in, out *http.Request, rt http.RoundTripper, opt GRPCOptions) (GRPCEnd, error) {
	if err := plainMessages(in.Header); err != nil {
		return GRPCEnd{}, err
	}
	life, err := grpcTimeout(in.Header, opt.Bounds.Total)
	if err != nil {
		return GRPCEnd{}, err
	}
	ctx, end := context.WithCancelCause(out.Context())
	defer end(nil)
	c := &grpcCall{w: w, control: http.NewResponseController(w), in: in, opt: opt, end: end}
	defer c.bounds(life)()
	out = c.request(out.WithContext(ctx), life)
	defer out.Body.Close()                                          // the transport may still read it when the answer is over
	defer context.AfterFunc(ctx, func() { _ = out.Body.Close() })() // a transport that waits for the client's next message does not look at ctx
	res, err := rt.RoundTrip(out)
	switch {
	case err != nil && in.Context().Err() != nil:
		return GRPCEnd{Counts: c.counts()}, nil // the client has gone, and nobody is left to tell
	case err != nil:
		return GRPCEnd{}, causeOf(ctx, err)
	}
	defer res.Body.Close()
	if err := isCall(res); err != nil {
		return GRPCEnd{}, err
	}
	return c.answer(ctx, res), nil
}

// causeOf is why a call ended, if somebody ended it.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// plainMessages refuses compressed messages: the length of one bounds nothing that
// the service would have to hold.
func plainMessages(h http.Header) error {
	if v := h.Get("Grpc-Encoding"); v != "" && v != "identity" {
		return problem.With(rampart.Errorf(rampart.Invalid, "validate.max_body", "messages must come without compression"),
			problem.Details{Status: http.StatusUnsupportedMediaType})
	}
	return nil
}

// grpcUnit is one of a timeout ("Timeout" of the gRPC protocol over HTTP/2).
func grpcUnit(c byte) time.Duration {
	switch c {
	case 'H':
		return time.Hour
	case 'M':
		return time.Minute
	case 'S':
		return time.Second
	case 'm':
		return time.Millisecond
	case 'u':
		return time.Microsecond
	case 'n':
		return time.Nanosecond
	}
	return 0
}

// grpcTimeout is how long the client waits for the call to end, and most at the
// longest.
func grpcTimeout(h http.Header, most time.Duration) (time.Duration, error) {
	v, given := h["Grpc-Timeout"]
	if !given {
		return most, nil
	}
	bad := rampart.Errorf(rampart.Invalid, "edge.route", "grpc-timeout is not one to eight digits and a unit")
	if len(v) != 1 || len(v[0]) < 2 || len(v[0]) > 9 {
		return 0, bad
	}
	digits, unit := v[0][:len(v[0])-1], grpcUnit(v[0][len(v[0])-1])
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || unit == 0 || strings.ContainsAny(digits, "+-_") {
		return 0, bad
	}
	if n > uint64(most/unit) {
		return most, nil
	}
	return time.Duration(n) * unit, nil
}

// grpcCall is one call under way.
type grpcCall struct {
	w       http.ResponseWriter
	control *http.ResponseController
	in      *http.Request
	opt     GRPCOptions
	end     context.CancelCauseFunc
	idle    *time.Timer
	stall   *time.Timer // runs while something is written
	grace   *time.Timer // runs when the call has ended
	up      atomic.Int64
	down    atomic.Int64

	mu   sync.Mutex // guards below
	over bool       // w is not ours any more
}

func ended(kind rampart.Kind, status int, text string) error {
	return problem.With(&rampart.Error{Kind: kind, Msg: text}, problem.Details{Status: status})
}

// bounds starts what ends the call by time; what it returns stops it. The server's
// own deadlines are for answers that end.
func (c *grpcCall) bounds(life time.Duration) (stop func()) {
	_ = c.control.SetReadDeadline(time.Time{}) // a writer of a test has none
	_ = c.control.SetWriteDeadline(time.Time{})
	late, over := ended(rampart.Unavailable, http.StatusGatewayTimeout, "the deadline of the call has passed"), ended(rampart.Unavailable, 0, "the call was open for too long")
	why := late
	if life == c.opt.Bounds.Total {
		why = over
	}
	total := time.AfterFunc(life, func() { c.end(why) })
	c.idle = time.AfterFunc(c.opt.Bounds.Idle, func() { c.end(ended(rampart.Unavailable, 0, "nothing was said for too long")) })
	c.stall, c.grace = time.AfterFunc(time.Hour, c.breakOff), time.AfterFunc(time.Hour, c.breakOff)
	c.stall.Stop()
	c.grace.Stop()
	return func() {
		for _, t := range []*time.Timer{total, c.idle, c.stall, c.grace} {
			t.Stop()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.over = true
	}
}

// breakOff frees a writer whose client does not read.
func (c *grpcCall) breakOff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		_ = c.control.SetWriteDeadline(time.Unix(1, 0))
	}
}

func (c *grpcCall) alive() { c.idle.Reset(c.opt.Bounds.Idle) }

// request is out with what makes it a call.
func (c *grpcCall) request(out *http.Request, life time.Duration) *http.Request {
	out.Header["Te"] = []string{"trailers"}
	out.Header["Grpc-Timeout"] = []string{strconv.FormatInt(max(1, life.Milliseconds()), 10) + "m"} // at most 8 digits: Total is far below 27 hours
	out.Body, out.ContentLength, out.GetBody = http.NoBody, 0, nil
	if c.in.ContentLength != 0 {
		out.Body, out.ContentLength = &messages{ReadCloser: c.in.Body, max: c.opt.MaxMessage, count: &c.up, alive: c.alive, end: c.end}, -1
	}
	return out
}

// isCall refuses an answer that is none of gRPC, by the code that gRPC gives its
// status ("HTTP to gRPC Status Code Mapping").
func isCall(res *http.Response) error {
	if res.StatusCode == http.StatusOK && res.ProtoMajor == 2 && IsGRPCType(res.Header) {
		return checkHeaders(res.Header)
	}
	err := fmt.Errorf("relay: the answer is none of gRPC: HTTP/%d, status %d, %q", res.ProtoMajor, res.StatusCode, res.Header.Get("Content-Type"))
	return &rampart.Error{Kind: rampart.Unavailable, Msg: "the service does not speak gRPC here", Err: err}
}

// answer passes the answer on, to its end.
func (c *grpcCall) answer(ctx context.Context, res *http.Response) GRPCEnd {
	to := c.w.Header()
	for name, values := range endToEnd(res.Header, c.opt.Head) {
		to[name] = values
	}
	if _, only := res.Header["Grpc-Status"]; only { // Trailers-Only: nothing follows
		to["Content-Length"] = nil
		c.w.WriteHeader(http.StatusOK)
		return GRPCEnd{c.counts(), to.Get("Grpc-Status")}
	}
	c.w.WriteHeader(http.StatusOK)
	err := c.flush()
	if err == nil {
		err = c.copyBack(ctx, res)
	}
	if errors.Is(err, errGone) || c.in.Context().Err() != nil {
		return GRPCEnd{Counts: c.counts()}
	}
	if err == nil {
		err = checkHeaders(res.Trailer)
	}
	if err == nil && len(res.Trailer["Grpc-Status"]) != 1 {
		err = errors.New("relay: the answer ended without a status")
	}
	trailer := endToEnd(res.Trailer, c.opt.Trailer)
	if err != nil {
		trailer = told(err)
	}
	for name, values := range trailer {
		to[http.TrailerPrefix+name] = values
	}
	return GRPCEnd{c.counts(), trailer.Get("Grpc-Status")}
}

// told is an error as trailers.
func told(err error) http.Header {
	if _, ok := errors.AsType[*rampart.Error](err); !ok {
		err = &rampart.Error{Kind: rampart.Unavailable, Msg: "the service broke the call off", Err: err}
	}
	return http.Header{"Grpc-Status": {strconv.Itoa(problem.GRPCStatus(err))}, "Grpc-Message": {problem.GRPCMessage(err)}}
}

func (c *grpcCall) counts() Counts { return Counts{c.up.Load(), c.down.Load()} }

// endToEnd is what may leave of headers or trailers, edited.
func endToEnd(h http.Header, edit func(http.Header)) http.Header {
	for name := range h {
		if isHopByHop(name) || name == "Content-Length" || !Outbound(name) {
			delete(h, name)
		}
	}
	if edit != nil {
		edit(h)
	}
	return h
}

// errGone says that the client takes nothing more.
var errGone = errors.New("relay: the client has gone")

// copyBack passes the service's messages on as they come. A message may be as long
// as an answer.
func (c *grpcCall) copyBack(ctx context.Context, res *http.Response) error {
	from := &messages{ReadCloser: res.Body, max: MaxAnswer, count: &c.down, alive: c.alive, end: c.end, back: true}
	defer context.AfterFunc(ctx, func() { c.grace.Reset(mercy) })() // a write that stands still must end too
	buf, ok := buffers.Get().(*[32 << 10]byte)
	if !ok {
		buf = new([32 << 10]byte)
	}
	defer buffers.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			if werr := c.write(buf[:n]); werr != nil {
				return werr
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return causeOf(ctx, err)
		}
	}
}

func (c *grpcCall) write(p []byte) error {
	c.stall.Reset(c.opt.Bounds.Idle)
	defer c.stall.Stop()
	if _, err := c.w.Write(p); err != nil {
		return errGone
	}
	return c.flush()
}

func (c *grpcCall) flush() error {
	if err := c.control.Flush(); err != nil {
		return errGone
	}
	return nil
}

// messages are those of one direction ("Length-Prefixed-Message" of the gRPC
// protocol over HTTP/2). Of each only the prefix is read: one that is compressed or
// longer than max ends the call, before its prefix is passed on whole.
type messages struct {
	io.ReadCloser
	max   int64
	count *atomic.Int64
	alive func()
	end   context.CancelCauseFunc
	back  bool // they are the service's
	close sync.Once

	head [5]byte
	have int   // bytes of head
	left int64 // bytes of the message to come
}

// Read implements io.Reader.
func (m *messages) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	if n > 0 {
		m.alive()
		m.count.Add(int64(n))
	}
	bad := m.follow(p[:n])
	if bad == nil && errors.Is(err, io.EOF) && (m.have > 0 || m.left > 0) {
		bad = m.refuse(0, "a message ends before its length")
	}
	if bad != nil {
		m.end(bad)
		return 0, bad
	}
	return n, err
}

// Close implements io.Closer, for whoever is first.
func (m *messages) Close() error {
	var err error
	m.close.Do(func() { err = m.ReadCloser.Close() })
	return err
}

// follow reads the prefixes in p.
func (m *messages) follow(p []byte) error {
	for len(p) > 0 {
		if m.left > 0 {
			skip := min(m.left, int64(len(p)))
			p, m.left = p[skip:], m.left-skip
			continue
		}
		n := copy(m.head[m.have:], p)
		p, m.have = p[n:], m.have+n
		if m.have < len(m.head) {
			return nil
		}
		if err := m.judge(); err != nil {
			return err
		}
	}
	return nil
}

// judge takes a whole prefix.
func (m *messages) judge() error {
	m.have = 0
	m.left = int64(m.head[1])<<24 | int64(m.head[2])<<16 | int64(m.head[3])<<8 | int64(m.head[4])
	switch {
	case m.head[0] != 0:
		return m.refuse(http.StatusUnsupportedMediaType, "messages must come without compression")
	case m.left > m.max:
		return m.refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("a message may have at most %d bytes", m.max))
	}
	return nil
}

// refuse blames who sent the message.
func (m *messages) refuse(status int, text string) error {
	if m.back {
		return &rampart.Error{Kind: rampart.Unavailable, Msg: "the service's answer was withheld", Err: errors.New("relay: " + text)}
	}
	return problem.With(rampart.Errorf(rampart.Invalid, "validate.max_body", "%s", text), problem.Details{Status: status})
}
