package pii

import (
	"bytes"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/sdktest"
)

func keys(t testing.TB, off ...string) *Keys {
	t.Helper()
	sdktest.Start(t, &sdktest.Agent{Info: agent.ServiceInfo{Name: "payments", Off: off}})
	svc, err := sdk.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return New(svc)
}

var email = Cell{Item: "payment", Tenant: "acme", Table: "payments", Column: "email", Row: "pay_1"}

func TestSeal(t *testing.T) {
	k := keys(t)
	sealed, err := k.Seal(t.Context(), email, []byte("alice@example.com"))
	if err != nil {
		t.Fatal(err)
	}
	if len(sealed) != Overhead+17 || sealed[0] != 1 || bytes.Contains(sealed, []byte("alice")) {
		t.Errorf("sealed as %x", sealed)
	}
	if text, err := k.Open(t.Context(), email, sealed); err != nil || string(text) != "alice@example.com" {
		t.Errorf("opened as %q: %v", text, err)
	}
	elsewhere := email
	elsewhere.Row = "pay_2"
	if _, err := k.Open(t.Context(), elsewhere, sealed); err == nil || rampart.KindOf(err) == rampart.Unavailable {
		t.Errorf("moved to another row: %v", err)
	}
}

func TestRowMAC(t *testing.T) {
	k := keys(t)
	row := []string{"payments", "pay_1", "user:alice", "2580", "completed"}
	mac, err := k.RowMAC(t.Context(), "payment", "acme", row...)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		item, tenant string
		mac          []byte
		row          []string
		ok           bool
	}{
		"as booked":             {"payment", "acme", mac, row, true},
		"a smaller amount":      {"payment", "acme", mac, []string{"payments", "pay_1", "user:alice", "1", "completed"}, false},
		"another owner":         {"payment", "acme", mac, []string{"payments", "pay_1", "user:bob", "2580", "completed"}, false},
		"shifted fields":        {"payment", "acme", mac, []string{"payments", "pay_1", "user:alice2", "580", "completed"}, false},
		"a field less":          {"payment", "acme", mac, row[:4], false},
		"another tenant":        {"payment", "globex", mac, row, false},
		"another item":          {"order", "acme", mac, row, false},
		"another key version":   {"payment", "acme", append([]byte{0, 0, 0, 2}, mac[4:]...), row, false},
		"key version 0":         {"payment", "acme", append([]byte{0, 0, 0, 0}, mac[4:]...), row, false},
		"cut short":             {"payment", "acme", mac[:20], row, false},
		"a version alone":       {"payment", "acme", mac[:4], row, false},
		"no checksum":           {"payment", "acme", nil, row, false},
		"one bit of it flipped": {"payment", "acme", append(bytes.Clone(mac[:35]), mac[35]^1), row, false},
	} {
		err := k.CheckRowMAC(t.Context(), tc.item, tc.tenant, tc.mac, tc.row...)
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOffInAThrowAwaySystem(t *testing.T) {
	k := keys(t, "data.envelope", "db.row_mac")
	sealed, err := k.Seal(t.Context(), email, []byte("alice"))
	if err != nil || string(sealed) != "alice" {
		t.Errorf("sealed as %q: %v", sealed, err)
	}
	mac, err := k.RowMAC(t.Context(), "payment", "acme", "x")
	if err != nil || mac == nil {
		t.Errorf("checksum %v: %v", mac, err)
	}
	if err := k.CheckRowMAC(t.Context(), "payment", "acme", nil, "y"); err != nil {
		t.Error(err)
	}
}

func BenchmarkCheckRowMAC(b *testing.B) {
	k := keys(b)
	row := []string{"payments", "pay_1", "user:alice", "2580", "completed"}
	mac, err := k.RowMAC(b.Context(), "payment", "acme", row...)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := k.CheckRowMAC(b.Context(), "payment", "acme", mac, row...); err != nil {
			b.Fatal(err)
		}
	}
}
