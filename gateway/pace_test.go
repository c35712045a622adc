package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// hurried has the edge served anew by another pace.
func (h *house) hurried(p pace) {
	h.t.Helper()
	h.stop()
	h.gw = h.again()
	h.gw.pace = p
	h.stop = run(h.t, h.gw.Run)
	h.Until("the edge is up", func() bool { return h.gw.Addr() != "" })
}

// short is a pace under which attacks end while a test waits.
func short() pace {
	const t = 200 * time.Millisecond
	return pace{header: t, idle: t, first: 3 * t, grace: t, rate: 512, ahead: t, whole: time.Minute}
}

// dribble sends a byte now and then until the connection takes no more.
func dribble(w io.Writer, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
		if _, err := io.WriteString(w, "x"); err != nil {
			return
		}
	}
}

// endOf reads what came before the server ended the connection, and fails if it
// does not.
func endOf(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the connection is still open")
	}
	return string(b)
}

// TestSlow: clients that hold on to a connection lose it, in each way in which
// they can be slow.
func TestSlow(t *testing.T) {
	h := open(t)
	h.hurried(short())
	dial := h.dialer("http/1.1")
	connect := func() (io.ReadWriter, <-chan struct{}) {
		c := dial()
		t.Cleanup(func() { c.Close() })
		must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		return c, t.Context().Done()
	}
	t.Run("a head that does not end", func(t *testing.T) {
		c, stop := connect()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ")
		go dribble(c, stop)
		endOf(t, c)
		h.Until("it is on record", func() bool {
			e := h.newest()
			return e.Code == "framing_35" && e.Control == "http.framing" && e.Peer != ""
		})
	})
	t.Run("a body that comes byte by byte", func(t *testing.T) {
		c, stop := connect()
		io.WriteString(c, "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9999\r\n\r\n")
		go dribble(c, stop)
		if got := endOf(t, c); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
			t.Errorf("answered %.40q", got)
		}
		if e := h.newest(); e.Control != "validate.max_body" {
			t.Errorf("on record: %s", e.Control)
		}
	})
	t.Run("a body of a refused request", func(t *testing.T) {
		c, stop := connect()
		io.WriteString(c, "POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n")
		go dribble(c, stop)
		if got := endOf(t, c); !strings.HasPrefix(got, "HTTP/1.1 404 ") {
			t.Errorf("answered %.40q", got)
		}
	})
	t.Run("a body over HTTP/2", func(t *testing.T) {
		r, w := io.Pipe()
		defer r.Close()
		go dribble(w, t.Context().Done())
		req, err := http.NewRequest("POST", "https://"+h.gw.Addr()+"/login", r)
		must(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		res, err := h.client.Do(req)
		must(t, err)
		res.Body.Close()
		if res.ProtoMajor != 2 || res.StatusCode != 400 {
			t.Errorf("%s over %s", res.Status, res.Proto)
		}
	})
	t.Run("nothing after an answer", func(t *testing.T) {
		c, _ := connect()
		io.WriteString(c, "GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
		endOf(t, c)
	})
	t.Run("nothing at all over HTTP/2", func(t *testing.T) {
		c := h.dialer("h2")()
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		endOf(t, c)
	})
}

// TestSlowReader: an answer that nobody takes breaks off, whatever the protocol.
// One that is taken slowly, but steadily, comes whole.
func TestSlowReader(t *testing.T) {
	h := open(t)
	good := h.token("ann", "app")
	p := short()
	p.ahead = time.Second
	h.hurried(p)
	const size = 48 << 20
	ended := make(chan error, 1)
	h.serve(func(w http.ResponseWriter, _ *http.Request) {
		_, err := io.CopyN(w, zero{}, size)
		ended <- err
	})
	cut := func(name string) {
		t.Helper()
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%s: the whole answer was taken", name)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s: the answer still waits for its reader", name)
		}
	}
	get := "GET /stock/mugs HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + good + "\r\n\r\n"
	c := h.dialer("http/1.1")()
	defer c.Close()
	io.WriteString(c, get)
	cut("HTTP/1")

	req, err := http.NewRequest("GET", "https://"+h.gw.Addr()+"/stock/mugs", nil)
	must(t, err)
	req.Header.Set("Authorization", good)
	res, err := h.client.Do(req)
	must(t, err)
	defer res.Body.Close()
	cut("HTTP/2")

	drop := h.dialer("http/1.1")()
	defer drop.Close()
	io.WriteString(drop, get)
	go func() { // takes something all the time, and far too little
		for one := make([]byte, 1); ; time.Sleep(5 * time.Millisecond) {
			if _, err := drop.Read(one); err != nil {
				return
			}
		}
	}()
	cut("byte by byte")

	steady := h.dialer("http/1.1")()
	defer steady.Close()
	must(t, steady.SetDeadline(time.Now().Add(30*time.Second)))
	io.WriteString(steady, get)
	answer, err := http.ReadResponse(bufio.NewReader(&slowly{r: steady}), nil)
	must(t, err)
	if n, err := io.Copy(io.Discard, answer.Body); err != nil || n != size {
		t.Errorf("a steady reader got %d bytes: %v", n, err)
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// slowly takes about 40 MiB a second.
type slowly struct {
	r io.Reader
	n int
}

func (s *slowly) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.n += n; s.n > 1<<19 {
		s.n = 0
		time.Sleep(12 * time.Millisecond)
	}
	return n, err
}

