package control_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/control"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/secrets/awssm/awstest"
	"github.com/rampart-security/rampart/spec"
)

// holds makes payments hold one credential at AWS and one from a mounted folder.
var holds = strings.NewReplacer(
	"data:\n", "data:\n  hook: { class: secret, kind: credential, source: \"secret://cloud/prod/hook#key\" }\n  pem: { class: secret, kind: credential, source: \"secret://pod/pem\" }\n",
	`upstream: "http://127.0.0.1:9002"`, `upstream: "http://127.0.0.1:9002", secrets: { hook: socket, pem: file }`)

// cloud is where such a file finds its backends.
type cloud struct {
	*awstest.Server
	mount string
}

func newCloud(t *testing.T) cloud {
	t.Helper()
	credentials := filepath.Join(t.TempDir(), "credentials")
	must(t, os.WriteFile(credentials, []byte("[default]\naws_access_key_id = "+awstest.AccessKey+"\naws_secret_access_key = "+awstest.SecretKey+"\n"), 0o600))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", credentials)
	return cloud{awstest.New(t), t.TempDir()}
}

// reads lets a house read such a file, with the key encryption key where it says.
func (c cloud) reads(t *testing.T, h *house, kek string) {
	t.Helper()
	folder := t.TempDir()
	text := holds.Replace(file) + `secrets:
  cloud: { kind: aws, region: ` + awstest.Region + `, endpoint: "` + c.URL + `", ca: cloud.pem, stale: 30m }
  pod: { kind: file, path: ` + c.mount + ` }
kek: ` + kek + "\n"
	must(t, os.WriteFile(filepath.Join(folder, "cloud.pem"), c.CA(), 0o600))
	must(t, os.WriteFile(filepath.Join(folder, "rampart.yaml"), []byte(text), 0o600))
	var err error
	h.sys, err = spec.Load(filepath.Join(folder, "rampart.yaml"))
	must(t, err)
}

const inFile = "{ kind: file }"

func (h *house) value(service, item string) (string, error) {
	var v agent.SecretValue
	err := h.call(service, http.MethodGet, wire.PathSecret+item, nil, &v)
	return string(v.Value), err
}

func TestSecretsOfOtherBackends(t *testing.T) {
	s, h := newCloud(t), found(t, "")
	s.Set("prod/hook", `{"key":"from-aws","other":"x"}`)
	must(t, os.WriteFile(filepath.Join(s.mount, "pem"), []byte("from-file\n"), 0o600))
	s.reads(t, h, inFile)
	h.start()
	defer func() { h.stop() }()
	for item, want := range map[string]string{"hook": "from-aws", "pem": "from-file"} {
		if got, err := h.value("service/payments", item); err != nil || got != want {
			t.Errorf("%s: %q, %v", item, got, err)
		}
		if _, err := h.value("service/orders", item); statusOf(err) != http.StatusForbidden {
			t.Errorf("%s for another, though it is remembered: %v", item, err)
		}
	}
	s.Set("prod/hook", `{"key":"newer"}`)
	if got, err := h.value("service/payments", "hook"); err != nil || got != "from-aws" || s.Calls("GetSecretValue") != 1 {
		t.Errorf("%q, %v, asked %d times: want what is remembered", got, err, s.Calls("GetSecretValue"))
	}
	if !slices.ContainsFunc(h.events("secret.read"), func(e audit.Event) bool {
		return e.Resource == "secret:hook" && e.Detail["backend"] == "cloud" && strings.HasSuffix(e.Subject, "/payments")
	}) {
		t.Error("the read is not on record with its backend")
	}
	outage(t, h, s)
}

