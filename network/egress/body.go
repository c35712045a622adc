package egress

import (
	"io"
	"net/http"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// cappedBody fails a read beyond its cap. Unlike a silent cut, that cannot be
// taken for the end of the data.
type cappedBody struct {
	io.ReadCloser
	left int64
}

func (b *cappedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, tooLarge()
	}
	// One byte more than the cap tells "exactly full" from "too much".
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return n - 1, tooLarge()
	}
	return n, err
}

func tooLarge() error {
	return problem.With(rampart.Errorf(rampart.Invalid, controlAllow, "egress: body is too large"),
		problem.Details{Status: http.StatusRequestEntityTooLarge})
}

// closeBody does what RoundTrip owes its caller on every path.
func closeBody(r *http.Request) {
	if r.Body != nil {
		r.Body.Close()
	}
}
