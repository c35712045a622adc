package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/pap"
)

var day = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const system = "shop.example"

// keyOf returns a key that is always the same.
func keyOf(name string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(name, ed25519.SeedSize)[:ed25519.SeedSize]))
}

func trusted(names ...string) Keys {
	keys := Keys{}
	for _, name := range names {
		public, _ := keyOf(name).Public().(ed25519.PublicKey)
		keys[KeyID(public)] = public
	}
	return keys
}

const ownerPolicy = `@id("owner")
permit (principal, action, resource) when { resource.owner == principal.id };
`

// setOf is a system of one service whose policies are these.
func setOf(policy string) pap.Set {
	return pap.Set{
		Roles: map[string][]string{"viewer": {"orders:read"}},
		Schema: &authz.Schema{Types: map[string]authz.Type{"order": {
			Actions: []rampart.Action{"orders:read", "orders:pay"},
			Attrs:   map[string]authz.Attr{"owner": {Kind: authz.KindString}, "total": {Kind: authz.KindDecimal, Class: rampart.ClassConfidential, Optional: true}},
		}}},
		Services: map[string]pap.Service{"orders": {Policy: []string{"policy/orders.cedar"}}},
		Files:    map[string][]byte{"policy/orders.cedar": []byte(policy)},
	}
}

func stamp(version uint64) Stamp {
	return Stamp{System: system, Version: version, Created: day, Expires: day.Add(24 * time.Hour)}
}

