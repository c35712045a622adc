package message_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/network/message"
	"github.com/rampart-security/rampart/tls/ca"
	"github.com/rampart-security/rampart/tls/svid"
)

const (
	orders   = "spiffe://shop.internal/service/orders"
	payments = "spiffe://shop.internal/service/payments"
	topic    = "orders.paid"
	payload  = `{"order":"o-1","total":1250}`
	window   = 10 * time.Minute
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// house is one trust domain at one time.
type house struct {
	ca  *ca.Authority
	now time.Time
}

func newHouse(t testing.TB, now time.Time) house {
	t.Helper()
	a, err := ca.New("shop.internal", func() time.Time { return now })
	ok(t, err)
	return house{a, now}
}

func (h house) clock() time.Time { return h.now }

// signer returns the signer of a plane that joined when the house was built.
func (h house) signer(t testing.TB, id string) *message.Signer {
	t.Helper()
	key, csr, err := svid.NewKeyAndCSR()
	ok(t, err)
	chain, notAfter, err := h.ca.Issue(csr, id, ca.IssueOptions{})
	ok(t, err)
	src := svid.NewSource()
	s := svid.Snapshot{ID: id, NotAfter: notAfter, Fingerprint: sha256.Sum256(chain[0])}
	s.Certificate.Certificate, s.Certificate.PrivateKey = chain, key
	src.Set(s)
	return &message.Signer{Source: src, Now: h.clock}
}

// believer believes the house's authority.
func (h house) believer(t testing.TB) *svid.Source {
	t.Helper()
	trust, err := svid.NewTrust(1, "shop.internal", h.ca.BundlePEM(), nil)
	ok(t, err)
	src := svid.NewSource()
	ok(t, src.SetTrust(trust))
	return src
}

func (h house) verifier(t testing.TB) *message.Verifier {
	t.Helper()
	return message.NewVerifier(message.VerifierOptions{
		Source: h.believer(t), Accept: map[string]bool{orders: true}, Topic: topic, Window: window,
	})
}

func (h house) sign(t testing.TB, id, topic string) []byte {
	t.Helper()
	raw, err := h.signer(t, id).Sign(topic, "user:alice", []byte(payload))
	ok(t, err)
	return raw
}

func TestVerify(t *testing.T) {
	h := newHouse(t, time.Now().Truncate(time.Second))
	got, err := h.verifier(t).Verify(h.sign(t, orders, topic), h.now.Add(time.Second))
	ok(t, err)
	if got.ID == "" {
		t.Error("no id")
	}
	got.ID = ""
	want := message.Message{Topic: topic, Subject: "user:alice", Producer: orders, Payload: []byte(payload), IssuedAt: h.now.UTC()}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("message (-want +got):\n%s", diff)
	}
}

// resign changes header and body of a message and signs it again with a key of
// its own choice.
func resign(t testing.TB, raw []byte, key *ecdsa.PrivateKey, change func(header, body map[string]any)) []byte {
	t.Helper()
	parts := strings.Split(string(raw), ".")
	var docs [2]map[string]any
	for i := range docs {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		ok(t, err)
		ok(t, json.Unmarshal(b, &docs[i]))
	}
	change(docs[0], docs[1])
	for i := range docs {
		b, err := json.Marshal(docs[i])
		ok(t, err)
		parts[i] = base64.RawURLEncoding.EncodeToString(b)
	}
	return signWith(t, key, parts[0]+"."+parts[1])
}

func signWith(t testing.TB, key *ecdsa.PrivateKey, signed string) []byte {
	t.Helper()
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	ok(t, err)
	var sig [64]byte
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return []byte(signed + "." + base64.RawURLEncoding.EncodeToString(sig[:]))
}

