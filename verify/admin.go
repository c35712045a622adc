package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// adminClient speaks to the admin socket: it makes the probes' identities and
// nothing else.
type adminClient struct{ http *http.Client }

func newAdmin(socket string) adminClient {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return adminClient{&http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: dial}}}
}

func (a adminClient) close() { a.http.CloseIdleConnections() }

// call sends in as JSON and reads the answer into out; nil leaves either out.
func (a adminClient) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://control"+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("admin socket: %s %s: %s %.200s", method, path, res.Status, b)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

func (a adminClient) status(ctx context.Context) (wire.Status, error) {
	var st wire.Status
	err := a.call(ctx, http.MethodGet, wire.AdminStatus, nil, &st)
	return st, err
}

func (a adminClient) user(ctx context.Context, u wire.User) error {
	u.Tag = "verify"
	return a.call(ctx, http.MethodPost, wire.AdminUsers, u, nil)
}

func (a adminClient) client(ctx context.Context, c wire.Client) error {
	c.Tag = "verify"
	return a.call(ctx, http.MethodPost, wire.AdminClients, c, nil)
}

func (a adminClient) apiKey(ctx context.Context, client string) (wire.APIKey, error) {
	var k wire.APIKey
	err := a.call(ctx, http.MethodPost, wire.AdminAPIKeys, wire.APIKeyRequest{Client: client}, &k)
	return k, err
}

func (a adminClient) joinToken(ctx context.Context, identity string) (string, error) {
	var j wire.JoinToken
	err := a.call(ctx, http.MethodPost, wire.AdminJoinToken, wire.JoinTokenRequest{Identity: identity}, &j)
	return j.Token, err
}

// remove deletes the account ("sub") or client that a revocation names.
func (a adminClient) remove(ctx context.Context, r wire.Revocation) error {
	path := wire.AdminClients + "/" + url.PathEscape(r.ID)
	if name, ok := strings.CutPrefix(r.ID, "user:"); ok && r.Kind == "sub" {
		path = wire.AdminUsers + "/" + url.PathEscape(name)
	}
	return a.call(ctx, http.MethodDelete, path, nil, nil)
}

func (a adminClient) revoke(ctx context.Context, r wire.Revocation) error {
	return a.call(ctx, http.MethodPost, wire.AdminRevoke, r, nil)
}
