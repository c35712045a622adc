package passkey

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	virtual "github.com/descope/virtualwebauthn"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/mfa"
	"github.com/rampart-security/rampart/secrets/embedded"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/sqlite"
)

const issuer = "https://pay.example:8443/"

func rp() virtual.RelyingParty {
	return virtual.RelyingParty{ID: "pay.example", Name: "pay", Origin: "https://pay.example:8443"}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a relying party and a person with one device.
type world struct {
	t     testing.TB
	m     *Manager
	ahead atomic.Int64
	auth  virtual.Authenticator
	cred  virtual.Credential
}

func open(t testing.TB) *world {
	t.Helper()
	dir := t.TempDir()
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "db"))
	must(t, err)
	t.Cleanup(func() { db.Close() })
	for _, name := range []string{"ann", "bob", "eve"} {
		must(t, db.CreateUser(t.Context(), store.User{Name: name, Changed: time.Unix(1, 0)}))
	}
	kek, err := embedded.OpenKEK(filepath.Join(dir, "kek"))
	must(t, err)
	w := &world{t: t, auth: virtual.NewAuthenticator(), cred: newCredential()}
	w.m, err = New(Options{
		Issuer: issuer, System: "pay", Key: make([]byte, 32), Store: db, Tickets: db, Sealer: kek,
		Now: func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) },
	})
	must(t, err)
	w.auth.Options.UserHandle = w.m.handle(ann().Subject)
	return w
}

// newCredential returns a key whose coordinates have all their bytes: the
// virtual device drops leading zeros, which no real one does.
func newCredential() virtual.Credential {
	for {
		c := virtual.NewCredential(virtual.KeyTypeEC2)
		if key, err := x509.ParsePKCS8PrivateKey(c.Key.Data); err == nil {
			if ec, ok := key.(*ecdsa.PrivateKey); ok && ec.X.BitLen() > 248 && ec.Y.BitLen() > 248 {
				return c
			}
		}
	}
}

func ann() Person { return Person{Subject: "user:ann", Name: "ann"} }
func bob() Person { return Person{Subject: "user:bob", Name: "bob"} }

// create answers a registration as the device does.
func (w *world) create(p Person, at virtual.RelyingParty) string {
	w.t.Helper()
	options, err := w.m.BeginRegistration(w.t.Context(), p, "sid")
	must(w.t, err)
	parsed, err := virtual.ParseAttestationOptions(string(options))
	must(w.t, err)
	return virtual.CreateAttestationResponse(at, w.auth, w.cred, *parsed)
}

func (w *world) register() mfa.Factor {
	w.t.Helper()
	f, err := w.m.FinishRegistration(w.t.Context(), ann(), "sid", " my\tphone ", []byte(w.create(ann(), rp())))
	must(w.t, err)
	return f
}

// ask begins a login; get answers one as the device does.
func (w *world) ask(subject string) virtual.AssertionOptions {
	w.t.Helper()
	options, err := w.m.BeginLogin(w.t.Context(), subject, "login")
	must(w.t, err)
	parsed, err := virtual.ParseAssertionOptions(string(options))
	must(w.t, err)
	return *parsed
}

func (w *world) get(q virtual.AssertionOptions) string {
	return virtual.CreateAssertionResponse(rp(), w.auth, w.cred, q)
}

func (w *world) finish(subject, answer string) (Assertion, error) {
	return w.m.FinishLogin(w.t.Context(), subject, "login", []byte(answer))
}

func TestRegisterAndLogIn(t *testing.T) {
	w := open(t)
	f := w.register()
	if f.Subject != "user:ann" || f.Kind != mfa.KindPasskey || f.Label != "my phone" || f.Credential != sha256.Sum256(w.cred.ID) {
		t.Errorf("registered as %+v", f)
	}
	for i, subject := range []string{"", "user:ann"} {
		w.cred.Counter = uint32(i + 1)
		a, err := w.finish(subject, w.get(w.ask(subject)))
		if want := (Assertion{Subject: "user:ann", Factor: f.ID}); err != nil || a != want {
			t.Errorf("login for %q: %+v, %v", subject, a, err)
		}
	}
	must(t, w.m.Rename(t.Context(), "user:ann", f.ID, "<key>"))
	got, err := w.m.opt.Store.Factor(t.Context(), f.ID)
	must(t, err)
	if got.Label != "<key>" || got.LastUsed.IsZero() {
		t.Errorf("afterwards it is %+v", got)
	}
	if strings.Contains(string(got.Data), "public_key") {
		t.Error("the record is not sealed")
	}
	if err := w.m.Rename(t.Context(), "user:bob", f.ID, "mine"); rampart.KindOf(err) != rampart.NotFound {
		t.Errorf("bob renames it: %v", err)
	}
}

