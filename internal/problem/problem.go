// Package problem renders errors as RFC 9457 problem documents. It is the one
// place where an error becomes bytes for an outsider, and so the one place to
// read when asking what leaves the house: the message of a rampart.Error, a
// code, the trace id, the limit that was met and JSON pointers into the caller's
// own request. Other controls, policies and inner errors stay inside.
package problem

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
)

// ContentType is the media type of a problem document (RFC 9457, section 3).
const ContentType = "application/problem+json"

// Details wraps an error with what only HTTP can say. The zero value of each
// field adds nothing. Everything in it leaves the house.
type Details struct {
	Err        error         // the error itself; its kind decides what Status does not
	Status     int           // overrides the status of the kind: 405, 413, 415, 421, 422
	Allow      []string      // methods, for 405 (RFC 9110, section 15.5.6)
	RetryAfter time.Duration // rounded up to whole seconds
	Challenge  string        // WWW-Authenticate; "" for a 401 is the bare scheme
	StepUp     string        // where a person proves more (a path of this very host)
	Limit      string        // of a 429 or 503: what is full, in a word that says nothing of others; "" is what limitNames says
	Errors     []Field
}

// Field says what is wrong at one place of the request. Detail states the rule
// and never the value that broke it.
type Field struct {
	Pointer string `json:"pointer"` // RFC 6901, below /path, /query, /header or /body
	Detail  string `json:"detail"`
}

// With returns err with d around it.
func With(err error, d Details) error {
	d.Err = err
	return &d
}

// Error returns the text of the wrapped error.
func (d *Details) Error() string {
	if d.Err == nil {
		return rampart.Internal.String()
	}
	return d.Err.Error()
}

// Unwrap returns the wrapped error.
func (d *Details) Unwrap() error { return d.Err }

// document is the body. Type is a URN: it names the problem and promises no
// page to fetch.
type document struct {
	Type   string  `json:"type"`
	Title  string  `json:"title"`
	Status int     `json:"status"`
	Detail string  `json:"detail,omitempty"`
	Trace  string  `json:"trace,omitempty"`
	StepUp string  `json:"step_up,omitempty"`
	Limit  *limit  `json:"limit,omitempty"`
	Errors []Field `json:"errors,omitempty"`
}

// limit says which limit refused. Name is the one in RateLimit-Policy, where that
// has one.
type limit struct {
	Control string `json:"control,omitempty"` // as in the file and the log
	Name    string `json:"name"`
}

// limitNames are the limits of controls that have only one.
var limitNames = map[string]string{
	"limit.ip": "ip", "limit.ban": "ban", "limit.api_key": "plan", "limit.user": "user", "limit.login": "login", "limit.pool": "pool",
}

// limitOf returns the limit that err is of, or nil.
func limitOf(err error, status int, word string) *limit {
	if status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
		return nil
	}
	control := ""
	if e, ok := errors.AsType[*rampart.Error](err); ok {
		control = e.Control
	}
	if word == "" {
		word = limitNames[control]
	}
	if word == "" {
		return nil
	}
	return &limit{control, word}
}

// Write answers a request with err as a problem document. An error that is no
// rampart.Error, nil included, is an internal one and says nothing more.
func Write(w http.ResponseWriter, err error, trace string) {
	extra, status := detailsOf(err), Status(err)
	doc := document{
		Type:   "urn:rampart:problem:" + code(status),
		Title:  http.StatusText(status),
		Status: status,
		Detail: Message(err),
		Trace:  trace,
		StepUp: extra.StepUp,
		Limit:  limitOf(err, status, extra.Limit),
		Errors: extra.Errors,
	}
	body, err := json.Marshal(doc)
	if err != nil {
		body = []byte(`{"type":"urn:rampart:problem:internal","status":500}`)
		status = http.StatusInternalServerError
	}
	h := w.Header()
	h.Set("Content-Type", ContentType)
	begin(h, status, extra)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may have gone; nobody is left to tell
}

func detailsOf(err error) *Details {
	if d, ok := errors.AsType[*Details](err); ok {
		return d
	}
	return &Details{}
}

