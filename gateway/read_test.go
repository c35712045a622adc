package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"runtime"
	"testing"
	"testing/iotest"
)

// TestReadAll: a body comes whole, however long; one that ends early is none; and what
// is announced holds no memory before it comes.
func TestReadAll(t *testing.T) {
	request := func(announced int64, body io.Reader) *http.Request {
		return &http.Request{ContentLength: announced, Body: io.NopCloser(body)}
	}
	for _, n := range []int{0, 1, firstPiece - 1, firstPiece, firstPiece + 1, 4 * firstPiece, 1 << 20} {
		want := bytes.Repeat([]byte("ab1"), n/3+1)[:n]
		for name, body := range map[string]io.Reader{"at once": bytes.NewReader(want), "in pieces": iotest.HalfReader(bytes.NewReader(want))} {
			if got, err := readAll(request(int64(n), body)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes %s: %d came, %v", n, name, len(got), err)
			}
		}
		if _, err := readAll(request(int64(n)+1, bytes.NewReader(want))); err == nil {
			t.Errorf("%d of %d bytes pass for the whole", n, n+1)
		}
	}
	const announced, times = 1 << 20, 16
	for sent := 0; sent <= 2*firstPiece; sent += firstPiece {
		came := make([]byte, sent)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range times {
			_, _ = readAll(request(announced, io.MultiReader(bytes.NewReader(came), iotest.ErrReader(errors.New("gone")))))
		}
		runtime.ReadMemStats(&after)
		if used, most := int(after.TotalAlloc-before.TotalAlloc)/times, 8*sent+2*firstPiece; used > most {
			t.Errorf("%d bytes for %d that came of %d; want at most %d", used, sent, announced, most)
		}
	}
}
