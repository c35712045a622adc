package sidecar

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/internal/trace"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/validate/strictjson"
)

const (
	maxAttributes  = 64 << 10 // bytes of one answer
	maxRemembered  = 10_000   // answers of one provider
	maxAskedAtOnce = 64       // questions to one provider in flight
)

// provider asks a service of the system for attributes, as this service itself:
// whose they are, the caller's rights must not decide.
type provider struct {
	s       *Sidecar
	t       *table
	flow    spec.Flow
	path    string
	timeout time.Duration
	keep    time.Duration // 0: each is asked for
	slots   chan struct{}

	mu    sync.Mutex // guards below
	known map[string]remembered
}

type remembered struct {
	attrs   map[string]any
	expires time.Time
}

var _ authz.Provider = (*provider)(nil)

// providers makes those that the file declares and a flow leads to.
func (s *Sidecar) providers(t *table) map[string]authz.Provider {
	out := map[string]authz.Provider{}
	for name, p := range t.sys.Authz.Providers {
		flow, ok := t.internal[p.Service]
		if !ok {
			continue // of another service's policies
		}
		out[name] = &provider{s: s, t: t, flow: flow, path: strings.TrimSuffix(p.Path, "/"), timeout: time.Duration(p.Timeout), keep: time.Duration(p.Cache),
			slots: make(chan struct{}, maxAskedAtOnce), known: map[string]remembered{}}
	}
	return out
}

// Attributes implements authz.Provider. What fails is not remembered.
func (p *provider) Attributes(ctx context.Context, resourceType, id string, names []string) (map[string]any, error) {
	all, err := p.of(ctx, resourceType, id)
	if err != nil {
		return nil, fmt.Errorf("sidecar: attributes of %s from %s: %w", resourceType, p.flow.To, err)
	}
	out := map[string]any{}
	for _, name := range names {
		if v, ok := all[name]; ok && v != nil {
			out[name] = v
		}
	}
	return out, nil
}

func (p *provider) of(ctx context.Context, resourceType, id string) (map[string]any, error) {
	if id == "" || id == "." || id == ".." {
		return nil, fmt.Errorf("%q names nothing", id)
	}
	key := resourceType + "/" + id
	if attrs, ok := p.remember(key); ok {
		return attrs, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	attrs, err := p.ask(ctx, "/"+url.PathEscape(resourceType)+"/"+url.PathEscape(id))
	if err == nil && p.keep > 0 {
		p.learn(key, attrs)
	}
	return attrs, err
}

func (p *provider) remember(key string) (map[string]any, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.known[key]
	return r.attrs, ok && p.s.opt.Now().Before(r.expires)
}

// learn keeps an answer; a full memory forgets everything.
func (p *provider) learn(key string, attrs map[string]any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= maxRemembered {
		clear(p.known)
	}
	p.known[key] = remembered{attrs, p.s.opt.Now().Add(p.keep)}
}

// ask calls GET path/type/id over the sidecar's own way out.
func (p *provider) ask(ctx context.Context, below string) (map[string]any, error) {
	if err := p.s.mayLeave(p.t, p.flow); err != nil {
		return nil, err
	}
	gen := p.s.opt.Link.Now()
	rt, addr, err := gen.Service(p.flow.To)
	if err != nil {
		return nil, err
	}
	token, err := gen.Token(ctx, wire.TypeSVIDOnly, "", p.t.sys.ServiceID(p.flow.To))
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+p.path+below, nil)
	if err != nil {
		return nil, err
	}
	req.Host = p.flow.To
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set(trace.Header, trace.Parent(rampart.TraceFrom(ctx)))
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return attributesOf(resp)
}

func attributesOf(resp *http.Response) (map[string]any, error) {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAttributes+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	case len(b) > maxAttributes:
		return nil, fmt.Errorf("more than %d bytes", maxAttributes)
	}
	v, err := strictjson.Decode(b)
	if err != nil {
		return nil, err
	}
	attrs, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("the answer is no JSON object")
	}
	return numbers(attrs), nil
}

// aboutAttributes reports whether a path is where this service answers as a
// provider: PATH/{type}/{id}.
func (t *table) aboutAttributes(path string) bool {
	for _, p := range t.sys.Authz.Providers {
		below, ok := strings.CutPrefix(path, strings.TrimSuffix(p.Path, "/")+"/")
		if p.Service == t.name && ok && strings.Count(below, "/") == 1 {
			return true
		}
	}
	return false
}

// attributeQuestion lets in who may ask a provider: a service of the system, by
// a declared flow, as itself, for its policies. Whoever acts for somebody may
// not: attributes are what policies decide by, and are nobody's to read.
func (s *Sidecar) attributeQuestion(a *arrival) error {
	itself := a.principal.Kind == rampart.KindService && a.principal.Subject == a.caller
	if a.r.Method != http.MethodGet || !itself && !a.table.sys.Off("authz.service") {
		return rampart.Errorf(rampart.Denied, "authz.service", "attributes are for the policies of services")
	}
	return nil
}
