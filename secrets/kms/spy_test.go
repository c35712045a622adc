package kms_test

import (
	"bytes"
	"io"
	"net/http"
)

// recorder keeps the body of the last request.
type recorder struct {
	next http.RoundTripper
	body string
}

func (r *recorder) RoundTrip(q *http.Request) (*http.Response, error) {
	b, err := io.ReadAll(q.Body)
	if err != nil {
		return nil, err
	}
	r.body, q.Body = string(b), io.NopCloser(bytes.NewReader(b))
	return r.next.RoundTrip(q)
}