func TestRefused(t *testing.T) {
	h := newHouse(t, time.Now().Truncate(time.Second))
	stranger := newHouse(t, h.now)
	good := h.sign(t, orders, topic)
	// An accepted producer gone bad: its key signs whatever the row wants.
	src := h.signer(t, orders)
	current, err := src.Source.Current()
	ok(t, err)
	key := current.Certificate.PrivateKey.(*ecdsa.PrivateKey)
	own, err := src.Sign(topic, "", []byte(payload))
	ok(t, err)
	otherKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	same := func(map[string]any, map[string]any) {}
	in := func(f func(body map[string]any)) []byte {
		return resign(t, own, key, func(_, b map[string]any) { f(b) })
	}
	head := func(f func(header map[string]any)) []byte {
		return resign(t, own, key, func(h, _ map[string]any) { f(h) })
	}
	parts := strings.Split(string(good), ".")
	altered := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(decode(t, parts[1]), "1250", "9250", 1)))

	for _, tc := range []struct {
		name, control string
		raw           []byte
		stored        time.Time
	}{
		{"control: re-signed by the producer itself", "", resign(t, own, key, same), h.now},
		{"control: at the window's edge", "", good, h.now.Add(window)},
		{"control: broker's clock a minute behind", "", h.sign(t, orders, topic), h.now.Add(-time.Minute)},

		{"altered payload", "message.signature", []byte(parts[0] + "." + altered + "." + parts[2]), h.now},
		{"unsigned: bare JSON", "message.signature", []byte(payload), h.now},
		{"unsigned: alg none", "message.signature", head(func(m map[string]any) { m["alg"] = "none" }), h.now},
		{"empty signature", "message.signature", []byte(parts[0] + "." + parts[1] + "."), h.now},
		{"all-zero signature", "message.signature", []byte(parts[0] + "." + parts[1] + "." + strings.Repeat("A", 86)), h.now},
		{"signature of another message", "message.signature", []byte(parts[0] + "." + parts[1] + "." + strings.Split(string(own), ".")[2]), h.now},
		{"signed by a key that is not in the certificate", "message.signature", resign(t, good, otherKey, same), h.now},
		{"a sender that is not accepted", "message.signature", h.sign(t, payments, topic), h.now},
		{"another CA", "message.signature", stranger.sign(t, orders, topic), h.now},
		{"no certificates", "message.signature", head(func(m map[string]any) { delete(m, "x5c") }), h.now},
		{"garbage certificate", "message.signature", head(func(m map[string]any) { m["x5c"] = []string{"AAAA"} }), h.now},
		{"leaf without its issuer", "message.signature", head(func(m map[string]any) { m["x5c"] = m["x5c"].([]any)[:1] }), h.now},
		{"embedded jwk", "message.signature", head(func(m map[string]any) { m["jwk"] = map[string]any{} }), h.now},
		{"unknown crit", "message.signature", head(func(m map[string]any) { m["crit"] = []string{"x"} }), h.now},
		{"typ of an access token", "message.signature", head(func(m map[string]any) { m["typ"] = "at+jwt" }), h.now},
		{"for another topic", "message.signature", h.sign(t, orders, "orders.refunded"), h.now},
		{"no id", "message.signature", in(func(b map[string]any) { b["id"] = "" }), h.now},
		{"no topic", "message.signature", in(func(b map[string]any) { delete(b, "topic") }), h.now},
		{"no time", "message.signature", in(func(b map[string]any) { delete(b, "iat") }), h.now},
		{"time as text", "message.signature", in(func(b map[string]any) { b["iat"] = "now" }), h.now},
		{"no payload", "message.signature", in(func(b map[string]any) { delete(b, "payload") }), h.now},
		{"member that no message has", "message.signature", in(func(b map[string]any) { b["admin"] = true }), h.now},
		{"signed before the certificate began", "message.signature", in(func(b map[string]any) { b["iat"] = h.now.Unix() - 120 }), h.now},
		{"signed after the certificate ended", "message.signature", in(func(b map[string]any) { b["iat"] = h.now.Unix() + 3700 }), h.now.Add(3700 * time.Second)},
		{"duplicate member", "message.signature", signWith(t, key, strings.Split(string(own), ".")[0]+"."+base64.RawURLEncoding.EncodeToString([]byte(`{"id":"a","id":"b"}`))), h.now},
		{"trailing newline", "message.signature", append(good[:len(good):len(good)], '\n'), h.now},
		{"over 256 KiB", "message.signature", make([]byte, 256<<10+1), h.now},
		{"empty", "message.signature", nil, h.now},

		{"stored after the window", "message.replay", good, h.now.Add(window + time.Second)},
		{"stored before it was signed", "message.replay", good, h.now.Add(-2 * time.Minute)},
		{"no store time", "message.replay", good, time.Time{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := h.verifier(t).Verify(tc.raw, tc.stored)
			refusedBy(t, err, tc.control)
		})
	}
}

