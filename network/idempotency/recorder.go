package idempotency

import (
	"net/http"
	"slices"
)

// recorder holds an answer back until it is settled. One that grows beyond
// MaxResponse is settled as too large and passed on from then on.
type recorder struct {
	to      http.ResponseWriter
	header  http.Header
	settle  func(Response) error
	status  int
	body    []byte
	passing bool
	failed  error
}

// Header returns the header of the answer, apart from what earlier stages have
// set on the real one: theirs are not part of what is repeated.
func (r *recorder) Header() http.Header { return r.header }

// WriteHeader keeps the first final status.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
}

// Write keeps p, or passes it on once the answer is too large to keep.
func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	if !r.passing && len(r.body)+len(p) > MaxResponse {
		r.pass(Response{Status: r.status, TooLarge: true})
	}
	if r.failed != nil {
		return 0, r.failed
	}
	if r.passing {
		return r.to.Write(p)
	}
	r.body = append(r.body, p...)
	return len(p), nil
}

// finish settles what was held back and sends it. The error means that nothing
// was sent.
func (r *recorder) finish() error {
	if !r.passing && r.failed == nil {
		r.WriteHeader(http.StatusOK)
		r.pass(Response{Status: r.status, Header: kept(r.header), Body: r.body})
	}
	return r.failed
}

// pass settles resp and sends what is held back.
func (r *recorder) pass(resp Response) {
	if r.failed = r.settle(resp); r.failed != nil {
		return
	}
	r.passing = true
	copyHeader(r.to.Header(), r.header)
	r.to.WriteHeader(r.status)
	_, _ = r.to.Write(r.body) // the client may have gone; the answer is kept
	r.body = nil
}

// kept returns the header fields that may be repeated later: not those of one
// connection or one moment, and no cookies.
func kept(h http.Header) http.Header {
	out := h.Clone()
	for _, name := range []string{"Connection", "Date", "Keep-Alive", "Set-Cookie", "Trailer", "Transfer-Encoding", "Upgrade"} {
		out.Del(name)
	}
	return out
}

func copyHeader(to, from http.Header) {
	for name, values := range from {
		to[name] = slices.Clone(values)
	}
}
