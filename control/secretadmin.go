package control

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/spec"
)

func (p *Plane) adminSecretRoutes() map[string]adminCall {
	return map[string]adminCall{
		"GET " + wire.AdminSecrets:  p.adminListSecrets,
		"POST " + wire.AdminSecrets: p.adminSecret,
	}
}

func (p *Plane) adminListSecrets(r *http.Request, _ *audit.Event) (any, error) {
	return p.listSecrets(r.Context(), secrets.Ref{Backend: spec.EmbeddedBackend})
}

func (p *Plane) listSecrets(ctx context.Context, ref secrets.Ref) ([]wire.SecretMeta, error) {
	w, err := p.writer(ref)
	if err != nil {
		return nil, err
	}
	list, err := w.List(ctx, ref.Path)
	if err != nil {
		return nil, unavailable(err)
	}
	out := make([]wire.SecretMeta, len(list))
	for i, m := range list {
		out[i] = wire.SecretMeta{Path: m.Path, Version: m.Version}
		if !m.Created.IsZero() {
			out[i].Created = m.Created.UTC().Format(time.RFC3339)
		}
	}
	return out, nil
}

// adminSecret is one operation on one secret. What an administrator reads is on
// record as a read of a secret, by whom the kernel says.
func (p *Plane) adminSecret(r *http.Request, e *audit.Event) (any, error) {
	var q wire.SecretOp
	if err := readJSON(r, &q); err != nil {
		return nil, err
	}
	defer clear(q.Value)
	e.Class, e.Control, e.Resource = audit.ClassSecret, secretControl, "secret:"+q.Path[:min(len(q.Path), 256)]
	e.Action = "secret." + q.Op[:min(len(q.Op), 16)]
	if q.Op == "generate" {
		return p.generateAgain(r.Context(), q.Path, e)
	}
	ref, err := adminRef(q)
	if err != nil {
		return nil, err
	}
	e.Detail["backend"] = ref.Backend
	answer, err := p.secretOp(r.Context(), q, ref)
	e.Detail["version"] = strconv.Itoa(max(answer.Version, q.Version))
	return answer, err
}

// adminRef reads what an administrator wrote: a reference, or a path of the
// embedded store. A list may name a backend alone.
func adminRef(q wire.SecretOp) (secrets.Ref, error) {
	rest, ok := strings.CutPrefix(q.Path, "secret://")
	if !ok {
		return secrets.Ref{Backend: spec.EmbeddedBackend, Path: q.Path}, nil
	}
	if q.Op == "list" {
		backend, path, _ := strings.Cut(rest, "/")
		return secrets.Ref{Backend: backend, Path: strings.TrimSuffix(path, "/")}, nil
	}
	return secrets.ParseRef(q.Path)
}

func (p *Plane) secretOp(ctx context.Context, q wire.SecretOp, ref secrets.Ref) (wire.SecretAnswer, error) {
	switch q.Op {
	case "put":
		version, err := p.putSecret(ctx, q, ref)
		return wire.SecretAnswer{Version: version}, err
	case "get":
		return p.getSecret(ctx, ref, q.Version)
	case "list":
		list, err := p.listSecrets(ctx, ref)
		return wire.SecretAnswer{List: list}, err
	case "destroy":
		return wire.SecretAnswer{}, p.destroySecret(ctx, ref, q.Version)
	}
	return wire.SecretAnswer{}, rampart.Errorf(rampart.Invalid, secretControl, "control: op is put, get, list, destroy or generate")
}

// writer is the backend of a reference, if it takes secrets.
func (p *Plane) writer(ref secrets.Ref) (secrets.Writer, error) {
	at, ok := p.backends.places[ref.Backend]
	if !ok {
		return nil, rampart.Errorf(rampart.NotFound, secretControl, "control: no backend %.64q in rampart.yaml", ref.Backend)
	}
	w, ok := at.(secrets.Writer)
	if !ok {
		return nil, rampart.Errorf(rampart.Invalid, secretControl, "control: backend %.64s only reads: whoever fills it changes it", ref.Backend)
	}
	return w, nil
}

func (p *Plane) putSecret(ctx context.Context, q wire.SecretOp, ref secrets.Ref) (int, error) {
	w, err := p.writer(ref)
	if err != nil {
		return 0, err
	}
	if ref.Field != "" {
		return 0, rampart.Errorf(rampart.Invalid, secretControl, "control: one field cannot be written by itself: put the whole secret, without #%.64s", ref.Field)
	}
	after := -1
	if q.After != nil {
		after = *q.After
	}
	version, err := w.Put(ctx, ref.Path, q.Value, after)
	if err != nil {
		return 0, err
	}
	return version, p.secretChanged(ctx, ref)
}

func (p *Plane) destroySecret(ctx context.Context, ref secrets.Ref, version int) error {
	w, err := p.writer(ref)
	if err != nil {
		return err
	}
	if err := w.Destroy(ctx, ref.Path, version); err != nil {
		return err
	}
	return p.secretChanged(ctx, ref)
}

// getSecret reads past the memory: an administrator looks at what is there.
func (p *Plane) getSecret(ctx context.Context, ref secrets.Ref, version int) (wire.SecretAnswer, error) {
	at, ok := p.backends.places[ref.Backend]
	if !ok {
		return wire.SecretAnswer{}, rampart.Errorf(rampart.NotFound, secretControl, "control: no backend %.64q in rampart.yaml", ref.Backend)
	}
	s, err := fetchVersion(ctx, at, ref, version)
	if err != nil {
		return wire.SecretAnswer{}, err
	}
	out := wire.SecretAnswer{Version: s.Version()}
	err = s.Use(func(b []byte) error { out.Value = append(out.Value, b...); return nil })
	return out, err
}

func fetchVersion(ctx context.Context, at secrets.Backend, ref secrets.Ref, version int) (secrets.Secret, error) {
	if version == 0 {
		return at.Fetch(ctx, ref)
	}
	v, ok := at.(secrets.Versions)
	if !ok {
		return secrets.Secret{}, rampart.Errorf(rampart.Invalid, secretControl, "control: backend %.64s has the newest version only", ref.Backend)
	}
	return v.FetchVersion(ctx, ref, version)
}

// secretChanged makes everybody forget a secret, here, at other control planes and
// in planes, so that the next reader gets what is there now.
func (p *Plane) secretChanged(ctx context.Context, ref secrets.Ref) error {
	var names []string
	for name, known := range p.living().grants.known {
		if known.Backend == ref.Backend && known.Path == ref.Path {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	_, err := p.forget(ctx, wire.Forget{Secrets: names})
	return err
}

// generateAgain makes a new value for a credential that the file asks to make up.
func (p *Plane) generateAgain(ctx context.Context, item string, e *audit.Event) (any, error) {
	d, ok := p.system().Data[item]
	if !ok || d.Generate == "" {
		return nil, rampart.Errorf(rampart.Invalid, secretControl, "control: %.100q is no credential with generate in rampart.yaml: only whoever made it can make another", item)
	}
	ref, err := secrets.ParseRef(d.Source)
	if err != nil {
		return nil, err
	}
	value, err := generated(d.Generate)
	if err != nil {
		return nil, err
	}
	defer clear(value)
	version, err := p.putSecret(ctx, wire.SecretOp{Value: value}, ref)
	e.Detail["version"] = strconv.Itoa(version)
	return wire.SecretAnswer{Version: version}, err
}
