// Package secretstest is the conformance suite of those who implement
// secrets.Backend and secrets.KEK. A driver passes it in its own tests; what a
// driver is beyond that (Writer, Versions, Leaser, Rewrapper) is found out by
// asking it and tested, too.
package secretstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/secrets"
)

// canary is in every value that the suite stores, so that a leak has a name.
const canary = "canary-4711"

// Place is a backend in the hands of its suite. Backend, Name and Set are
// needed. What else is nil the place cannot do: the suite says so and goes on.
type Place struct {
	Backend secrets.Backend
	Name    string // Backend of references to it

	// Set stores a secret as whoever runs the place would. The field "" is
	// the usual one; others appear only when Fields is true.
	Set    func(t *testing.T, path string, fields map[string]string)
	Fields bool

	Deny func(t *testing.T, path string) // from now on the place refuses path to us
	Down func(down bool)                 // the place cannot be reached, or can be again
	Hang func(hang bool)                 // the place takes requests and never answers, or answers again

	Max   int           // bytes of the greatest value that it hands out; 0: not tested
	Whole bool          // the place destroys a secret with all its versions, never one of them
	Lease secrets.Ref   // of a secret that comes with a lease, for a Leaser
	Logs  func() string // all that it has logged
}

func (p Place) ref(path, field string) secrets.Ref {
	return secrets.Ref{Backend: p.Name, Path: path, Field: field}
}

// Backend runs the suite. It calls new for each part: places share nothing.
func Backend(t *testing.T, new func(t *testing.T) Place) {
	for name, part := range map[string]func(*testing.T, Place){
		"what is stored is found":       found,
		"a field is chosen":             fields,
		"what is missing is not found":  missing,
		"strange paths lead nowhere":    strange,
		"what is refused is denied":     denied,
		"an outage is unavailable":      outage,
		"who hangs up waits no longer":  cancelled,
		"many may ask at once":          concurrent,
		"sizes are bounded":             bounded,
		"writer: versions count":        writerPut,
		"writer: one of many wins":      writerRace,
		"writer: only sound values":     writerRefuses,
		"writer: lists what lies below": writerList,
		"writer: destroys for good":     writerDestroy,
		"versions: old ones stay":       versions,
		"leaser: renewed and revoked":   leased,
	} {
		t.Run(name, func(t *testing.T) {
			p := new(t)
			defer func() { silent(t, p) }()
			part(t, p)
		})
	}
}

