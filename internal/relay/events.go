package relay

import (
	"mime"
	"net/http"
	"time"
)

// open bounds an answer that stays open. A nil *open bounds nothing.
type open struct {
	Bounds
	cancel func() // ends the request to the service
	w      *http.ResponseController
	idle   *time.Timer
}

// of returns o if the answer is a stream of events of no known length.
func (o *open) of(res *http.Response) *open {
	if o == nil || !IsEvents(res.Header) || res.ContentLength >= 0 {
		return nil
	}
	return o
}

// IsEvents reports whether the headers are those of a stream of events (HTML
// standard, section 9.2).
func IsEvents(h http.Header) bool {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && kind == "text/event-stream"
}

// begin starts the bounds; what it returns stops them.
func (o *open) begin(w http.ResponseWriter) (stop func()) {
	o.w = http.NewResponseController(w)
	o.idle = time.AfterFunc(o.Idle, o.cancel)
	total := time.AfterFunc(o.Total, o.cancel)
	o.alive()
	_ = o.w.Flush() // the head: the first event may be long in coming
	return func() { o.idle.Stop(); total.Stop() }
}

// alive notes that the service sent something: the client has as long to take it.
func (o *open) alive() {
	if o == nil {
		return
	}
	o.idle.Reset(o.Idle)
	_ = o.w.SetWriteDeadline(time.Now().Add(o.Idle)) // a writer of a test has none
}
