package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/internal/wire"
)

// adminClient speaks to the control plane's admin socket.
type adminClient struct{ http *http.Client }

func newAdminClient(socket string) *adminClient {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &adminClient{&http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: dial, Proxy: nil}}}
}

// openAdmin finds the admin socket of a state folder.
func openAdmin(stateDir string) (*adminClient, *statedir.Dir, error) {
	state, err := statedir.Open(stateDir, statedir.Options{})
	if err != nil {
		return nil, nil, &exitError{exitUsage, err}
	}
	socket, err := state.Socket("control")
	if err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(socket); err != nil {
		return nil, nil, usageError("no system runs on %s; start it with: rampart up --state %s", stateDir, stateDir)
	}
	return newAdminClient(socket), state, nil
}

// call makes one call; in or out may be nil.
func (a *adminClient) call(ctx context.Context, method, path string, in, out any) error {
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
	if silent(err) {
		return &exitError{exitFailed, errors.New("the control plane does not answer; a rampart up that runs starts it again: try once more, or start the system with rampart up")}
	}
	if err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		var p struct{ Detail, Title string }
		json.Unmarshal(b, &p)
		return &exitError{exitUsage, &refusal{res.StatusCode, firstText(p.Detail, p.Title, res.Status)}}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// silent reports whether nobody listens on the socket: what was killed leaves it
// there, and what comes back makes it anew. Nothing was asked.
func silent(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}

// refusal is the control plane's no.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return strings.TrimPrefix(r.text, "control: ") }

// isNotFound reports whether the control plane knows no such thing.
func isNotFound(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.status == http.StatusNotFound
}

func firstText(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

func (a *adminClient) status(ctx context.Context) (wire.Status, error) {
	var st wire.Status
	err := a.call(ctx, http.MethodGet, wire.AdminStatus, nil, &st)
	return st, err
}

func (a *adminClient) joinToken(ctx context.Context, identity string) (string, error) {
	var t wire.JoinToken
	// The control plane may be coming back itself: a plane that waits for it
	// here starts sooner than one that fails and backs off.
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := a.call(ctx, http.MethodPost, wire.AdminJoinToken, wire.JoinTokenRequest{Identity: identity}, &t)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return t.Token, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// pollEvery is the pause between two looks at a system that is coming up.
const pollEvery = 100 * time.Millisecond

// wait polls until the control plane answers.
func (a *adminClient) wait(ctx context.Context, log string) error {
	deadline := time.Now().Add(60 * time.Second)
	for {
		_, err := a.status(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the control plane did not come up: %w; the end of %s:\n%s", err, log, lastLines(log, 12))
		}
		time.Sleep(pollEvery)
	}
}

func rootsFile(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return roots, nil
}