// deadlines is a writer that remembers what it is told.
type deadlines struct {
	http.ResponseWriter
	read, write time.Time
	moved       int
}

func (d *deadlines) SetReadDeadline(t time.Time) error  { d.read = t; d.moved++; return nil }
func (d *deadlines) SetWriteDeadline(t time.Time) error { d.write = t; d.moved++; return nil }

// TestDeadlines: when a body must have come by, by what has come.
func TestDeadlines(t *testing.T) {
	p := pace{grace: 5 * time.Second, rate: 512, ahead: 20 * time.Second, whole: 10 * time.Minute}
	start := time.Unix(1e9, 0)
	for name, tc := range map[string]struct {
		after time.Duration // since reading began
		n     int64         // bytes so far
		want  time.Duration // since reading began
	}{
		"nothing yet":                 {0, 0, 5 * time.Second},
		"as much as must be":          {10 * time.Second, 5120, 15 * time.Second},
		"fast, then a pause":          {time.Second, 1 << 20, 26 * time.Second},
		"steady to the end":           {590 * time.Second, 1 << 20, 600 * time.Second},
		"never longer than the whole": {599 * time.Second, 1 << 40, 600 * time.Second},
		"more than a number can hold": {time.Second, 1 << 62, 26 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			d := &deadlines{}
			b := &pacedBody{pace: p, control: http.NewResponseController(d), began: start, n: tc.n}
			b.arm(start.Add(tc.after))
			if got := d.read.Sub(start); got != tc.want {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
	d := &deadlines{}
	b := &pacedBody{pace: p, control: http.NewResponseController(d)}
	for i := range 1000 { // 32 KiB each, in 10 s
		b.n = int64(i) << 15
		b.arm(start.Add(time.Duration(i) * 10 * time.Millisecond))
	}
	if d.moved > 10 {
		t.Errorf("a fast body moved its deadline %d times", d.moved)
	}
}

// TestAnswerDeadlines: an answer moves its deadline as it is taken, up to a bound
// unless it is a stream.
func TestAnswerDeadlines(t *testing.T) {
	p := pace{ahead: 20 * time.Second, whole: time.Minute}
	start := time.Unix(1e9, 0)
	for _, endless := range []bool{false, true} {
		d := &deadlines{}
		a := &pacedAnswer{pace: p, control: http.NewResponseController(d)}
		if endless {
			a.unending()
		}
		got := ""
		for _, s := range []int{0, 1, 30, 50, 59} {
			a.arm(start.Add(time.Duration(s) * time.Second))
			got += fmt.Sprint(" ", d.write.Sub(start))
		}
		want := " 20s 20s 50s 1m0s 1m0s"
		if endless {
			want = " 20s 20s 50s 1m10s 1m19s"
		}
		if got != want {
			t.Errorf("endless %v:%s, want%s", endless, got, want)
		}
	}
}