// value returns what fetching gives, and fails the test otherwise.
func value(t *testing.T, s secrets.Secret, err error) string {
	t.Helper()
	if err != nil {
		t.Fatalf("got %v", err)
	}
	var got string
	if err := s.Use(func(b []byte) error { got = string(b); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

// refused demands one of kinds, an error that names no value, and no secret.
func refused(t *testing.T, s secrets.Secret, err error, kinds ...rampart.Kind) {
	t.Helper()
	if err == nil || !s.IsZero() || !slices.Contains(kinds, rampart.KindOf(err)) {
		t.Errorf("got secret %v and error %v of kind %v, want kind %v", !s.IsZero(), err, rampart.KindOf(err), kinds)
	}
	quiet(t, err)
}

// quiet demands that an error shows no value, however it is printed.
func quiet(t *testing.T, err error) {
	t.Helper()
	for e := err; e != nil; e = errors.Unwrap(e) {
		if text := fmt.Sprintf("%v %+v %#v", e, e, e); strings.Contains(text, "canary") {
			t.Errorf("an error shows a value: %s", text)
		}
	}
}

// silent demands that neither the log nor the backend itself shows a value.
func silent(t *testing.T, p Place) {
	t.Helper()
	if p.Logs != nil && strings.Contains(p.Logs(), canary) {
		t.Error("the log shows a value")
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v", p.Backend, p.Backend, p.Backend), canary) {
		t.Error("the backend shows a value when it is printed")
	}
}

func found(t *testing.T, p Place) {
	p.Set(t, "shop/key", map[string]string{"": canary + "-1"})
	p.Set(t, "shop/other", map[string]string{"": canary + "-other"})
	old, err := p.Backend.Fetch(t.Context(), p.ref("shop/key", ""))
	if got := value(t, old, err); got != canary+"-1" {
		t.Errorf("got another value of %d bytes", len(got))
	}
	p.Set(t, "shop/key", map[string]string{"": canary + "-2"})
	s, err := p.Backend.Fetch(t.Context(), p.ref("shop/key", ""))
	if got := value(t, s, err); got != canary+"-2" {
		t.Error("a backend remembers: the new value did not come")
	}
	if s.Version() < old.Version() || s.Version() == old.Version() && s.Version() != 0 {
		t.Errorf("version %d follows %d", s.Version(), old.Version())
	}
	if s.Lease() != "" {
		t.Errorf("a secret that is only stored has lease %q", s.Lease())
	}
}

func fields(t *testing.T, p Place) {
	if !p.Fields {
		t.Skip("secrets of this place have no fields")
	}
	p.Set(t, "shop/db", map[string]string{"": canary + "-usual", "admin": canary + "-admin"})
	for field, want := range map[string]string{"": canary + "-usual", "admin": canary + "-admin"} {
		s, err := p.Backend.Fetch(t.Context(), p.ref("shop/db", field))
		if got := value(t, s, err); got != want {
			t.Errorf("field %q: got that of another", field)
		}
	}
	s, err := p.Backend.Fetch(t.Context(), p.ref("shop/db", "nobody"))
	refused(t, s, err, rampart.NotFound)
}

// missing accepts Denied: some places do not say which of the two it is.
func missing(t *testing.T, p Place) {
	p.Set(t, "shop/key", map[string]string{"": canary})
	for _, path := range []string{"shop/nothing", "nothing", "shop", "shop/key/below"} {
		s, err := p.Backend.Fetch(t.Context(), p.ref(path, ""))
		refused(t, s, err, rampart.NotFound, rampart.Denied)
	}
}

func strange(t *testing.T, p Place) {
	p.Set(t, "shop/key", map[string]string{"": canary})
	for _, path := range []string{
		"", "/", ".", "..", "../shop/key", "shop/../shop/key", "shop/./key", "shop//key", "/shop/key", "shop/key/", "shop/%6bey", "shop%2fkey",
		"shop/key?version=1", "shop/key#value", "shop/key\x00", "shop/key\r\nX-A: b", "shop\\key", strings.Repeat("a/", 5000) + "a", "\xff\xfe",
	} {
		s, err := p.Backend.Fetch(t.Context(), p.ref(path, ""))
		if err == nil || !s.IsZero() {
			t.Errorf("path %.40q leads to a secret", path)
			continue
		}
		refused(t, s, err, rampart.Invalid, rampart.NotFound, rampart.Denied)
	}
}

func denied(t *testing.T, p Place) {
	if p.Deny == nil {
		t.Skip("this place refuses nobody by path")
	}
	p.Set(t, "shop/key", map[string]string{"": canary})
	p.Set(t, "shop/open", map[string]string{"": canary})
	p.Deny(t, "shop/key")
	s, err := p.Backend.Fetch(t.Context(), p.ref("shop/key", ""))
	refused(t, s, err, rampart.Denied)
	s, err = p.Backend.Fetch(t.Context(), p.ref("shop/open", ""))
	value(t, s, err)
}

func outage(t *testing.T, p Place) {
	if p.Down == nil {
		t.Skip("this place is never away")
	}
	p.Set(t, "shop/key", map[string]string{"": canary})
	p.Down(true)
	s, err := p.Backend.Fetch(t.Context(), p.ref("shop/key", ""))
	refused(t, s, err, rampart.Unavailable)
	if err != nil && !strings.Contains(err.Error(), p.Name) {
		t.Errorf("the error does not name the backend: %v", err)
	}
	p.Down(false)
	s, err = p.Backend.Fetch(t.Context(), p.ref("shop/key", ""))
	value(t, s, err)
}

func cancelled(t *testing.T, p Place) {
	p.Set(t, "shop/key", map[string]string{"": canary})
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := p.Backend.Fetch(over, p.ref("shop/key", "")); err != nil {
		refused(t, s, err, rampart.Unavailable)
	}
	if p.Hang == nil {
		t.Skip("this place never keeps one waiting")
	}
	p.Hang(true)
	defer p.Hang(false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s, err := p.Backend.Fetch(ctx, p.ref("shop/key", ""))
		refused(t, s, err, rampart.Unavailable)
	}()
	cancel()
	<-done
}

func concurrent(t *testing.T, p Place) {
	for i := range 4 {
		p.Set(t, fmt.Sprintf("shop/key-%d", i), map[string]string{"": fmt.Sprintf("%s-%d", canary, i)})
	}
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			s, err := p.Backend.Fetch(t.Context(), p.ref(fmt.Sprintf("shop/key-%d", i%4), ""))
			if err != nil {
				t.Errorf("got %v", err)
				return
			}
			_ = s.Use(func(b []byte) error {
				if string(b) != fmt.Sprintf("%s-%d", canary, i%4) {
					t.Error("got the value of another path")
				}
				return nil
			})
		})
	}
	wg.Wait()
}

