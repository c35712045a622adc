package framing

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// telling is a connection that notes what deadlines it is told.
type telling struct {
	endless
	read, write []time.Time
}

func (t *telling) SetReadDeadline(at time.Time) error {
	t.read = append(t.read, at)
	return nil
}

func (t *telling) SetWriteDeadline(at time.Time) error {
	t.write = append(t.write, at)
	return nil
}

// TestDeadlinesAreToldToWhoWaits: of those that are set between two reads, or two
// writes, the connection hears of the last.
func TestDeadlinesAreToldToWhoWaits(t *testing.T) {
	below := &telling{endless: endless{text: "GET /a HTTP/1.1\r\nHost: a\r\n\r\n"}}
	c := NewListener(closed{}, Options{}).guard(below)
	for n := range 3 {
		for i := range 5 {
			must(t, c.SetReadDeadline(time.Unix(int64(100*n+i), 0)))
			must(t, c.SetWriteDeadline(time.Unix(int64(100*n+50+i), 0)))
		}
		if len(below.read) != n || len(below.write) != n {
			t.Fatalf("before round %d: told %v and %v", n, below.read, below.write)
		}
		_, err := c.Read(make([]byte, 8))
		must(t, err)
		_, err = c.Write([]byte("HTTP/1.1 200 OK\r\n"))
		must(t, err)
		if r, w := below.read[n], below.write[n]; r != time.Unix(int64(100*n+4), 0) || w != time.Unix(int64(100*n+54), 0) {
			t.Fatalf("round %d: told %v and %v", n, r, w)
		}
	}
	must(t, c.SetDeadline(time.Time{}))
	_, err := c.Read(make([]byte, 8))
	must(t, err)
	_, err = c.Write([]byte("x"))
	must(t, err)
	if len(below.read) != 4 || !below.read[3].IsZero() || len(below.write) != 4 || !below.write[3].IsZero() {
		t.Errorf("both at once: told %v and %v", below.read, below.write)
	}
}

// TestDeadlineEndsAWait: net/http ends a read that waits by a deadline in the past, and
// one that begins after it.
func TestDeadlineEndsAWait(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	c := NewListener(closed{}, Options{}).guard(near)
	for name, wait := range map[string]func(p []byte) (int, error){"a read": c.Read, "a write": c.Write} {
		must(t, c.SetDeadline(time.Time{}))
		began, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			close(began)
			_, err := wait(make([]byte, 1))
			ended <- err
		}()
		<-began
		must(t, c.SetDeadline(time.Unix(1, 0)))
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s that waits: %v", name, err)
		}
		if _, err := wait(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s that begins: %v", name, err)
		}
	}
}

// unbounded is a connection that takes no deadline.
type unbounded struct{ endless }

func (*unbounded) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// TestDeadlineThatIsRefused: nobody waits without the deadline that was set.
func TestDeadlineThatIsRefused(t *testing.T) {
	c := NewListener(closed{}, Options{}).guard(&unbounded{endless{text: "GET /a HTTP/1.1\r\n"}})
	must(t, c.SetReadDeadline(time.Unix(1, 0)))
	for range 2 {
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrNoDeadline) {
			t.Errorf("read %d bytes, %v", n, err)
		}
	}
}