func decode(t testing.TB, part string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(part)
	ok(t, err)
	return string(b)
}

func refusedBy(t *testing.T, err error, control string) {
	t.Helper()
	if control == "" {
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		return
	}
	e, typed := errors.AsType[*rampart.Error](err)
	if !typed || e.Control != control {
		t.Fatalf("%v, want a refusal by %s", err, control)
	}
}

// TestExpiredChainStillSpeaksForItsTime: a slow consumer reads after the SVID
// has expired.
func TestExpiredChainStillSpeaksForItsTime(t *testing.T) {
	yesterday := newHouse(t, time.Now().Add(-24*time.Hour))
	_, err := yesterday.verifier(t).Verify(yesterday.sign(t, orders, topic), yesterday.now.Add(time.Second))
	ok(t, err)
}

func TestReplay(t *testing.T) {
	h := newHouse(t, time.Now().Truncate(time.Second))
	v := h.verifier(t)
	first, second := h.sign(t, orders, topic), h.sign(t, orders, topic)
	at := h.now.Add(1500 * time.Millisecond)
	for _, step := range []struct {
		name    string
		raw     []byte
		stored  time.Time
		control string
	}{
		{"first delivery", first, at, ""},
		{"the broker delivers it again", first, at, ""},
		{"a copy was published a nanosecond later", first, at.Add(1), "message.replay"},
		{"a copy was published minutes later", first, at.Add(9 * time.Minute), "message.replay"},
		{"another message", second, at.Add(time.Second), ""},
		{"the first, once more", first, at, ""},
		{"its copy, once more", first, at.Add(time.Minute), "message.replay"},
	} {
		_, err := v.Verify(step.raw, step.stored)
		t.Log(step.name)
		refusedBy(t, err, step.control)
	}
}

// TestMemoryOutlastsTheWindow walks the broker's clock over generations of the
// memory: no copy that passes the window is ever forgotten.
// TestAfter: a verifier that takes the place of another knows what that one has seen,
// and what it sees itself that one's successors know too.
func TestAfter(t *testing.T) {
	h := newHouse(t, time.Now())
	first, raw := h.verifier(t), h.sign(t, orders, topic)
	_, err := first.Verify(raw, h.now)
	ok(t, err)
	next := message.NewVerifier(message.VerifierOptions{Source: h.believer(t), Accept: map[string]bool{orders: true}, Topic: topic, Window: 2 * window, After: first})
	_, err = next.Verify(raw, h.now)
	ok(t, err) // delivered again
	_, err = next.Verify(raw, h.now.Add(time.Second))
	refusedBy(t, err, "message.replay")
	_, err = next.Verify(h.sign(t, orders, topic), h.now)
	ok(t, err)
}

