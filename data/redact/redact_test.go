package redact

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/slogtest"
	"time"
)

const (
	jwtText = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ1c2VyOjEifQ.c2lnbmF0dXJl"
	pan16   = "4242424242424242"
)

func TestScrub(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"nothing", "order 7 paid", "order 7 paid"},
		{"empty", "", ""},
		{"merchant key", "key rk_0a1b2c3d_Zx-9yW8v.7u used", "key [redacted] used"},
		{"access token", "rat_0123456789abcdef", "[redacted]"},
		{"refresh token", "token=rrt_0123456789abcdef;", "token=[redacted];"},
		{"processor keys", "sk_test_4eC39HqLyjWDarjtT1zdp7dc,sk_live_abcdefgh", "[redacted],[redacted]"},
		{"a prefix alone", "keys start with rk_ or sk_test_", "keys start with rk_ or sk_test_"},
		{"inside a word", "work_0123456789 dark_matter_halo", "work_0123456789 dark_matter_halo"},
		{"jwt", "Bearer " + jwtText + ", then", "Bearer [redacted], then"},
		{"jwt without a signature", "eyJhbGciOiJub25lIn0.e30.", "[redacted]"},
		{"not a jwt", "eyJhbGciOiJub25lIn0 eyJ.x", "eyJhbGciOiJub25lIn0 eyJ.x"},
		{"card", "card " + pan16 + ".", "card [redacted]."},
		{"card in groups", "4242 4242 4242 4242 12/30", "[redacted] 12/30"},
		{"card in groups, then a number", "4242-4242-4242-4242 12", "[redacted] 12"},
		{"a number, then a card", "order 12 4242 4242 4242 4242", "order 12 [redacted]"},
		{"13 digits", "4222222222222", "[redacted]"},
		{"15 digits", "378282246310005", "[redacted]"},
		{"19 digits", "6304000000000000000", "[redacted]"},
		{"wrong check digit", "4242424242424241", "4242424242424241"},
		{"too long", pan16 + pan16, pan16 + pan16},
		{"part of an id", "a" + pan16 + " " + pan16 + "b", "a" + pan16 + " " + pan16 + "b"},
		{"nanoseconds", "1772323200000000000", "1772323200000000000"},
		{"trace id", "0af7651916cd43dd8448eb211c80319c", "0af7651916cd43dd8448eb211c80319c"},
		{"uuid", "018f4d1c-7e9a-7cc1-a2d3-0f0f0f0f0f0f", "018f4d1c-7e9a-7cc1-a2d3-0f0f0f0f0f0f"},
		{"not UTF-8", "\xff" + pan16 + "\xff", "\xff[redacted]\xff"},
	}
	for _, tt := range tests {
		if got := Scrub(tt.in); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// login hides what fmt would show: an unexported field.
type login struct {
	User     string
	Password string
	token    string
	Nested   map[string]any
}

type named string

type nilError struct{ msg string }

func (e *nilError) Error() string { return e.msg }

func TestHandler(t *testing.T) {
	const secret = "hunter2"
	var nothing *nilError
	tests := []struct {
		name string
		log  func(l *slog.Logger)
		keep string // must be there
	}{
		{"keys", func(l *slog.Logger) {
			for _, k := range []string{"password", "Password", "db_password", "client_secret", "access_token", "accessToken", "Authorization", "Set-Cookie", "X-Api-Key", "apiKey", "card_token", "email", "user.email", "cvv"} {
				l.Info("m", k, secret, "user", "ada")
			}
		}, "ada"},
		{"any value under a key", func(l *slog.Logger) {
			l.Info("m", "password", []byte(secret), "token", errors.New(secret), "cookie", map[string]string{"a": secret}, "user", "ada")
		}, "ada"},
		{"further keys", func(l *slog.Logger) { l.Info("m", "Full-Name", secret, "user", "ada") }, "ada"},
		{"groups", func(l *slog.Logger) {
			l.Info("m", slog.Group("a", slog.Group("b", slog.String("password", secret), slog.String("user", "ada"))))
		}, "ada"},
		{"a group with such a name", func(l *slog.Logger) {
			l.WithGroup("credentials").With("x", secret).WithGroup("deep").Info("ada", "y", secret, slog.Group("z", slog.String("w", secret)))
			l.Info("m", slog.Group("token", slog.String("x", secret)))
		}, "ada"},
		{"with", func(l *slog.Logger) { l.With("password", secret, "user", "ada").WithGroup("g").Info("m") }, "ada"},
		{"a LogValuer", func(l *slog.Logger) { l.Info("m", "v", valuer{}) }, "ada"},
		{"structs and maps", func(l *slog.Logger) {
			l.Info("m", "v", login{"ada", secret, secret, map[string]any{"list": []any{map[string]any{"api_key": secret}}}}, "p", &login{token: secret})
		}, "ada"},
		{"headers", func(l *slog.Logger) {
			l.Info("m", "headers", http.Header{"Authorization": {secret}, "Cookie": {secret}, "Accept": {"ada"}})
		}, "ada"},
	}
	for _, tt := range tests {
		for name, build := range builders {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				var out bytes.Buffer
				tt.log(slog.New(New(build(&out), "full_name")))
				if got := out.String(); strings.Contains(got, secret) || !strings.Contains(got, tt.keep) || !strings.Contains(got, Text) {
					t.Error(got)
				}
			})
		}
	}
	for name, build := range builders {
		t.Run("values/"+name, func(t *testing.T) {
			var out bytes.Buffer
			slog.New(New(build(&out))).Info("got "+jwtText, "s", "x "+pan16, "i", int64(4242424242424242), "u", uint64(4242424242424242),
				"e", fmt.Errorf("call: %w", errors.New(jwtText)), "b", []byte(jwtText), "n", named(jwtText), "l", []string{jwtText},
				"j", json.RawMessage(`{"n":4242424242424242}`), "nil", nil, "nilerr", nothing, "f", func() {}, jwtText, 1,
				"addr", netip.MustParseAddr("192.0.2.1"), "d", time.Second, "int", 7, "map", map[string]int{"k": 8})
			got := out.String()
			if strings.Contains(got, jwtText) || strings.Contains(got, pan16) {
				t.Error(got)
			}
			for _, keep := range []string{"got [redacted]", "192.0.2.1", "call: [redacted]", "cannot be logged"} {
				if !strings.Contains(got, keep) {
					t.Errorf("%q is missing in %s", keep, got)
				}
			}
		})
	}
}

