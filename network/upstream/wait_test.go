package upstream

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// closes counts how often the body of an answer is closed.
type closes struct {
	io.Reader
	n *atomic.Int32
}

func (c closes) Close() error { c.n.Add(1); return nil }

// TestAnswerAsTheTimeEnds: an answer that begins in the instant in which its time is
// over is one of the two, whoever wins: in time, or too late with 504. Never is it a
// connection that broke, which says less to the caller and may be asked again; and what
// came too late is closed, so that nobody is handed it.
func TestAnswerAsTheTimeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := 0
		for range 500 {
			var asked, closed atomic.Int32
			s := New(Options{Name: "shop", Timeout: time.Second, Failures: 50, Least: 1, Open: time.Minute})
			answer := script(func(r *http.Request) (*http.Response, error) {
				asked.Add(1)
				time.Sleep(time.Second)
				return &http.Response{StatusCode: http.StatusOK, Body: closes{strings.NewReader("ok"), &closed}, Request: r}, nil
			})
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://shop/", nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := s.Over(answer, "", true).RoundTrip(r)
			_, open := s.Open()
			if err == nil {
				res.Body.Close()
				if open || asked.Load() != 1 {
					t.Fatalf("in time: asked %d times, the breaker is open: %v", asked.Load(), open)
				}
				continue
			}
			late++
			if rampart.KindOf(err) != rampart.Unavailable || problem.Status(err) != http.StatusGatewayTimeout {
				t.Fatalf("too late: status %d (%v), want 504", problem.Status(err), err)
			}
			if asked.Load() != 1 || closed.Load() != 1 || !open {
				t.Fatalf("too late: asked %d times, closed %d times, counts against the service: %v", asked.Load(), closed.Load(), open)
			}
		}
		if late == 0 {
			t.Error("none came too late: nothing was tested")
		}
	})
}