// begin sets the headers that answers of both kinds have.
func begin(h http.Header, status int, d *Details) {
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	setHints(h, status, d)
}

// Status returns the HTTP status that Write would send for err.
func Status(err error) int {
	if d, ok := errors.AsType[*Details](err); ok && d.Status != 0 {
		return d.Status
	}
	switch rampart.KindOf(err) {
	case rampart.Unauthenticated:
		return http.StatusUnauthorized
	case rampart.Denied:
		return http.StatusForbidden
	case rampart.Invalid:
		return http.StatusBadRequest
	case rampart.NotFound:
		return http.StatusNotFound
	case rampart.Conflict:
		return http.StatusConflict
	case rampart.Limited:
		return http.StatusTooManyRequests
	case rampart.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// setHints adds the headers that tell a client what to do next. A refusal that
// time heals always carries Retry-After, else clients hammer.
func setHints(h http.Header, status int, d *Details) {
	if len(d.Allow) > 0 {
		h.Set("Allow", strings.Join(d.Allow, ", "))
	}
	if d.Challenge != "" {
		h.Set("WWW-Authenticate", d.Challenge)
	}
	if status == http.StatusUnauthorized && h.Get("WWW-Authenticate") == "" {
		h.Set("WWW-Authenticate", "Bearer") // RFC 9110, section 15.5.2: mandatory
	}
	heals := status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable
	switch {
	case d.RetryAfter > 0:
		h.Set("Retry-After", strconv.FormatInt(seconds(d.RetryAfter), 10))
	case heals && h.Get("Retry-After") == "":
		h.Set("Retry-After", "1")
	}
}

func seconds(d time.Duration) int64 {
	return int64((d + time.Second - 1) / time.Second)
}

// Message returns the text that may leave the house, without the name of the
// package that it comes from, and with the time where it says "later" and the
// time is known. The text of an internal error may not leave, whatever it says;
// a kind that is not of the house counts as one.
func Message(err error) string {
	e, ok := errors.AsType[*rampart.Error](err)
	if !ok || e.Kind.String() == rampart.Internal.String() {
		return "internal"
	}
	text := unprefixed(e.Msg)
	if d, ok := errors.AsType[*Details](err); ok && d.RetryAfter > 0 {
		text = strings.Replace(text, "try again later", "try again in "+span(d.RetryAfter), 1)
	}
	return text
}

// unprefixed takes the package's name off a text, as far as packages speak to
// outsiders.
func unprefixed(text string) string {
	name, rest, found := strings.Cut(text, ": ")
	if !found {
		return text
	}
	switch name {
	case "api key", "apikey", "audit", "ca", "control", "egress", "guess", "json", "jwks", "jwt", "message", "mfa", "oidc",
		"passkey", "password", "planelink", "session", "store", "svid", "tls", "token":
		return rest
	}
	return text
}

// span words a time to wait, rounded up, in the greatest unit that fits.
func span(d time.Duration) string {
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if d >= 2*u.size {
			return count((d+u.size-1)/u.size, u.name)
		}
	}
	return count((d+time.Second-1)/time.Second, "second")
}

func count(n time.Duration, name string) string {
	if n == 1 {
		return "1 " + name
	}
	return strconv.FormatInt(int64(n), 10) + " " + name + "s"
}

// code names a status for machines.
func code(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return rampart.Unauthenticated.String()
	case http.StatusForbidden:
		return rampart.Denied.String()
	case http.StatusBadRequest:
		return rampart.Invalid.String()
	case http.StatusNotFound:
		return rampart.NotFound.String()
	case http.StatusConflict:
		return rampart.Conflict.String()
	case http.StatusTooManyRequests:
		return rampart.Limited.String()
	case http.StatusServiceUnavailable:
		return rampart.Unavailable.String()
	case http.StatusInternalServerError:
		return rampart.Internal.String()
	}
	return strings.ToLower(strings.ReplaceAll(http.StatusText(status), " ", "_"))
}