// TestLoginRefuses: each row is one thing that is not as it should be.
func TestLoginRefuses(t *testing.T) {
	other := func(change func(*virtual.RelyingParty)) virtual.RelyingParty {
		r := rp()
		change(&r)
		return r
	}
	for name, answer := range map[string]func(w *world) (Assertion, error){
		"another origin": func(w *world) (Assertion, error) {
			at := other(func(r *virtual.RelyingParty) { r.Origin = "https://pay.example.evil.example" })
			return w.finish("", virtual.CreateAssertionResponse(at, w.auth, w.cred, w.ask("")))
		},
		"another port": func(w *world) (Assertion, error) {
			at := other(func(r *virtual.RelyingParty) { r.Origin = "https://pay.example" })
			return w.finish("", virtual.CreateAssertionResponse(at, w.auth, w.cred, w.ask("")))
		},
		"plain HTTP": func(w *world) (Assertion, error) {
			at := other(func(r *virtual.RelyingParty) { r.Origin = "http://pay.example:8443" })
			return w.finish("", virtual.CreateAssertionResponse(at, w.auth, w.cred, w.ask("")))
		},
		"another relying party": func(w *world) (Assertion, error) {
			at := other(func(r *virtual.RelyingParty) { r.ID = "evil.example" })
			return w.finish("", virtual.CreateAssertionResponse(at, w.auth, w.cred, w.ask("")))
		},
		"a challenge of nobody": func(w *world) (Assertion, error) {
			q := w.ask("")
			q.Challenge = make([]byte, 32)
			return w.finish("", w.get(q))
		},
		"an answer shown again": func(w *world) (Assertion, error) {
			text := w.get(w.ask(""))
			if _, err := w.finish("", text); err != nil {
				return Assertion{}, nil // shows as an acceptance
			}
			return w.finish("", text)
		},
		"an answer after five minutes": func(w *world) (Assertion, error) {
			q := w.ask("")
			w.ahead.Add(int64(ceremonyFor))
			return w.finish("", w.get(q))
		},
		"the challenge of another login": func(w *world) (Assertion, error) {
			q := w.ask("")
			return w.m.FinishLogin(w.t.Context(), "", "another", []byte(w.get(q)))
		},
		"the challenge of a registration": func(w *world) (Assertion, error) {
			options, err := w.m.BeginRegistration(w.t.Context(), ann(), "login")
			must(w.t, err)
			q, err := virtual.ParseAssertionOptions(string(options))
			must(w.t, err)
			return w.finish("user:ann", w.get(*q))
		},
		"another person's second step": func(w *world) (Assertion, error) {
			key := w.cred
			w.cred = newCredential() // bob has one of his own
			must(w.t, w.finishRegistration(bob(), "sid", w.create(bob(), rp())))
			w.cred = key
			return w.finish("user:bob", w.get(w.ask("user:bob")))
		},
		"another person's user handle": func(w *world) (Assertion, error) {
			w.auth.Options.UserHandle = w.m.handle("user:bob")
			return w.finish("", w.get(w.ask("")))
		},
		"a passkey that nobody registered": func(w *world) (Assertion, error) {
			w.cred = newCredential()
			return w.finish("", w.get(w.ask("")))
		},
		"its id with another key": func(w *world) (Assertion, error) {
			id := w.cred.ID
			w.cred = newCredential()
			w.cred.ID = id
			return w.finish("", w.get(w.ask("")))
		},
		"no user verification": func(w *world) (Assertion, error) {
			w.auth.Options.UserNotVerified = true
			return w.finish("", w.get(w.ask("")))
		},
		"nobody present": func(w *world) (Assertion, error) {
			w.auth.Options.UserNotPresent = true
			return w.finish("", w.get(w.ask("")))
		},
		"backed up and not eligible": func(w *world) (Assertion, error) {
			w.auth.Options.BackupState = true
			return w.finish("", w.get(w.ask("")))
		},
		"a removed passkey": func(w *world) (Assertion, error) {
			text := w.get(w.ask(""))
			f, err := w.m.opt.Store.FactorByCredential(w.t.Context(), sha256.Sum256(w.cred.ID))
			must(w.t, err)
			_, err = w.m.opt.Store.DeleteFactor(w.t.Context(), f.Subject, f.ID)
			must(w.t, err)
			return w.finish("", text)
		},
		"too much": func(w *world) (Assertion, error) {
			return w.finish("", strings.Repeat(" ", MaxResponse)+w.get(w.ask("")))
		},
		"no JSON":    func(w *world) (Assertion, error) { return w.finish("", "{") },
		"no content": func(w *world) (Assertion, error) { return w.finish("", "{}") },
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			w.register()
			if a, err := answer(w); rampart.KindOf(err) != rampart.Unauthenticated || a != (Assertion{}) {
				t.Errorf("got %+v, %v", a, err)
			}
		})
	}
}