func TestMemoryOutlastsTheWindow(t *testing.T) {
	start := time.Now().Truncate(time.Second)
	h := newHouse(t, start)
	s, v := h.signer(t, orders), h.verifier(t)
	now := start
	s.Now = func() time.Time { return now }
	var sent [][]byte
	for minute := range 55 { // the SVID lives an hour
		raw, err := s.Sign(topic, "", []byte(payload))
		ok(t, err)
		_, err = v.Verify(raw, now)
		refusedBy(t, err, "")
		sent = append(sent, raw)
		for _, old := range sent[max(0, minute-9):] { // those that the window lets through
			_, err := v.Verify(old, now.Add(time.Millisecond))
			refusedBy(t, err, "message.replay")
			if !strings.Contains(err.Error(), "seen before") {
				t.Fatalf("minute %d: refused by the window, not the memory: %v", minute, err)
			}
		}
		now = now.Add(time.Minute)
	}
}

func TestZeroVerifierAndNobodyAccepted(t *testing.T) {
	h := newHouse(t, time.Now())
	raw := h.sign(t, orders, topic)
	_, err := new(message.Verifier).Verify(raw, h.now)
	refusedBy(t, err, "message.signature")
	_, err = new(message.Verifier).Authentic(raw)
	refusedBy(t, err, "message.signature")
	none := message.NewVerifier(message.VerifierOptions{Source: h.believer(t), Topic: topic, Window: window})
	_, err = none.Verify(raw, h.now)
	refusedBy(t, err, "message.signature")
}

func TestSignRefuses(t *testing.T) {
	h := newHouse(t, time.Now())
	s := h.signer(t, orders)
	for _, tc := range []struct{ name, topic, subject, payload string }{
		{"no topic", "", "", payload},
		{"long topic", strings.Repeat("t", 300), "", payload},
		{"long subject", topic, strings.Repeat("s", 3000), payload},
		{"no payload", topic, "", ""},
		{"not JSON", topic, "", "hello"},
		{"two values", topic, "", `{} {}`},
		{"breaks out of its place", topic, "", `1},"v":{`},
		{"smuggles a member", topic, "", `1,"sub":"user:root"`},
		{"duplicate members", topic, "", `{"a":1,"a":2}`},
		{"too deep", topic, "", strings.Repeat("[", 40) + strings.Repeat("]", 40)},
		{"too large", topic, "", `"` + strings.Repeat("x", 250<<10) + `"`},
	} {
		if raw, err := s.Sign(tc.topic, tc.subject, []byte(tc.payload)); rampart.KindOf(err) != rampart.Invalid {
			t.Errorf("%s: signed %d bytes, %v", tc.name, len(raw), err)
		}
	}
	empty := &message.Signer{Source: svid.NewSource()}
	if _, err := empty.Sign(topic, "", []byte(payload)); rampart.KindOf(err) != rampart.Unavailable {
		t.Errorf("without an identity: %v", err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	wrong := svid.NewSource()
	snap := svid.Snapshot{ID: orders}
	snap.Certificate.PrivateKey = edKey
	wrong.Set(snap)
	if _, err := (&message.Signer{Source: wrong}).Sign(topic, "", []byte(payload)); err == nil {
		t.Error("signed with a key that is not P-256")
	}
}

func FuzzVerify(f *testing.F) {
	h := newHouse(f, time.Now())
	good := h.sign(f, orders, topic)
	v := h.verifier(f)
	f.Add(good)
	f.Add([]byte(payload))
	f.Add([]byte(fmt.Sprintf("%s.%s.AA", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"rampart-msg+jwt","x5c":[]}`)), "e30")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		msg, err := v.Verify(raw, h.now)
		if err == nil && string(msg.Payload) != payload {
			t.Fatalf("accepted %q", raw)
		}
		if e, typed := errors.AsType[*rampart.Error](err); err != nil && (!typed || e.Control == "") {
			t.Fatalf("untyped refusal %v", err)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	s := newHouse(b, time.Now()).signer(b, orders)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Sign(topic, "user:alice", []byte(payload)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	h := newHouse(b, time.Now())
	raw, v := h.sign(b, orders, topic), h.verifier(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(raw, h.now); err != nil {
			b.Fatal(err)
		}
	}
}
