package password

import (
	"context"
	"runtime"
	"strings"
	"testing"

	"github.com/rampart-security/rampart"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestHashAndVerify(t *testing.T) {
	h, ctx := NewHasher(1), t.Context()
	phc, err := h.Hash(ctx, "correct horse ﬁve") // with the ligature
	ok(t, err)
	if !strings.HasPrefix(phc, "$argon2id$v=19$m=47104,t=1,p=1$") {
		t.Errorf("hash %s", phc)
	}
	again, err := h.Hash(ctx, "correct horse ﬁve")
	ok(t, err)
	if again == phc {
		t.Error("two hashes share a salt")
	}
	for _, tc := range []struct {
		name, password string
		match          bool
	}{
		{"same", "correct horse ﬁve", true},
		{"same characters in another form", "correct horse five", true},
		{"another case", "Correct horse five", false},
		{"prefix", "correct horse", false},
		{"trailing space", "correct horse five ", false},
		{"empty", "", false},
		{"too long", strings.Repeat("a", 1025), false},
		{"not UTF-8", "correct horse \xff", false},
	} {
		match, rehash, err := h.Verify(ctx, phc, tc.password)
		ok(t, err)
		if match != tc.match || rehash {
			t.Errorf("%s: match %v rehash %v, want match %v", tc.name, match, rehash, tc.match)
		}
	}
}

// TestKnownAnswer pins the function itself: the reference implementation's
// vector for argon2id, 64 MiB, two passes, "password" and "somesalt".
func TestKnownAnswer(t *testing.T) {
	const phc = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	match, rehash, err := NewHasher(1).Verify(t.Context(), phc, "password")
	ok(t, err)
	if !match || !rehash {
		t.Errorf("match %v rehash %v, want both", match, rehash)
	}
	match, rehash, err = NewHasher(1).Verify(t.Context(), phc, "Password")
	ok(t, err)
	if match || rehash {
		t.Errorf("wrong password: match %v rehash %v", match, rehash)
	}
}

func TestPolicy(t *testing.T) {
	h := NewHasher(1)
	for _, tc := range []struct {
		name, password string
		good           bool
	}{
		{"eight characters", "12345678", true},
		{"eight characters of several bytes", strings.Repeat("ä", 8), true},
		{"1024 bytes", strings.Repeat("a", 1024), true},
		{"seven characters", "1234567", false},
		{"seven characters of several bytes", strings.Repeat("漢", 7), false},
		{"1025 bytes", strings.Repeat("a", 1025), false},
		{"not UTF-8", "12345678\xff", false},
		{"empty", "", false},
	} {
		_, err := h.Hash(t.Context(), tc.password)
		if (err == nil) != tc.good || err != nil && rampart.KindOf(err) != rampart.Invalid {
			t.Errorf("%s: %v, want accepted %v", tc.name, err, tc.good)
		}
	}
}

func TestStoredHashesOutOfBounds(t *testing.T) {
	const salt, tag = "AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	good := "$argon2id$v=19$m=8192,t=1,p=1$" + salt + "$" + tag
	if _, err := parse(good); err != nil {
		t.Fatal(err)
	}
	for name, phc := range map[string]string{
		"empty":               "",
		"bcrypt":              "$2a$10$abcdefghijklmnopqrstuv",
		"argon2i":             strings.Replace(good, "argon2id", "argon2i", 1),
		"version 16":          strings.Replace(good, "v=19", "v=16", 1),
		"no version":          strings.Replace(good, "v=19$", "", 1),
		"memory 0":            strings.Replace(good, "m=8192", "m=0", 1),
		"memory 4 TiB":        strings.Replace(good, "m=8192", "m=4294967295", 1),
		"memory over 32 bits": strings.Replace(good, "m=8192", "m=18446744073709551615", 1),
		"memory signed":       strings.Replace(good, "m=8192", "m=+8192", 1),
		"memory padded":       strings.Replace(good, "m=8192", "m=08192", 1),
		"time 0":              strings.Replace(good, "t=1", "t=0", 1),
		"time 11":             strings.Replace(good, "t=1", "t=11", 1),
		"threads 0":           strings.Replace(good, "p=1", "p=0", 1),
		"threads 17":          strings.Replace(good, "p=1", "p=17", 1),
		"another order":       strings.Replace(good, "t=1,p=1", "p=1,t=1", 1),
		"fourth parameter":    strings.Replace(good, "p=1", "p=1,data=AA", 1),
		"short salt":          strings.Replace(good, salt, "AAAA", 1),
		"no tag":              strings.TrimSuffix(good, tag),
		"short tag":           strings.TrimSuffix(good, tag) + "AAAA",
		"long tag":            strings.TrimSuffix(good, tag) + strings.Repeat("AAAA", 30),
		"newline":             good + "\n",
		"newline in the salt": strings.Replace(good, salt, salt[:4]+"\n"+salt[4:], 1),
		"padding":             good + "=",
		"trailing field":      good + "$",
		"too long":            good + strings.Repeat("A", 300),
	} {
		if s, err := parse(phc); err == nil {
			t.Errorf("%s: parsed as %+v", name, s.params)
		}
		match, _, err := NewHasher(1).Verify(t.Context(), phc, "12345678")
		if match || rampart.KindOf(err) != rampart.Internal {
			t.Errorf("%s: match %v, %v", name, match, err)
		}
	}
}

// TestFloodIsRefused fills every slot and every place in the queue; what comes
// next is refused at once, without hashing.
func TestFloodIsRefused(t *testing.T) {
	h := NewHasher(1)
	h.slots <- struct{}{} // a hash that does not end
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 1+queuePerSlot)
	for range cap(waiting) {
		go func() { waiting <- h.VerifyNone(ctx, "12345678") }()
	}
	for len(h.queue) < cap(h.queue) {
		runtime.Gosched() // the waiters are on their way in
	}
	if _, err := h.Hash(t.Context(), "12345678"); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("Hash: %v", err)
	}
	if err := h.VerifyNone(t.Context(), "12345678"); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("VerifyNone: %v", err)
	}
	cancel()
	for range cap(waiting) {
		if err := <-waiting; rampart.KindOf(err) != rampart.Unavailable {
			t.Errorf("a waiter whose request ended: %v", err)
		}
	}
	<-h.slots
	ok(t, h.VerifyNone(t.Context(), "12345678"))
}

func TestZeroHasherRefuses(t *testing.T) {
	var h Hasher
	if _, err := h.Hash(t.Context(), "12345678"); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("zero hasher: %v", err)
	}
}

// FuzzParse holds that what is accepted has one spelling and is in bounds.
func FuzzParse(f *testing.F) {
	f.Add("$argon2id$v=19$m=47104,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	f.Add("$argon2id$v=19$m=,t=,p=$$")
	f.Fuzz(func(t *testing.T, phc string) {
		s, err := parse(phc)
		if err != nil {
			return
		}
		if s.String() != phc || s.memory > maxMemory || s.time > maxTime || s.threads > maxThreads {
			t.Fatalf("%q became %q", phc, s)
		}
	})
}

func BenchmarkHash(b *testing.B) {
	h := NewHasher(1)
	b.ReportAllocs()
	for b.Loop() {
		if err := h.VerifyNone(b.Context(), "correct horse battery staple"); err != nil {
			b.Fatal(err)
		}
	}
}
