package oidc

import (
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"
)

// Bounds of one exchange with a provider.
const (
	maxBody = 256 << 10 // bytes
	maxURL  = 2048      // bytes
	timeout = 10 * time.Second
)

// bounded returns a client that follows no redirect, which could lead
// anywhere, and reads no more than maxBody.
func bounded(rt http.RoundTripper) *http.Client {
	return &http.Client{
		Transport: capped{rt}, Timeout: timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// capped cuts answers off with an error, never silently: half a document can
// be a document.
type capped struct{ next http.RoundTripper }

func (c capped) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &cappedBody{resp.Body, maxBody}
	return resp, nil
}

type cappedBody struct {
	io.ReadCloser
	left int
}

func (b *cappedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if n > b.left {
		return b.left, errTooLarge
	}
	b.left -= n
	return n, err
}

// get returns the body of a JSON document.
func (rp *RelyingParty) get(ctx context.Context, address, bearer string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := rp.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, fmt.Errorf("content type %.60q is not application/json", resp.Header.Get("Content-Type"))
	}
	return io.ReadAll(resp.Body)
}