var builders = map[string]func(*bytes.Buffer) slog.Handler{
	"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
	"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
}

type valuer struct{}

func (valuer) LogValue() slog.Value {
	return slog.GroupValue(slog.String("password", "hunter2"), slog.String("user", "ada"))
}

// The wrapper must not bend slog's own rules.
func TestHandlerKeepsTheRulesOfSlog(t *testing.T) {
	var out bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		out.Reset()
		return New(slog.NewJSONHandler(&out, nil))
	}, func(t *testing.T) map[string]any {
		var m map[string]any
		if err := json.Unmarshal(out.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		return m
	})
	h := New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if h.Enabled(context.Background(), slog.LevelInfo) || !h.Enabled(context.Background(), slog.LevelWarn) {
		t.Error("the level is not the next handler's")
	}
}

func TestNilHandlerPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	New(nil)
}

// FuzzScrub: a credential between any two texts is found as long as it is a
// word of its own, and scrubbing twice changes nothing.
func FuzzScrub(f *testing.F) {
	for _, s := range []string{"", "a", "4", "4242 ", "-", "eyJ.", "rk_", "é", "\xff", jwtText, pan16, "4242-4242-4242-4242-", "é4222222222222"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		for _, secret := range []string{jwtText, "rk_0123456789abcdef", "sk_live_0123456789abcdef", pan16} {
			text := before + "\n" + secret + "\n" + after
			if got := Scrub(text); strings.Count(got, secret) > strings.Count(before, secret)+strings.Count(after, secret) || strings.Contains(got, "\n"+secret+"\n") {
				t.Errorf("%q is still in %q", secret, got)
			}
		}
		once := Scrub(before + after)
		if twice := Scrub(once); twice != once {
			t.Errorf("%q becomes %q", once, twice)
		}
	})
}

// BenchmarkHandler measures what the net costs a log line of five attributes.
func BenchmarkHandler(b *testing.B) {
	l := slog.New(New(slog.NewTextHandler(discard{}, nil)))
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		l.LogAttrs(ctx, slog.LevelInfo, "request", slog.String("trace", "0af7651916cd43dd8448eb211c80319c"), slog.String("path", "/api/orders/018f4d1c"),
			slog.Int("status", 200), slog.Duration("took", time.Millisecond), slog.String("peer", "203.0.113.9:4711"))
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
