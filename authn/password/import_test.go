package password

import (
	"strings"
	"testing"

	"github.com/rampart-security/rampart"
)

// imported are hashes of "correct horse battery" that other programs made:
// libxcrypt the bcrypt ones, Python's hashlib the rest.
func imported() map[string]string {
	return map[string]string{
		"bcrypt 2a":     "$2a$04$abcdefghijklmnopqrstuuqREtd3VJD2QVZbuFskFSLk6eRIrQoOS",
		"bcrypt 2b":     "$2b$04$abcdefghijklmnopqrstuuqREtd3VJD2QVZbuFskFSLk6eRIrQoOS",
		"bcrypt 2y":     "$2y$05$abcdefghijklmnopqrstuuD3mHdCr44zlIZ.VZCaYRpfQhXMYnEo.",
		"scrypt":        "$scrypt$ln=12,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$1NdiUFsPOMLP4vAV72BPXbc2QAIqjCpT3FqIc76ESZc",
		"pbkdf2 sha256": "$pbkdf2-sha256$i=10000,l=32$MDEyMzQ1Njc4OWFiY2RlZg$rqRM8zWcxqR5JgdNH2Ukv6ZDL0xynSbmRCDsePeFnOo",
		"pbkdf2 sha512": "$pbkdf2-sha512$25000$MDEyMzQ1Njc4OWFiY2RlZg$PkJvJ1.HTMpQV1/PlBUfPMVk.KYN7kDZDOgk0VBw2s2FiV5yqXqwYhhG9fbWExOQe3VYIz/Ag8SUkqPGhVXnag",
	}
}

// TestImported: each is accepted once, for its own password, and replaced.
func TestImported(t *testing.T) {
	h := NewHasher(1)
	for name, hash := range imported() {
		if err := Import(hash); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		match, rehash, err := h.Verify(t.Context(), hash, "correct horse battery")
		if !match || !rehash || err != nil {
			t.Errorf("%s: match %v, rehash %v, %v", name, match, rehash, err)
		}
		for _, wrong := range []string{"", "correct horse batterz", "correct horse battery ", strings.Repeat("x", 2000), "correct horse batter\xff"} {
			if match, rehash, err := h.Verify(t.Context(), hash, wrong); match || rehash || err != nil {
				t.Errorf("%s with %.30q: match %v, rehash %v, %v", name, wrong, match, rehash, err)
			}
		}
	}
	phc, err := h.Rehash(t.Context(), "short")
	ok(t, err)
	if match, rehash, err := h.Verify(t.Context(), phc, "short"); !match || rehash || err != nil {
		t.Errorf("a short password of old: match %v, rehash %v, %v", match, rehash, err)
	}
}

func TestImportsOutOfBounds(t *testing.T) {
	good := imported()
	change := func(name, old, fresh string) string {
		t.Helper()
		if !strings.Contains(good[name], old) {
			t.Fatalf("%s has no %s", name, old)
		}
		return strings.Replace(good[name], old, fresh, 1)
	}
	for name, hash := range map[string]string{
		"nothing":                 "",
		"plain text":              "correct horse battery",
		"MD5":                     "$1$abcdefgh$G//4keteveJp0qb8z2DxG/",
		"SHA-512 crypt":           "$6$abcdefgh$" + strings.Repeat("a", 86),
		"bcrypt 2x":               change("bcrypt 2a", "2a", "2x"),
		"bcrypt of cost 3":        change("bcrypt 2a", "$04$", "$03$"),
		"bcrypt of cost 15":       change("bcrypt 2a", "$04$", "$15$"),
		"bcrypt of cost 99":       change("bcrypt 2a", "$04$", "$99$"),
		"bcrypt cut short":        good["bcrypt 2a"][:59],
		"bcrypt and more":         good["bcrypt 2a"] + "a",
		"scrypt of 2^9":           change("scrypt", "ln=12", "ln=9"),
		"scrypt of 2^20":          change("scrypt", "ln=12", "ln=20"),
		"scrypt of 1 GiB":         change("scrypt", "ln=12,r=8", "ln=18,r=32"),
		"scrypt of long work":     change("scrypt", "ln=12,r=8,p=1", "ln=18,r=8,p=16"),
		"scrypt without blocks":   change("scrypt", "r=8", "r=0"),
		"scrypt without lanes":    change("scrypt", ",p=1", ""),
		"scrypt without a tag":    good["scrypt"][:strings.LastIndex(good["scrypt"], "$")],
		"scrypt with a short tag": good["scrypt"][:strings.LastIndex(good["scrypt"], "$")+5],
		"PBKDF2 of 999":           change("pbkdf2 sha256", "i=10000", "i=999"),
		"PBKDF2 of 2,000,001":     change("pbkdf2 sha256", "i=10000", "i=2000001"),
		"PBKDF2 padded":           change("pbkdf2 sha256", "i=10000", "i=010000"),
		"PBKDF2 of another tag":   change("pbkdf2 sha256", "l=32", "l=31"),
		"PBKDF2 with SHA-1":       change("pbkdf2 sha256", "pbkdf2-sha256", "pbkdf2"),
		"PBKDF2 with a newline":   good["pbkdf2 sha256"] + "\n",
		"PBKDF2 in four parts":    good["pbkdf2 sha256"] + "$",
		"too long":                good["scrypt"] + strings.Repeat("A", 300),
	} {
		if err := Import(hash); rampart.KindOf(err) != rampart.Invalid || err == nil {
			t.Errorf("%s: %v, want invalid", name, err)
		}
		if match, _, err := NewHasher(1).Verify(t.Context(), hash, "correct horse battery"); match || rampart.KindOf(err) != rampart.Internal {
			t.Errorf("%s: match %v, %v", name, match, err)
		}
	}
}

// FuzzRead holds that whatever is accepted stays within the bounds of what one
// check may cost, and never panics.
func FuzzRead(f *testing.F) {
	for _, hash := range imported() {
		f.Add(hash)
	}
	f.Add("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	f.Add("$scrypt$ln=,r=,p=$$")
	f.Add("$pbkdf2-sha256$i=1000,l=$$")
	f.Fuzz(func(t *testing.T, hash string) {
		v, err := read(hash)
		if (v == nil) == (err == nil) {
			t.Fatalf("%q: %v, %v", hash, v, err)
		}
		if err == nil && Import(hash) != nil {
			t.Fatalf("%q verifies and does not import", hash)
		}
		if s, ok := v.(stored); ok && (s.String() != hash || s.memory > maxMemory || s.time > maxTime || s.threads > maxThreads) {
			t.Fatalf("%q became %q", hash, s)
		}
		if d, ok := v.(derived); ok && (len(d.tag) < minTag || len(d.tag) > maxTag) {
			t.Fatalf("%q has a tag of %d bytes", hash, len(d.tag))
		}
	})
}
