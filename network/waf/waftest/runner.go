package waftest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart/network/waf"
)

// Inspect judges one request. The runner's server asks it; nil inspects
// nothing.
type Inspect func(*waf.Request) (waf.Verdict, error)

// Runner sends tests to a server of its own. It is not safe for concurrent
// use: take one for each goroutine.
type Runner struct {
	srv     *httptest.Server
	inspect Inspect
	asked   bool // since the last request was sent
	verdict waf.Verdict
	err     error
}

// NewRunner starts a server. Close it.
func NewRunner(inspect Inspect) *Runner {
	r := &Runner{inspect: inspect}
	r.srv = httptest.NewServer(r)
	return r
}

// Close stops the server.
func (r *Runner) Close() { r.srv.Close() }

// ServeHTTP inspects and answers 200. What would be refused is answered all the
// same: a test asks for rules, not for a status of ours.
func (r *Runner) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.asked = true
	if r.inspect != nil {
		r.verdict, r.err = r.inspect(Request(req, body))
	}
}

// Request is a request as the stage hands it over, for a server that knows
// nothing of its operations.
func Request(req *http.Request, body []byte) *waf.Request {
	out := &waf.Request{
		Client: netip.MustParseAddr("127.0.0.1"), Method: req.Method, Target: req.RequestURI, Proto: req.Proto, Host: req.Host,
		Header: req.Header, Body: body, BodyKind: kind(req.Header.Get("Content-Type"), body),
	}
	if te := req.TransferEncoding; len(te) > 0 {
		out.Header["Transfer-Encoding"] = te
	}
	return out
}

func kind(mediaType string, body []byte) waf.BodyKind {
	lower := strings.ToLower(mediaType)
	switch {
	case len(body) == 0:
		return waf.NoBody
	case strings.HasPrefix(lower, "application/json"):
		return waf.JSONBody
	case strings.HasPrefix(lower, "application/x-www-form-urlencoded"):
		return waf.FormBody
	case strings.HasPrefix(lower, "multipart/"):
		return waf.MultipartBody
	}
	return waf.OpaqueBody
}

// Run sends the requests of t, each on a connection of its own. The error says
// what differs from what t wants.
func (r *Runner) Run(t Test) error {
	for i, s := range t.Stages {
		if err := r.stage(s); err != nil {
			return fmt.Errorf("%s: stage %d: %w", t.ID, i+1, err)
		}
	}
	return nil
}

func (r *Runner) stage(s Stage) error {
	raw, err := s.Input.Raw()
	if err != nil {
		return err
	}
	r.asked, r.verdict, r.err = false, waf.Verdict{}, nil
	status, err := r.send(raw)
	if s.Output.Error {
		return nil
	}
	if err := errors.Join(err, r.err); err != nil {
		return err
	}
	if !r.asked && status >= http.StatusBadRequest && s.Output.Status == 0 {
		return ErrNotServed
	}
	return r.compare(s.Output, status)
}

// ErrNotServed is a request that net/http refused, so that no rule saw it: a
// test that wants a certain rule is not content, and one that forbids a rule
// has shown nothing.
var ErrNotServed = errors.New("net/http refused the request before any rule saw it")

// send writes raw, and reads the status of the answer.
func (r *Runner) send(raw []byte) (int, error) {
	conn, err := net.DialTimeout("tcp", r.srv.Listener.Addr().String(), 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return 0, err
	}
	if _, err := conn.Write(raw); err != nil {
		return 0, err
	}
	_ = conn.(*net.TCPConn).CloseWrite() // a body that is shorter than announced ends here
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

func (r *Runner) compare(want Output, status int) error {
	refused := status >= http.StatusBadRequest || r.verdict.Refuse
	if want.Status >= http.StatusBadRequest && !refused || want.Status == http.StatusOK && status != want.Status {
		return fmt.Errorf("status %d, refused by the rules: %t, want %d", status, r.verdict.Refuse, want.Status)
	}
	got := ids(r.verdict)
	for _, id := range want.Log.Expect {
		if !slices.Contains(got, id) {
			return fmt.Errorf("rules %v matched, want %d", got, id)
		}
	}
	for _, id := range want.Log.Forbid {
		if slices.Contains(got, id) {
			return fmt.Errorf("rules %v matched, want no %d", got, id)
		}
	}
	return r.regex(want)
}

// blocking is the rule that compares the score with the threshold, which in our
// engine is the verdict itself. The tests are written for a threshold of 5.
const blocking, threshold = 949110, 5

// unreadable is the rule that matches when a multipart body cannot be read,
// which other engines log in words of their own.
const unreadable = 200003

func ids(v waf.Verdict) []int {
	var out []int
	for _, f := range v.Findings {
		out = append(out, f.Rule)
	}
	if v.Score >= threshold {
		out = append(out, blocking)
	}
	return out
}

// regex matches against the log that other engines would have written, without
// the values, which ours does not keep.
func (r *Runner) regex(want Output) error {
	var log bytes.Buffer
	for _, f := range r.verdict.Findings {
		if f.Rule == unreadable {
			log.WriteString("Multipart parsing error: Multipart: Invalid part header (contains invalid character)\n")
		}
		fmt.Fprintf(&log, "[id \"%d\"] [msg \"%s\"]", f.Rule, f.Message)
		for v := range strings.FieldsSeq(f.Variable) {
			fmt.Fprintf(&log, " found within %s: ", v)
		}
		log.WriteByte('\n')
	}
	if r.verdict.Score >= threshold {
		fmt.Fprintf(&log, "[id \"%d\"] [msg \"Inbound Anomaly Score Exceeded (Total Score: %d)\"]\n", blocking, r.verdict.Score)
	}
	if m := want.Log.Match; m != "" && !regexp.MustCompile(m).Match(log.Bytes()) {
		return fmt.Errorf("no line of the log matches %q", m)
	}
	if m := want.Log.NoMatch; m != "" && regexp.MustCompile(m).Match(log.Bytes()) {
		return fmt.Errorf("a line of the log matches %q", m)
	}
	return nil
}
