// Package redact answers "What must never stand in a log?" It is the last net
// under log/slog, not the first: secrets should not get that far.
package redact

import (
	"bytes"
	"context"
	"encoding"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
)

// words end the keys whose values are blanked, whatever they are. Keys are
// compared in lower case and without separators: "apiKey", "api_key" and
// "X-Api-Key" are one.
var words = []string{
	"password", "passwd", "passphrase", "secret", "token", "authorization", "cookie", "apikey", "privatekey",
	"cardtoken", "cardnumber", "credential", "credentials", "email",
}

// whole are words that are blanked as a key of their own only: a "span" is no
// card number.
var whole = map[string]bool{"pan": true, "cvv": true, "cvc": true}

// Handler is a slog.Handler that blanks sensitive attributes and scrubs
// credentials from messages and values before it hands a record to another.
type Handler struct {
	next  slog.Handler
	extra map[string]bool // further keys
	blank bool            // within a group whose name is sensitive
}

// New returns a handler in front of next, which must not be nil. keys are
// further names whose values are blanked, such as the fields that rampart.yaml
// declares as pii.
func New(next slog.Handler, keys ...string) *Handler {
	if next == nil {
		panic("redact: nil handler")
	}
	extra := make(map[string]bool, len(keys))
	for _, k := range keys {
		extra[fold(k)] = true
	}
	return &Handler{next: next, extra: extra}
}

// Enabled asks the next handler.
func (h *Handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle passes a cleaned copy of r on.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, r.Level, Scrub(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(h.attr(a))
		return true
	})
	return h.next.Handle(ctx, out)
}

// WithAttrs returns a handler whose records have attrs, cleaned, as well.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = h.attr(a)
	}
	n := *h
	n.next = h.next.WithAttrs(clean)
	return &n
}

// WithGroup returns a handler that puts what follows into a group.
func (h *Handler) WithGroup(name string) slog.Handler {
	n := *h
	n.next = h.next.WithGroup(name)
	n.blank = h.blank || h.sensitive(name)
	return &n
}

// sensitive reports whether key names something to blank.
func (h *Handler) sensitive(key string) bool {
	k := fold(key)
	if h.extra[k] || whole[k] {
		return true
	}
	for _, w := range words {
		if strings.HasSuffix(k, w) {
			return true
		}
	}
	return false
}

// fold brings the spellings of a key together.
func fold(key string) string {
	if !strings.ContainsAny(key, "_-. ") {
		return strings.ToLower(key)
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '_', '-', '.', ' ':
			return -1
		}
		return r
	}, strings.ToLower(key))
}

func (h *Handler) attr(a slog.Attr) slog.Attr {
	if a.Equal(slog.Attr{}) {
		return a // an empty attribute, which handlers ignore
	}
	if h.blank || h.sensitive(a.Key) {
		return slog.String(a.Key, Text)
	}
	return slog.Attr{Key: Scrub(a.Key), Value: h.value(a.Value)}
}

func (h *Handler) value(v slog.Value) slog.Value {
	v = v.Resolve()
	switch v.Kind() {
	case slog.KindString:
		return slog.StringValue(Scrub(v.String()))
	case slog.KindInt64, slog.KindUint64:
		if text := v.String(); Scrub(text) != text {
			return slog.StringValue(Text)
		}
		return v
	case slog.KindGroup:
		in := v.Group()
		out := make([]slog.Attr, len(in))
		for i, a := range in {
			out[i] = h.attr(a)
		}
		return slog.GroupValue(out...)
	case slog.KindAny:
		return h.any(v.Any())
	}
	return v // numbers with a fraction, truth values, times
}

// any turns a value of any type into one that can be looked through. What the
// next handler gets is the result, never the value itself: printing that could
// show fields that were not looked at.
func (h *Handler) any(v any) (out slog.Value) {
	defer func() {
		if p := recover(); p != nil { // a method of a nil pointer, say
			out = slog.StringValue(fmt.Sprintf("[cannot be logged: %T]", v))
		}
	}()
	switch x := v.(type) {
	case nil:
		return slog.AnyValue(nil)
	case *slog.Source:
		return slog.AnyValue(x)
	case error:
		return slog.StringValue(Scrub(x.Error()))
	case []byte:
		return slog.StringValue(Scrub(string(x)))
	case json.Marshaler:
		return h.viaJSON(v)
	case encoding.TextMarshaler:
		text, err := x.MarshalText()
		if err != nil {
			return slog.StringValue(Scrub(err.Error()))
		}
		return slog.StringValue(Scrub(string(text)))
	case fmt.Stringer:
		return slog.StringValue(Scrub(x.String()))
	}
	if reflect.TypeOf(v).Kind() == reflect.String {
		return slog.StringValue(Scrub(reflect.ValueOf(v).String()))
	}
	return h.viaJSON(v)
}

// viaJSON looks through v as JSON shows it.
func (h *Handler) viaJSON(v any) slog.Value {
	data, err := json.Marshal(v)
	if err != nil {
		return slog.StringValue(fmt.Sprintf("[cannot be logged: %T]", v))
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return slog.StringValue(fmt.Sprintf("[cannot be logged: %T]", v))
	}
	if s, ok := tree.(string); ok {
		return slog.StringValue(Scrub(s))
	}
	return slog.AnyValue(h.tree(tree))
}

// tree cleans decoded JSON. Its depth is bounded by that of encoding/json.
func (h *Handler) tree(v any) any {
	switch x := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, e := range x {
			if h.sensitive(k) {
				out[Scrub(k)] = Text
				continue
			}
			out[Scrub(k)] = h.tree(e)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = h.tree(e)
		}
		return out
	case string:
		return Scrub(x)
	case json.Number:
		if Scrub(x.String()) != x.String() {
			return Text
		}
	}
	return v
}