func signed(t testing.TB, set pap.Set, s Stamp, key string) []byte {
	t.Helper()
	d, err := Build(set, s)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := d.Sign(keyOf(key))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestRoundTrip(t *testing.T) {
	set := setOf(ownerPolicy)
	raw := signed(t, set, stamp(3), "a")
	b, err := Open(bytes.NewReader(raw), Trust{System: system, Keys: trusted("b", "a"), Now: day.Add(time.Hour), Floor: Floor{Version: 2, Digest: "other"}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(set, b.Set); diff != "" {
		t.Error(diff)
	}
	if again := signed(t, b.Set, stamp(3), "a"); !bytes.Equal(raw, again) {
		t.Error("the same set and stamp made another file")
	}
	if _, err := Open(bytes.NewReader(raw), Trust{System: system, Keys: trusted("a"), Now: day, Floor: Floor{b.Manifest.Version, b.Digest}}); err != nil {
		t.Errorf("the bundle of the floor itself: %v", err)
	}
	got, err := Content(raw, b.Digest)
	if diff := cmp.Diff(set, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if _, err := Content(raw, strings.Repeat("0", 64)); codeOf(err) != CodeAltered {
		t.Errorf("content of another manifest: %v", err)
	}
}

// item is one entry of an archive that nobody should take.
type item struct {
	tar.Header
	body []byte
}

// entriesOf takes an archive apart, so that a test can put it together wrongly.
func entriesOf(t testing.TB, raw []byte) []item {
	t.Helper()
	gz, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	var out []item
	for r := tar.NewReader(gz); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		b, err2 := io.ReadAll(r)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		out = append(out, item{*h, b})
	}
}

func archive(t testing.TB, list []item) []byte {
	t.Helper()
	var buf bytes.Buffer
	gz := gzip.NewWriter(&buf)
	w := tar.NewWriter(gz)
	for _, e := range list {
		if e.Typeflag == tar.TypeReg {
			e.Size = int64(len(e.body))
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if e.Typeflag == tar.TypeReg {
			if _, err := w.Write(e.body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(w.Close(), gz.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func plain(name, body string) item {
	return item{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600}, []byte(body)}
}

// listedAs signs a bundle whose manifest lists an entry of any name, so that only
// the name is at fault.
func listedAs(t testing.TB, name, body string, extra item) []byte {
	t.Helper()
	d, err := Build(setOf(ownerPolicy), stamp(3))
	if err != nil {
		t.Fatal(err)
	}
	quoted := []byte(`"files":{"` + name + `":{"sha256":"` + hash([]byte(body)) + `","size":` + "4" + `},`)
	d.manifest = bytes.Replace(d.manifest, []byte(`"files":{`), quoted, 1)
	raw, err := d.Sign(keyOf("a"))
	if err != nil {
		t.Fatal(err)
	}
	return archive(t, append(entriesOf(t, raw), extra))
}

// TestOpenRefuses: each way to get policies in that nobody signed has its own
// code.
func TestOpenRefuses(t *testing.T) {
	good := signed(t, setOf(ownerPolicy), stamp(3), "a")
	parts := func() []item { return entriesOf(t, good) }
	changed := func(i int, to func(*item)) []byte {
		list := parts()
		to(&list[i])
		return archive(t, list)
	}
	without := func(i int) []byte { list := parts(); return archive(t, append(list[:i:i], list[i+1:]...)) }
	zeros := make([]byte, MaxFile+1)
	other := func(s Stamp) []byte { return signed(t, setOf(ownerPolicy), s, "a") }
	at := func(version uint64, created, expires time.Duration) []byte {
		return other(Stamp{System: system, Version: version, Created: day.Add(created), Expires: day.Add(expires)})
	}
	for name, row := range map[string]struct {
		raw  []byte
		want Code
	}{
		"no archive":                 {[]byte("policies"), CodeFormat},
		"nothing":                    {nil, CodeFormat},
		"not signed":                 {without(1), CodeUnsigned},
		"no manifest":                {without(0), CodeFormat},
		"signed by a stranger":       {signed(t, setOf(ownerPolicy), stamp(3), "z"), CodeKey},
		"another manifest":           {changed(0, func(e *item) { e.body = bytes.Replace(e.body, []byte(`"version":3`), []byte(`"version":9`), 1) }), CodeSignature},
		"the signature of another":   {changed(1, func(e *item) { e.body = entriesOf(t, at(4, 0, time.Hour))[1].body }), CodeSignature},
		"no signature algorithm":     {changed(1, func(e *item) { e.body = none(e.body) }), CodeSignature},
		"an altered policy":          {changed(2, func(e *item) { e.body = bytes.Replace(e.body, []byte("permit"), []byte("forbid"), 1) }), CodeAltered},
		"a policy of another size":   {changed(2, func(e *item) { e.body = append(e.body, ' ') }), CodeAltered},
		"a policy too many":          {archive(t, append(parts(), plain("files/more.cedar", "permit"))), CodeUnlisted},
		"a policy that is missing":   {without(2), CodeMissing},
		"a policy that is twice":     {archive(t, append(parts(), parts()[2])), CodeDuplicate},
		"older than what ran":        {at(1, 0, time.Hour), CodeRollback},
		"another of the same":        {at(2, 0, time.Hour), CodeRollback},
		"expired":                    {at(3, -2*time.Hour, 0), CodeExpired},
		"not yet":                    {at(3, 6*time.Minute, time.Hour), CodeNotYet},
		"of another system":          {other(Stamp{System: "bank.example", Version: 3, Created: day, Expires: day.Add(time.Hour)}), CodeSystem},
		"a name that climbs":         {listedAs(t, "../etc/passwd", "root", plain("../etc/passwd", "root")), CodeName},
		"an absolute name":           {listedAs(t, "/etc/passwd", "root", plain("/etc/passwd", "root")), CodeName},
		"a name of two spellings":    {listedAs(t, "files/./a", "root", plain("files/./a", "root")), CodeName},
		"a name outside files":       {listedAs(t, "bin/sh", "root", plain("bin/sh", "root")), CodeName},
		"a symbolic link":            {listedAs(t, "files/a", "root", item{tar.Header{Typeflag: tar.TypeSymlink, Name: "files/a", Linkname: "/etc/passwd"}, nil}), CodeName},
		"a hard link":                {listedAs(t, "files/a", "root", item{tar.Header{Typeflag: tar.TypeLink, Name: "files/a", Linkname: "set.json"}, nil}), CodeName},
		"a folder":                   {archive(t, append(parts(), item{tar.Header{Typeflag: tar.TypeDir, Name: "files/d"}, nil})), CodeName},
		"a manifest of zeros":        {archive(t, []item{plain(manifestName, string(zeros))}), CodeSize},
		"a policy of zeros":          {changed(2, func(e *item) { e.body = zeros }), CodeSize},
		"more than it may unpack to": {bomb(t, good), CodeSize},
		"something behind it":        {append(bytes.Clone(good), "more"...), CodeUnlisted},
		"cut off":                    {good[:len(good)-9], CodeFormat},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(bytes.NewReader(row.raw), Trust{System: system, Keys: trusted("a", "b"), Now: day, Floor: Floor{2, "other"}})
			if err == nil || codeOf(err) != row.want {
				t.Errorf("got %v, want %s", err, row.want)
			}
		})
	}
}

// none is the signature with the algorithm "none", which RFC 7515 knows.
func none(jws []byte) []byte {
	_, rest, _ := strings.Cut(string(jws), ".")
	head := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"` + KeyID(keyOf("a").Public().(ed25519.PublicKey)) + `","typ":"` + signType + `"}`))
	return []byte(head + "." + rest)
}

// bomb unpacks to far more than it weighs, behind all that was signed.
func bomb(t testing.TB, good []byte) []byte {
	list := entriesOf(t, good)
	var buf bytes.Buffer
	gz := gzip.NewWriter(&buf)
	w := tar.NewWriter(gz)
	for _, e := range list {
		e.Size = int64(len(e.body))
		if err := errors.Join(w.WriteHeader(&e.Header), second(w.Write(e.body))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Flush(), second(gz.Write(make([]byte, MaxUnpacked+(MaxFiles+8)*2048))), gz.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func second(_ int, err error) error { return err }

// TestEveryByte: whatever byte is altered, the bundle is refused or says the
// same.
func TestEveryByte(t *testing.T) {
	good := signed(t, setOf(ownerPolicy), stamp(3), "a")
	trust := Trust{System: system, Keys: trusted("a"), Now: day}
	want, err := Open(bytes.NewReader(good), trust)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		if got, err := Open(bytes.NewReader(bad), trust); err == nil && got.Digest != want.Digest {
			t.Fatalf("byte %d: another bundle was accepted", i)
		}
	}
}

// TestRotation: while two keys overlap, bundles of both are taken; afterwards,
// those of the newer alone.
func TestRotation(t *testing.T) {
	old, young := signed(t, setOf(ownerPolicy), stamp(3), "a"), signed(t, setOf(ownerPolicy), stamp(4), "b")
	for _, row := range []struct {
		keys     Keys
		old, new bool
	}{
		{trusted("a"), true, false},
		{trusted("a", "b"), true, true},
		{trusted("b"), false, true},
		{nil, false, false},
	} {
		_, err1 := Open(bytes.NewReader(old), Trust{System: system, Keys: row.keys, Now: day})
		_, err2 := Open(bytes.NewReader(young), Trust{System: system, Keys: row.keys, Now: day})
		if (err1 == nil) != row.old || (err2 == nil) != row.new {
			t.Errorf("%d keys: %v, %v", len(row.keys), err1, err2)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*pap.Set, *Stamp){
		"no version":         func(_ *pap.Set, s *Stamp) { s.Version = 0 },
		"no system":          func(_ *pap.Set, s *Stamp) { s.System = "" },
		"an end before":      func(_ *pap.Set, s *Stamp) { s.Expires = s.Created },
		"a name that climbs": func(p *pap.Set, _ *Stamp) { p.Files["../a"] = nil },
		"a file too large":   func(p *pap.Set, _ *Stamp) { p.Files["a"] = make([]byte, MaxFile+1) },
	} {
		set, s := setOf(ownerPolicy), stamp(1)
		spoil(&set, &s)
		if _, err := Build(set, s); err == nil {
			t.Errorf("%s: built", name)
		}
	}
}

func TestParseJWKS(t *testing.T) {
	public, _ := keyOf("a").Public().(ed25519.PublicKey)
	keys, err := ParseJWKS([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"forged","x":"` + FormatKey(public) + `"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	if diff := cmp.Diff(trusted("a"), keys); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if _, err := ParseJWKS([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA"}]}`)); err == nil {
		t.Error("a short key was taken")
	}
}

// FuzzOpen: whatever comes, Open neither panics nor takes what was not signed.
func FuzzOpen(f *testing.F) {
	good := signed(f, setOf(ownerPolicy), stamp(3), "a")
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(signed(f, setOf(""), stamp(9), "z"))
	f.Add([]byte{0x1f, 0x8b})
	want, err := Open(bytes.NewReader(good), Trust{System: system, Keys: trusted("a"), Now: day})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := Open(bytes.NewReader(raw), Trust{System: system, Keys: trusted("a"), Now: day})
		if err == nil && b.Digest != want.Digest {
			t.Errorf("took a bundle that nobody signed: %+v", b.Manifest)
		}
		if _, ok := errors.AsType[*Error](err); err != nil && !ok {
			t.Errorf("an error without a code: %v", err)
		}
	})
}
