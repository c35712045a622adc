package vault

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"sync/atomic"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

const (
	maxDEK     = 4096
	maxWrapped = 8192
)

// Transit is a key of a transit engine: a secrets.KEK and secrets.Rewrapper.
// What it wraps is the text that Vault makes of it, vault:vN:BASE64.
type Transit struct {
	c          *Client
	mount, key string
	tried      atomic.Bool  // the key is derived: aad counts
	version    atomic.Int64 // newest seen
}

var (
	_ secrets.KEK       = (*Transit)(nil)
	_ secrets.Rewrapper = (*Transit)(nil)
)

var wrappedForm = regexp.MustCompile(`^vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/]+={0,2}$`)

// KeyID is vault:MOUNT/KEY:vN, where N is the newest version that this process
// has seen wrap; without :vN before the first Wrap, Rewrap or Check.
func (t *Transit) KeyID() string {
	id := "vault:" + t.mount + "/" + t.key
	if v := t.version.Load(); v > 0 {
		id += ":v" + strconv.FormatInt(v, 10)
	}
	return id
}

// Check learns which version of the key wraps now and whether the key minds
// what it is told to bind to: it wraps random bytes and demands that they do not
// open for something else. Wrap and Rewrap do so themselves until it has
// succeeded once; call it to learn of a new version.
func (t *Transit) Check(ctx context.Context) error {
	probe := make([]byte, 32)
	if _, err := rand.Read(probe); err != nil {
		return t.fail(rampart.Internal, err)
	}
	w, err := t.encrypt(ctx, probe, []byte("rampart-probe-a"))
	if err != nil {
		return err
	}
	switch _, err = t.Unwrap(ctx, w, []byte("rampart-probe-b")); {
	case err == nil:
		return t.fail(rampart.Internal, errors.New("the key is not derived, so that nothing could be bound to it: make one with derived=true"))
	case rampart.KindOf(err) != rampart.Internal:
		return err
	}
	// A refusal of every kind would look like this; so the right one must pass.
	if _, err := t.Unwrap(ctx, w, []byte("rampart-probe-a")); err != nil {
		return err
	}
	t.tried.Store(true)
	return nil
}

// Wrap encrypts a key of 1 to 4096 bytes.
func (t *Transit) Wrap(ctx context.Context, dek, aad []byte) ([]byte, error) {
	if len(dek) == 0 || len(dek) > maxDEK {
		return nil, t.fail(rampart.Internal, fmt.Errorf("a key to be wrapped has 1 to %d bytes", maxDEK))
	}
	if !t.tried.Load() {
		if err := t.Check(ctx); err != nil {
			return nil, err
		}
	}
	return t.encrypt(ctx, dek, aad)
}

func (t *Transit) encrypt(ctx context.Context, dek, aad []byte) ([]byte, error) {
	out, err := t.call(ctx, "encrypt", map[string]string{"plaintext": base64.StdEncoding.EncodeToString(dek), "context": bind(aad)})
	if err != nil {
		return nil, err
	}
	return t.wrapped(out.Ciphertext)
}

// wrapped checks what Vault made, and learns its version.
func (t *Transit) wrapped(text string) ([]byte, error) {
	m := wrappedForm.FindStringSubmatch(text)
	if m == nil || len(text) > maxWrapped {
		return nil, t.fail(rampart.Unavailable, errors.New("the reply is not what Vault answers"))
	}
	v, _ := strconv.ParseInt(m[1], 10, 64) // nine digits
	for {
		newest := t.version.Load()
		if v <= newest || t.version.CompareAndSwap(newest, v) {
			return []byte(text), nil
		}
	}
}

// Unwrap opens what any version of the key wrapped that Vault still lets.
func (t *Transit) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if err := t.form(wrapped); err != nil {
		return nil, err
	}
	out, err := t.call(ctx, "decrypt", map[string]string{"ciphertext": string(wrapped), "context": bind(aad)})
	if err != nil {
		return nil, err
	}
	dek, err := base64.StdEncoding.DecodeString(out.Plaintext)
	if err != nil || len(dek) == 0 {
		return nil, t.fail(rampart.Unavailable, errors.New("the reply is not what Vault answers"))
	}
	return dek, nil
}

// Rewrap moves what was wrapped to the newest version. Vault opens it on the
// way, so that another aad than that of Wrap is refused.
func (t *Transit) Rewrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if err := t.form(wrapped); err != nil {
		return nil, err
	}
	if !t.tried.Load() {
		if err := t.Check(ctx); err != nil {
			return nil, err
		}
	}
	out, err := t.call(ctx, "rewrap", map[string]string{"ciphertext": string(wrapped), "context": bind(aad)})
	if err != nil {
		return nil, err
	}
	return t.wrapped(out.Ciphertext)
}

func (t *Transit) form(wrapped []byte) error {
	if len(wrapped) > maxWrapped || !wrappedForm.Match(wrapped) {
		return t.fail(rampart.Internal, errors.New("the wrapped key is not in a known format"))
	}
	return nil
}

// bind is the context of a derived key for what a key is bound to. A hash, as
// a context is not empty and may be logged.
func bind(aad []byte) string {
	sum := sha256.Sum256(aad)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// transited holds what the three verbs answer.
type transited struct {
	Ciphertext string `json:"ciphertext"`
	Plaintext  string `json:"plaintext"`
}

func (t *Transit) call(ctx context.Context, verb string, body map[string]string) (transited, error) {
	var out struct {
		Data transited `json:"data"`
	}
	err := t.c.fetch(ctx, request{method: http.MethodPost, path: t.mount + "/" + verb + "/" + t.key, body: body}, &out)
	switch rampart.KindOf(err) {
	case rampart.Denied, rampart.Unauthenticated, rampart.Limited, rampart.Unavailable:
		// Whoever lets us again, or wakes the server, finds the key as it was.
		return transited{}, t.fail(rampart.Unavailable, err)
	}
	if err != nil {
		return transited{}, t.fail(rampart.Internal, err)
	}
	return out.Data, nil
}

func (t *Transit) fail(kind rampart.Kind, err error) error {
	return &rampart.Error{Kind: kind, Control: control, Msg: "key " + t.mount + "/" + t.key + " of " + t.c.opt.Name + " cannot be used", Err: err}
}
