package verify

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/spec"
)

// shop seals three fields in an embedded store; the scenario carries two, one
// under another name. What PostgreSQL holds is out of the probe's reach.
func shop() *spec.System {
	return &spec.System{
		Data: map[string]spec.Data{
			"contact": {PII: []string{"email", "phone"}, Encrypt: "envelope"},
			"payment": {PII: []string{"card_ref"}, Encrypt: "envelope"},
			"order":   {PII: []string{"note"}},
			"archive": {PII: []string{"email"}, Encrypt: "envelope"},
		},
		Stores: map[string]spec.Store{
			"shop_db": {Kind: "sqlite", Holds: []string{"contact", "payment", "order"}},
			"old_db":  {Kind: "postgres", Holds: []string{"archive"}},
		},
		Verify: spec.Verify{Scenario: &spec.Scenario{
			Body: map[string]any{"email": "probe@example.com", "card": "tok_visa", "amount": 1},
			PII:  map[string]string{"card_ref": "/card"},
		}},
	}
}

func TestPlant(t *testing.T) {
	fields := personalFields(shop())
	var got []string
	for _, p := range fields {
		got = append(got, p.String()+" "+p.member)
	}
	if d := cmp.Diff([]string{"contact.email email", "contact.phone ", "payment.card_ref card"}, got); d != "" {
		t.Error(d)
	}
	body := plant(fields, map[string]any{"email": "probe@example.com", "card": "tok_visa", "amount": 1})
	email, card := body["email"].(string), body["card"].(string)
	if !strings.HasPrefix(email, "probe-") || !strings.HasSuffix(email, "@example.com") || !strings.HasPrefix(card, "tok_visa_") || len(email) == len(card) || body["amount"] != 1 {
		t.Errorf("planted %v", body)
	}
	if phone := marked("+49171", 8); len(phone) != 11 || strings.Trim(phone, "+0123456789") != "" {
		t.Errorf("planted %q", phone)
	}
}

// A value is found however it was written, and wherever in a longer text.
func TestWritings(t *testing.T) {
	const value = "probe-0123@example.com"
	found := func(text string) bool {
		for _, w := range writings(value) {
			if strings.Contains(text, string(w)) {
				return true
			}
		}
		return false
	}
	for before := range 4 {
		text := strings.Repeat("\xff", before) + value + ">?"
		for name, written := range map[string]string{
			"text": text, "hex": hex.EncodeToString([]byte(text)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(text))),
			"base64": base64.StdEncoding.EncodeToString([]byte(text)), "base64url": base64.RawURLEncoding.EncodeToString([]byte(text)),
		} {
			if !found(written) {
				t.Errorf("%s after %d bytes is not found", name, before)
			}
		}
	}
	if found("probe-0124@example.com") || found(base64.StdEncoding.EncodeToString([]byte("probe-0124@example.com"))) {
		t.Error("another value is found")
	}
}

// A declared field counts as sealed only when a table holds it so.
func TestSealedCells(t *testing.T) {
	const planted = "0123456789"
	sealedAs := func(n int) string { return "x'01" + strings.Repeat("ab", n-1) + "'" }
	for name, tc := range map[string]struct {
		planted, column, before, value string
		want                           bool
	}{
		"sealed":                        {planted, "mail", "", sealedAs(43), true},
		"in clear":                      {planted, "email", "", "'" + planted + "'", false},
		"another length":                {planted, "email", "", sealedAs(44), false},
		"another format":                {planted, "email", "", "x'02" + strings.Repeat("ab", 42) + "'", false},
		"nowhere":                       {planted, "email", "", "NULL", false},
		"only before":                   {planted, "email", sealedAs(43), "NULL", false},
		"not carried":                   {"", "email", "", sealedAs(60), true},
		"not carried, empty":            {"", "email", "", "NULL", true},
		"not carried, in clear":         {"", "email", "", "'alice@example.com'", false},
		"not carried, in no table":      {"", "city", "", "NULL", false},
		"not carried, short":            {"", "email", "", sealedAs(32), false},
		"not carried, one row in clear": {"", "email", "'alice@example.com'", sealedAs(60), false},
	} {
		t.Run(name, func(t *testing.T) {
			tg := &target{dir: t.TempDir()}
			db, err := openDB(mkfile(t, filepath.Join(tg.dir, "data", "shop", "shop_db.db")))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			exec := func(statement string) {
				t.Helper()
				if _, err := db.ExecContext(t.Context(), statement); err != nil {
					t.Fatal(err)
				}
			}
			exec(`CREATE TABLE people (` + tc.column + ` BLOB)`)
			if tc.before != "" {
				exec(`INSERT INTO people VALUES (` + tc.before + `)`)
			}
			fields := []personal{{item: "contact", name: "email", planted: tc.planted}}
			before, err := tg.sealedCells(t.Context(), fields)
			if err != nil {
				t.Fatal(err)
			}
			exec(`INSERT INTO people VALUES (` + tc.value + `)`)
			after, err := tg.sealedCells(t.Context(), fields)
			if err != nil {
				t.Fatal(err)
			}
			if why := fields[0].unkept(before[0], after[0]); (why == "") != tc.want {
				t.Errorf("before %+v, after %+v: %q", before[0], after[0], why)
			}
		})
	}
}

// mkfile makes an empty file with its folders.
func mkfile(t *testing.T, name string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