func TestRegistrationRefuses(t *testing.T) {
	for name, answer := range map[string]func(w *world) error{
		"another origin": func(w *world) error {
			at := rp()
			at.Origin = "https://evil.example"
			return w.finishRegistration(ann(), "sid", w.create(ann(), at))
		},
		"another relying party": func(w *world) error {
			at := rp()
			at.ID = "evil.example"
			return w.finishRegistration(ann(), "sid", w.create(ann(), at))
		},
		"another session":   func(w *world) error { return w.finishRegistration(ann(), "other", w.create(ann(), rp())) },
		"another person":    func(w *world) error { return w.finishRegistration(bob(), "sid", w.create(ann(), rp())) },
		"an answer to none": func(w *world) error { return w.finishRegistration(ann(), "sid", "{}") },
		"no user verification": func(w *world) error {
			w.auth.Options.UserNotVerified = true
			return w.finishRegistration(ann(), "sid", w.create(ann(), rp()))
		},
		"an answer shown again": func(w *world) error {
			text := w.create(ann(), rp())
			if err := w.finishRegistration(ann(), "sid", text); err != nil {
				return nil // shows as an acceptance
			}
			return w.finishRegistration(ann(), "sid", text)
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := answer(open(t)); rampart.KindOf(err) != rampart.Unauthenticated || err == nil {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("registered already", func(t *testing.T) {
		w := open(t)
		w.register()
		if err := w.finishRegistration(bob(), "sid", w.create(bob(), rp())); rampart.KindOf(err) != rampart.Conflict {
			t.Errorf("got %v", err)
		}
	})
}

func (w *world) finishRegistration(p Person, binding, answer string) error {
	_, err := w.m.FinishRegistration(w.t.Context(), p, binding, "", []byte(answer))
	return err
}

// TestBackupEligibleOnce: a passkey may become eligible for backup once, and
// never stop to be.
func TestBackupEligibleOnce(t *testing.T) {
	w := open(t)
	w.register()
	login := func() (Assertion, error) { return w.finish("", w.get(w.ask(""))) }
	w.auth.Options.BackupEligible, w.auth.Options.BackupState = true, true
	if a, err := login(); err != nil || !a.Migrated {
		t.Fatalf("made eligible: %+v, %v", a, err)
	}
	if a, err := login(); err != nil || a.Migrated {
		t.Errorf("still eligible: %+v, %v", a, err)
	}
	w.auth.Options.BackupEligible, w.auth.Options.BackupState = false, false
	if _, err := login(); rampart.KindOf(err) != rampart.Unauthenticated {
		t.Errorf("not eligible any more: %v", err)
	}
}

// TestCounterRegression: two of one passkey are told, and nobody is locked out.
func TestCounterRegression(t *testing.T) {
	w := open(t)
	w.register()
	for _, step := range []struct {
		counter   uint32
		regressed bool
	}{{5, false}, {6, false}, {4, true}, {6, true}, {7, false}} {
		w.cred.Counter = step.counter
		if a, err := w.finish("", w.get(w.ask(""))); err != nil || a.Regressed != step.regressed {
			t.Errorf("counter %d: %+v, %v", step.counter, a, err)
		}
	}
}

// TestAnswerIsGoodOnce has fifty browsers show one answer at once.
func TestAnswerIsGoodOnce(t *testing.T) {
	w := open(t)
	w.register()
	text := w.get(w.ask(""))
	var ok atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := w.m.FinishLogin(t.Context(), "", "login", []byte(text)); err == nil {
				ok.Add(1)
			}
		})
	}
	wg.Wait()
	if ok.Load() != 1 {
		t.Errorf("accepted %d times", ok.Load())
	}
}

func TestNoDomain(t *testing.T) {
	opt := open(t).m.opt
	for _, issuer := range []string{"https://192.0.2.1:8443/", "https://[::1]/", "http://pay.example/", "pay.example", ""} {
		opt.Issuer = issuer
		if _, err := New(opt); !errors.Is(err, ErrNoDomain) {
			t.Errorf("%q: %v", issuer, err)
		}
	}
}

func FuzzLabel(f *testing.F) {
	for _, s := range []string{"", " my  phone\n", "\u202eevil", "\xff\x00", strings.Repeat("é", 64)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Label(s)
		if got == "" || len(got) > MaxLabel || !utf8.ValidString(got) || strings.ContainsAny(got, "\n\r\t\x00\u202e") || Label(got) != got {
			t.Errorf("%q becomes %q", s, got)
		}
	})
}

// FuzzAnswers: whatever a browser sends, it opens nothing and breaks nothing.
func FuzzAnswers(f *testing.F) {
	w := open(f)
	q := virtual.AssertionOptions{Challenge: make([]byte, 32)}
	f.Add(w.get(q))
	f.Add(virtual.CreateAttestationResponse(rp(), w.auth, w.cred, virtual.AttestationOptions{Challenge: q.Challenge}))
	f.Add(`{"id":"","rawId":"AA","type":"public-key","response":{}}`)
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := w.m.FinishLogin(t.Context(), "", "", []byte(text)); rampart.KindOf(err) != rampart.Unauthenticated {
			t.Errorf("as a login: %v", err)
		}
		if _, err := w.m.FinishRegistration(t.Context(), ann(), "", "", []byte(text)); rampart.KindOf(err) != rampart.Unauthenticated {
			t.Errorf("as a registration: %v", err)
		}
	})
}
