//go:build pkcs11 && cgo

package pkcs11

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ThalesGroup/crypto11"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets/secretstest"
)

const pin = "canary-1234"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// softHSM finds the library, or skips.
func softHSM(t *testing.T) string {
	t.Helper()
	for _, glob := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib*/*/softhsm/libsofthsm2.so", "/usr/lib*/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so"} {
		if found, _ := filepath.Glob(glob); len(found) > 0 {
			if _, err := exec.LookPath("softhsm2-util"); err == nil {
				return found[0]
			}
		}
	}
	t.Skip("SoftHSM is not installed: apt-get install softhsm2")
	return ""
}

// token makes a token in a folder of the test. The library reads its
// configuration once, so that one serves all tests.
func token(t *testing.T) Options {
	t.Helper()
	module, folder := softHSM(t), t.TempDir()
	must(t, os.Mkdir(filepath.Join(folder, "tokens"), 0o700))
	conf := filepath.Join(folder, "softhsm2.conf")
	must(t, os.WriteFile(conf, []byte("directories.tokendir = "+folder+"/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600))
	t.Setenv("SOFTHSM2_CONF", conf)
	out, err := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", "rampart", "--so-pin", pin, "--pin", pin).CombinedOutput()
	if err != nil {
		t.Fatalf("softhsm2-util: %v\n%s", err, out)
	}
	o := Options{Module: module, Token: "rampart", PINFile: filepath.Join(folder, "pin")}
	must(t, os.WriteFile(o.PINFile, []byte(pin+"\n"), 0o600))
	return o
}

// maker makes keys as pkcs11-tool would.
type maker struct {
	t   *testing.T
	ctx *crypto11.Context
	mu  sync.Mutex
	n   int
}

func (m *maker) key(bits int, sensitive, extractable bool, label string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n++
	if label == "" {
		label = fmt.Sprintf("key-%d", m.n)
	}
	attributes, err := crypto11.NewAttributeSetWithIDAndLabel([]byte{byte(m.n)}, []byte(label))
	must(m.t, err)
	must(m.t, errors.Join(attributes.Set(crypto11.CkaSensitive, sensitive), attributes.Set(crypto11.CkaExtractable, extractable)))
	_, err = m.ctx.GenerateSecretKeyWithAttributes(attributes, bits, crypto11.CipherAES)
	must(m.t, err)
	return label
}

// TestSoftHSM asks a real module: SoftHSM 2.
func TestSoftHSM(t *testing.T) {
	o := token(t)
	ctx, err := crypto11.Configure(&crypto11.Config{Path: o.Module, TokenLabel: o.Token, Pin: pin})
	must(t, err)
	defer ctx.Close()
	m := &maker{t: t, ctx: ctx}
	open := func(t *testing.T, label string) *KEK {
		with := o
		with.Key = label
		k, err := Open(with)
		must(t, err)
		t.Cleanup(func() { k.Close() })
		return k
	}
	t.Run("conforms", func(t *testing.T) {
		secretstest.KEK(t, func(t *testing.T) secretstest.Key {
			return secretstest.Key{KEK: open(t, m.key(256, true, false, "")), Other: open(t, m.key(256, true, false, "")), Unversioned: true}
		})
	})
	m.key(256, true, false, "twice")
	m.key(256, true, false, "twice")
	for name, c := range map[string]struct {
		key  string
		want string
	}{
		"that can be taken out":  {m.key(256, true, true, ""), "taken out"},
		"that can be read":       {m.key(256, false, false, ""), "taken out"},
		"that is short":          {m.key(128, true, false, ""), "256 bits"},
		"that is not there":      {"none", "0 secret keys"},
		"of which there are two": {"twice", "2 secret keys"},
	} {
		t.Run("a key "+name, func(t *testing.T) {
			with := o
			with.Key = c.key
			if _, err := Open(with); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), pin) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	t.Run("a PIN that others read", func(t *testing.T) {
		with := o
		with.PINFile, with.Key = filepath.Join(t.TempDir(), "pin"), "twice"
		must(t, os.WriteFile(with.PINFile, []byte(pin), 0o644))
		if _, err := Open(with); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no such token", func(t *testing.T) {
		with := o
		with.Token, with.Key = "other", "k"
		if _, err := Open(with); rampart.KindOf(err) != rampart.Unavailable {
			t.Errorf("got %v", err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		k := open(t, m.key(256, true, false, ""))
		wrapped, err := k.Wrap(t.Context(), []byte("dek"), nil)
		must(t, err)
		must(t, k.Close())
		if _, err := k.Unwrap(t.Context(), wrapped, nil); rampart.KindOf(err) != rampart.Unavailable {
			t.Errorf("got %v", err)
		}
	})
}
