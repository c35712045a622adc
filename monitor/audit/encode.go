package audit

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rampart-security/rampart/internal/jsonline"
)

// text is what encoding needs, used again for the next event. The zero value is
// ready; it is for one goroutine.
type text struct {
	buf   []byte
	keys  []string
	stamp jsonline.Stamp
}

// encode renders e as the bytes that will be hashed, valid until the next call.
// They are what encoding/json writes for e; every request pays for them, so they
// are written without reflection. An event over maxEvent is cut: an attacker's
// long input must neither fill the disk nor keep his deed out of the log. What is
// cut is replaced by its beginning, length and hash.
func (t *text) encode(e Event) ([]byte, error) {
	if err := t.event(&e); err != nil || len(t.buf) <= maxEvent {
		return t.buf, err
	}
	whole := cut(string(t.buf))
	e.Detail, e.Decision = cutValues(e.detailed()), ""
	if err := t.event(&e); err != nil || len(t.buf) <= maxEvent {
		return t.buf, err
	}
	for _, s := range []*string{&e.Action, &e.Control, &e.Flow, &e.Layer, &e.Code, &e.Subject, &e.Actor, &e.Resource, &e.Trace, &e.Peer} {
		*s = cut(*s)
	}
	e.Policies = nil
	e.Detail = map[string]string{"cut": whole}
	err := t.event(&e)
	return t.buf, err
}

// event fills t.buf with e, however long.
func (t *text) event(e *Event) error {
	if err := t.begin(e.Time); err != nil {
		return err
	}
	t.member(`,"plane":`, e.Plane)
	t.member(`,"class":`, e.Class)
	t.member(`,"action":`, e.Action)
	t.member(`,"outcome":`, string(e.Outcome))
	t.some(`,"control":`, e.Control)
	t.some(`,"flow":`, e.Flow)
	t.some(`,"layer":`, e.Layer)
	t.some(`,"code":`, e.Code)
	t.some(`,"subject":`, e.Subject)
	t.some(`,"actor":`, e.Actor)
	t.some(`,"resource":`, e.Resource)
	if len(e.Policies) > 0 {
		t.buf = jsonline.Policies(append(t.buf, `,"policies":`...), e.Policies)
	}
	t.some(`,"trace":`, e.Trace)
	t.some(`,"peer":`, e.Peer)
	switch {
	case len(e.Detail) == 0 && e.Decision != "":
		t.member(`,"detail":{"decision":`, e.Decision)
		t.buf = append(t.buf, '}')
	case len(e.Detail) > 0:
		t.detail(e.detailed())
	}
	t.buf = append(t.buf, '}')
	return nil
}

// detailed is Detail with Decision in it.
func (e *Event) detailed() map[string]string {
	if e.Decision == "" {
		return e.Detail
	}
	m := make(map[string]string, len(e.Detail)+1)
	maps.Copy(m, e.Detail)
	m["decision"] = e.Decision
	return m
}

func (t *text) begin(at time.Time) (err error) {
	t.buf, err = t.stamp.Time(append(t.buf[:0], `{"time":`...), at)
	return err
}

func (t *text) member(name, value string) {
	t.buf = jsonline.String(append(t.buf, name...), value)
}

// some appends a member that is left out when it is empty.
func (t *text) some(name, value string) {
	if value != "" {
		t.member(name, value)
	}
}

// detail appends a map in the order of its names.
func (t *text) detail(m map[string]string) {
	t.keys = t.keys[:0]
	for name := range m {
		t.keys = append(t.keys, name)
	}
	slices.Sort(t.keys)
	t.buf = append(t.buf, `,"detail":{`...)
	for i, name := range t.keys {
		if i > 0 {
			t.buf = append(t.buf, ',')
		}
		t.buf = jsonline.String(t.buf, name)
		t.member(":", m[name])
	}
	t.buf = append(t.buf, '}')
	clear(t.keys)
}

func cutValues(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = cut(v)
	}
	return out
}

// cut shortens a long string to its first 256 bytes, its length and hash.
func cut(s string) string {
	const keep = 256
	if len(s) <= keep+128 {
		return s
	}
	return fmt.Sprintf("%s...[%d bytes, sha256 %x]", s[:keep], len(s), sha256.Sum256([]byte(s)))
}
