package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets"
	"github.com/rampart-security/rampart/secrets/embedded"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/tls/svid"
	"github.com/rampart-security/rampart/token"
)

// Names of what the store keeps sealed.
const (
	sealedCA       = "ca"
	sealedInternal = "key:internal"
	sealedEdge     = "key:edge"
	sealedID       = "key:id"
	sealedSession  = "hmac:session"
	sealedAPIKey   = "hmac:apikey"
	sealedToken    = "hmac:token"
	sealedDevice   = "hmac:device"
	sealedGuess    = "hmac:guess"
	sealedPasskey  = "hmac:passkey"
)

// keys holds everything that the KEK opens.
type keys struct {
	kek     secrets.KEK // ring, as whoever wraps knows it
	ring    *keyring
	store   store.Seals
	rings   token.Rings // as they were at the start; tokens.SetRings has those in force
	session []byte      // HMAC keys
	apikey  []byte
	token   []byte
	device  []byte
	guess   []byte
	passkey []byte
	secrets *embedded.Store
}

// openKeys opens the sealed keys of the state folder, making those that are
// missing: all of them at the first start, none later.
func openKeys(ctx context.Context, opt Options, own *svid.Source) (*keys, error) {
	if err := pinDomain(ctx, opt); err != nil {
		return nil, err
	}
	ring, err := openKEK(ctx, opt, own)
	if err != nil {
		return nil, err
	}
	k := &keys{kek: ring, ring: ring, store: opt.Store, secrets: embedded.NewStore(ring, opt.Store)}
	k.secrets.Now = opt.Now
	if k.rings, err = k.openRings(ctx, opt); err != nil {
		return nil, err
	}
	for name, to := range map[string]*[]byte{sealedSession: &k.session, sealedAPIKey: &k.apikey, sealedToken: &k.token, sealedDevice: &k.device, sealedGuess: &k.guess, sealedPasskey: &k.passkey} {
		if *to, err = k.open(ctx, opt, name, randomKey); err != nil {
			return nil, err
		}
	}
	return k, k.generate(ctx, opt)
}

// pinDomain refuses a state folder of another system: its keys would vouch for
// the wrong names.
func pinDomain(ctx context.Context, opt Options) error {
	domain := opt.System.Info.TrustDomain
	pinned, err := opt.Store.PinMeta(ctx, "trust_domain", domain)
	if err == nil && pinned != domain {
		return fmt.Errorf("the state folder belongs to trust domain %s, the file to %s: use another folder", pinned, domain)
	}
	return err
}

// open returns the value sealed under name, or seals what make returns. Making
// a key is an audit event.
func (k *keys) open(ctx context.Context, opt Options, name string, generate func() ([]byte, error)) ([]byte, error) {
	sealed, err := k.store.Sealed(ctx, name)
	if err == nil {
		plain, err := k.kek.Unwrap(ctx, sealed, sealAAD(name))
		if err != nil {
			return nil, fmt.Errorf("%s does not open: is %s the key of this database? %w", name, k.kek.KeyID(), err)
		}
		return plain, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	plain, err := generate()
	if err != nil {
		return nil, err
	}
	if sealed, err = k.kek.Wrap(ctx, plain, sealAAD(name)); err != nil {
		return nil, err
	}
	e := audit.Event{Class: audit.ClassKey, Action: "key.create", Outcome: audit.Allowed, Control: "secret.manager", Resource: "key:" + name}
	if err := opt.Audit.Record(ctx, e); err != nil {
		return nil, err
	}
	err = k.store.PutSealed(ctx, name, sealed)
	if errors.Is(err, store.ErrExists) {
		return k.open(ctx, opt, name, generate) // another control plane was faster
	}
	return plain, err
}

// sealAAD binds a sealed value to its name: moved to another, it does not open.
func sealAAD(name string) []byte { return []byte("rampart-sealed-v1\n" + name) }

func randomKey() ([]byte, error) {
	b := make([]byte, 32)
	_, err := rand.Read(b)
	return b, err
}

// generate fills in the credentials that the file asks to make up, where the
// store has none, and says which others are missing.
func (k *keys) generate(ctx context.Context, opt Options) error {
	for name, d := range opt.System.Data {
		ref, err := secrets.ParseRef(d.Source)
		if err != nil || ref.Backend != spec.EmbeddedBackend {
			continue // what others keep may be away while we start
		}
		_, err = k.secrets.Get(ctx, ref.Path)
		if err == nil {
			continue
		}
		if rampart.KindOf(err) != rampart.NotFound {
			return err
		}
		if d.Generate == "" {
			opt.Logger.LogAttrs(ctx, slog.LevelWarn, "secret is not in the store yet", slog.String("data", name), slog.String("path", ref.Path))
			continue
		}
		if err := k.generateOne(ctx, opt, name, ref.Path, d.Generate); err != nil {
			return err
		}
	}
	return nil
}

func (k *keys) generateOne(ctx context.Context, opt Options, name, path, prefix string) error {
	e := audit.Event{Class: audit.ClassSecret, Action: "secret.generate", Outcome: audit.Allowed, Control: "secret.manager", Resource: "secret:" + name}
	if err := opt.Audit.Record(ctx, e); err != nil {
		return err
	}
	value, err := generated(prefix)
	if err == nil {
		_, err = k.secrets.Put(ctx, path, value, 0)
	}
	return err
}