func bounded(t *testing.T, p Place) {
	if p.Max == 0 {
		t.Skip("no bound is told")
	}
	p.Set(t, "shop/big", map[string]string{"": strings.Repeat("a", p.Max+1)})
	s, err := p.Backend.Fetch(t.Context(), p.ref("shop/big", ""))
	if err == nil || !s.IsZero() || len(err.Error()) > 1000 {
		t.Errorf("a value of more than %d bytes came through", p.Max)
	}
}

func writer(t *testing.T, p Place) secrets.Writer {
	w, ok := p.Backend.(secrets.Writer)
	if !ok {
		t.Skip("this backend only reads")
	}
	return w
}

func put(t *testing.T, w secrets.Writer, path, v string, after int) int {
	t.Helper()
	n, err := w.Put(t.Context(), path, []byte(v), after)
	if err != nil {
		t.Fatalf("put %s after %d: %v", path, after, err)
	}
	return n
}

func writerPut(t *testing.T, p Place) {
	w := writer(t, p)
	if n := put(t, w, "shop/key", canary+"-1", 0); n != 1 {
		t.Errorf("the first version is %d", n)
	}
	for _, after := range []int{0, 2, 7} {
		_, err := w.Put(t.Context(), "shop/key", []byte(canary), after)
		refused(t, secrets.Secret{}, err, rampart.Conflict)
	}
	_, err := w.Put(t.Context(), "shop/none", []byte(canary), 1)
	refused(t, secrets.Secret{}, err, rampart.Conflict)
	if n := put(t, w, "shop/key", canary+"-2", 1); n != 2 {
		t.Errorf("version 2 is %d", n)
	}
	if n := put(t, w, "shop/key", canary+"-3", -1); n != 3 {
		t.Errorf("version 3 is %d", n)
	}
	s, err := w.Fetch(t.Context(), p.ref("shop/key", ""))
	if got := value(t, s, err); got != canary+"-3" || s.Version() != 3 {
		t.Errorf("the newest is version %d", s.Version())
	}
}

func writerRace(t *testing.T, p Place) {
	w := writer(t, p)
	put(t, w, "shop/key", canary, 0)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		wins int
	)
	for i := range 8 {
		wg.Go(func() {
			_, err := w.Put(t.Context(), "shop/key", fmt.Appendf(nil, "%s-%d", canary, i), 1)
			if err != nil && rampart.KindOf(err) != rampart.Conflict {
				t.Errorf("got %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				wins++
			}
		})
	}
	wg.Wait()
	if wins != 1 {
		t.Errorf("%d of 8 wrote version 2", wins)
	}
}

func writerRefuses(t *testing.T, p Place) {
	w := writer(t, p)
	for name, c := range map[string]struct {
		path  string
		value []byte
	}{
		"nothing":               {"shop/key", nil},
		"more than fits":        {"shop/key", bytes.Repeat([]byte("a"), 2<<20)},
		"no path":               {"", []byte(canary)},
		"a path that climbs":    {"shop/../key", []byte(canary)},
		"a path of two slashes": {"shop//key", []byte(canary)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.Put(t.Context(), c.path, c.value, -1)
			refused(t, secrets.Secret{}, err, rampart.Invalid)
		})
	}
}