// outage: a backend that is away serves from memory to its bound, with an end,
// and then nothing.
func outage(t *testing.T, h *house, s cloud) {
	t.Helper()
	s.Down(true)
	h.pass(10 * time.Minute)
	var v agent.SecretValue
	must(t, h.call("service/payments", http.MethodGet, wire.PathSecret+"hook", nil, &v))
	if string(v.Value) != "from-aws" || v.Until.IsZero() || v.Until.After(h.now().Add(21*time.Minute)) {
		t.Errorf("in an outage: %q until %v", v.Value, v.Until)
	}
	if !slices.ContainsFunc(h.events("secret.stale"), func(e audit.Event) bool { return e.Detail["age"] != "" }) {
		t.Error("that it was served from memory is not on record")
	}
	h.pass(21 * time.Minute)
	if _, err := h.value("service/payments", "hook"); statusOf(err) != http.StatusServiceUnavailable {
		t.Errorf("past the bound: %v", err)
	}
	op := wire.SecretOp{Op: "get", Path: "secret://cloud/prod/hook#key"}
	if err := h.admin(http.MethodPost, wire.AdminSecrets, op, nil); err == nil || !strings.Contains(err.Error(), "StatusCode: 503") {
		t.Errorf("the operator is told %v, and not what is in the way", err)
	}
	s.Down(false)
	h.pass(time.Minute)
	if got, err := h.value("service/payments", "hook"); err != nil || got != "newer" {
		t.Errorf("when it is back: %q, %v", got, err)
	}
}

// The key encryption key moves to KMS and back with everything that is under it.
func TestKEKMoves(t *testing.T) {
	s, h := newCloud(t), found(t, "")
	s.reads(t, h, inFile)
	h.start()
	first, err := h.value("service/payments", "key")
	must(t, err)
	dek := func() []byte {
		var k agent.DEK
		must(t, h.call("service/payments", http.MethodPost, wire.PathDEK, agent.DEKRequest{Item: "payment", Tenant: "acme"}, &k))
		return k.Key
	}
	key := dek()
	h.stop()
	for _, kek := range []string{"{ kind: aws, backend: cloud, key: " + s.NewKey() + " }", inFile} {
		s.reads(t, h, kek)
		h.start()
		var info wire.KEKInfo
		for range 20 {
			if h.mustAdmin(wire.AdminKEK, wire.KEKOp{Op: "rewrap"}, &info); info.Left == 0 {
				break
			}
		}
		if info.Left != 0 || info.Before != "" || len(info.Wraps) != 1 {
			t.Errorf("to %s: %+v", kek, info)
		}
		h.stop()
		h.start() // the old key is not asked for any more
		if got, err := h.value("service/payments", "key"); err != nil || got != first || !bytes.Equal(dek(), key) {
			t.Errorf("to %s: something changed, %v", kek, err)
		}
		h.stop()
	}
}

// TestBackendsAreWatched: nobody asks for a secret, and the outage of its backend
// is on record, once, and in the status.
func TestBackendsAreWatched(t *testing.T) {
	s, h := newCloud(t), found(t, "")
	s.reads(t, h, "{ kind: aws, backend: cloud, key: "+s.NewKey()+" }")
	h.start()
	defer func() { h.stop() }()
	for _, down := range []bool{false, true, false} {
		s.Down(down)
		for range 3 {
			control.AskBackends(t.Context(), h.plane)
		}
		var st wire.Status
		must(t, h.admin(http.MethodGet, wire.AdminStatus, nil, &st))
		if len(st.Backends) != 2 || st.Backends[0].Name != "backend:cloud" || st.Backends[0].Away != down || st.Backends[1].Away != down {
			t.Errorf("down %t: %+v", down, st.Backends)
		}
	}
	var said []string
	for _, e := range h.events("backend.health") {
		if e.Resource == "backend:cloud" {
			said = append(said, string(e.Outcome)+e.Detail["alert"])
		}
	}
	if diff := cmp.Diff([]string{string(audit.Failed) + "true", string(audit.Allowed)}, said); diff != "" {
		t.Errorf("on record: -want +got\n%s", diff)
	}
}
