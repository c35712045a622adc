package secrets

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

const canary = "sk-canary-4711"

// leaks reports whether text shows the canary in any spelling of fmt.
func leaks(text string) bool {
	var decimal []string
	for _, b := range []byte(canary) {
		decimal = append(decimal, fmt.Sprint(b))
	}
	low := strings.ToLower(text)
	for _, form := range []string{
		canary, fmt.Sprintf("%x", canary), fmt.Sprintf("% x", canary), strings.Join(decimal, " "), strings.Join(decimal, ", "),
		"0x73, 0x6b", "canary",
	} {
		if strings.Contains(low, strings.ToLower(form)) {
			return true
		}
	}
	return false
}

func TestSecretDoesNotPrint(t *testing.T) {
	s := New([]byte(canary), 3)
	type exported struct{ S Secret }
	type unexported struct{ s Secret }
	type deep struct {
		P *unexported
		M map[string]Secret
		L []Secret
		I any
	}
	values := map[string]any{
		"bare": s, "pointer": &s, "exported": exported{s}, "exported pointer": &exported{s}, "unexported": unexported{s},
		"unexported pointer": &unexported{s}, "slice": []Secret{s}, "map": map[string]Secret{"k": s},
		"deep": deep{&unexported{s}, map[string]Secret{"k": s}, []Secret{s}, s}, "any": []any{s, &s},
	}
	for name, v := range values {
		for _, flags := range []string{"", "+", "#", " ", "-20", "0", "+.3"} {
			for _, verb := range "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
				if got := fmt.Sprintf("%"+flags+string(verb), v); leaks(got) {
					t.Errorf("%s with %%%s%c: %s", name, flags, verb, got)
				}
			}
		}
		if got := fmt.Sprintln(v); leaks(got) {
			t.Errorf("%s: %s", name, got)
		}
		if got, _ := json.Marshal(v); leaks(string(got)) {
			t.Errorf("%s as JSON: %s", name, got)
		}
		if got, _ := xml.Marshal(v); leaks(string(got)) {
			t.Errorf("%s as XML: %s", name, got)
		}
		var log bytes.Buffer
		for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
			slog.New(h).With("with", v).Info("m", "k", v, slog.Group("g", slog.Any("k", v)))
		}
		if leaks(log.String()) {
			t.Errorf("%s in slog: %s", name, log.String())
		}
	}
	for _, got := range []string{s.String(), s.GoString(), fmt.Sprintf("%#v", s), fmt.Sprintf("%d", s), s.LogValue().String()} {
		if got != redacted {
			t.Errorf("got %q", got)
		}
	}
	if got, _ := json.Marshal(s); string(got) != `"[redacted]"` {
		t.Errorf("JSON %s", got)
	}
	if !leaks(fmt.Sprintf("%d", []byte(canary))) || !leaks(fmt.Sprintf("%#v", []byte(canary))) || !leaks(fmt.Sprintf("%X", canary)) {
		t.Error("the leak detector is blind")
	}
}

func TestUse(t *testing.T) {
	in := []byte(canary)
	s := New(in, 3)
	clear(in)
	var kept []byte
	err := s.Use(func(b []byte) error {
		if string(b) != canary {
			t.Errorf("got %q", b)
		}
		kept = b
		b[0] = 'X'
		return nil
	})
	if err != nil || s.Version() != 3 || s.IsZero() {
		t.Errorf("%v, version %d", err, s.Version())
	}
	if !bytes.Equal(kept, make([]byte, len(canary))) {
		t.Errorf("the copy was not wiped: %q", kept)
	}
	want := errors.New("mine")
	if err := s.Use(func(b []byte) error { return want }); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
	_ = s.Use(func(b []byte) error {
		if string(b) != canary {
			t.Error("a caller changed the secret of all")
		}
		return nil
	})
	var zero Secret
	if err := zero.Use(func([]byte) error { t.Error("called"); return nil }); err == nil || !zero.IsZero() || zero.Version() != 0 {
		t.Error("the zero Secret holds something")
	}
}