func writerList(t *testing.T, p Place) {
	w := writer(t, p)
	for _, path := range []string{"shop/b/deep/er", "shop/a", "shopping/c", "shop/b", "bank/d", "shop/a"} {
		put(t, w, path, canary, -1)
	}
	for prefix, want := range map[string][]string{
		"":        {"bank/d 1", "shop/a 2", "shop/b 1", "shop/b/deep/er 1", "shopping/c 1"},
		"shop":    {"shop/a 2", "shop/b 1", "shop/b/deep/er 1"},
		"shop/b":  {"shop/b/deep/er 1"},
		"nothing": nil,
	} {
		list, err := w.List(t.Context(), prefix)
		if err != nil {
			t.Fatalf("list %q: %v", prefix, err)
		}
		var got []string
		for _, l := range list {
			got = append(got, fmt.Sprintf("%s %d", l.Path, l.Version))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("below %q (-want +got):\n%s", prefix, diff)
		}
	}
}

func writerDestroy(t *testing.T, p Place) {
	w := writer(t, p)
	for i := range 3 {
		put(t, w, "shop/key", fmt.Sprintf("%s-%d", canary, i+1), i)
	}
	put(t, w, "shop/other", canary, 0)
	err := w.Destroy(t.Context(), "shop/key", 2)
	if p.Whole {
		refused(t, secrets.Secret{}, err, rampart.Invalid)
	} else if err != nil {
		t.Fatal(err)
	}
	if v, ok := p.Backend.(secrets.Versions); ok && !p.Whole {
		s, err := v.FetchVersion(t.Context(), p.ref("shop/key", ""), 2)
		refused(t, s, err, rampart.NotFound)
		s, err = v.FetchVersion(t.Context(), p.ref("shop/key", ""), 1)
		value(t, s, err)
	}
	s, err := w.Fetch(t.Context(), p.ref("shop/key", ""))
	value(t, s, err)
	if err := w.Destroy(t.Context(), "shop/key", 0); err != nil {
		t.Fatal(err)
	}
	s, err = w.Fetch(t.Context(), p.ref("shop/key", ""))
	refused(t, s, err, rampart.NotFound)
	s, err = w.Fetch(t.Context(), p.ref("shop/other", ""))
	value(t, s, err)
}

func versions(t *testing.T, p Place) {
	v, ok := p.Backend.(secrets.Versions)
	if !ok {
		t.Skip("this backend has the newest version only")
	}
	for i := range 3 {
		p.Set(t, "shop/key", map[string]string{"": fmt.Sprintf("%s-%d", canary, i+1)})
	}
	for n := range 3 {
		s, err := v.FetchVersion(t.Context(), p.ref("shop/key", ""), n+1)
		if got := value(t, s, err); got != fmt.Sprintf("%s-%d", canary, n+1) || s.Version() != n+1 {
			t.Errorf("version %d: got version %d, or its value is another's", n+1, s.Version())
		}
	}
	s, err := v.FetchVersion(t.Context(), p.ref("shop/key", ""), 4)
	refused(t, s, err, rampart.NotFound)
	s, err = v.FetchVersion(t.Context(), p.ref("shop/nothing", ""), 1)
	refused(t, s, err, rampart.NotFound, rampart.Denied)
}

func leased(t *testing.T, p Place) {
	l, ok := p.Backend.(secrets.Leaser)
	if !ok {
		t.Skip("secrets of this backend have no lease")
	}
	a, err := p.Backend.Fetch(t.Context(), p.Lease)
	was := value(t, a, err)
	b, err := p.Backend.Fetch(t.Context(), p.Lease)
	value(t, b, err)
	if a.Lease() == "" || a.Lease() == b.Lease() || a.Until().IsZero() || a.User() == "" || a.User() == b.User() {
		t.Errorf("leases %q and %q, until %v, users %q and %q: want two, of an end, for two users", a.Lease(), b.Lease(), a.Until(), a.User(), b.User())
	}
	more, err := l.Renew(t.Context(), a, 0)
	if got := value(t, more, err); got != was || more.User() != a.User() || more.Lease() != a.Lease() || more.Until().IsZero() {
		t.Error("a renewed secret is another")
	}
	if err := l.Revoke(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	s, err := l.Renew(t.Context(), a, 0)
	refused(t, s, err, rampart.NotFound, rampart.Denied)
	if _, err := l.Renew(t.Context(), b, 0); err != nil {
		t.Errorf("one lease ended with the other: %v", err)
	}
	s, err = l.Renew(t.Context(), secrets.New([]byte(canary), 1), 0)
	refused(t, s, err, rampart.Invalid, rampart.NotFound)
}
