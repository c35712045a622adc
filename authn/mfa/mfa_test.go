package mfa_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/mfa"
	"github.com/rampart-security/rampart/secrets/embedded"
	"github.com/rampart-security/rampart/store"
	"github.com/rampart-security/rampart/store/sqlite"
)

// clock is a time that tests move.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time       { return time.Unix(c.at.Load(), 0) }
func (c *clock) pass(d time.Duration) { c.at.Add(int64(d / time.Second)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const subject = "user:ann"

const period = 30 * time.Second

// home is a manager on a real store, with ann's app.
type home struct {
	*mfa.Manager
	clock
	store *sqlite.Store
	app   func() string
}

func open(t *testing.T) *home {
	t.Helper()
	dir := t.TempDir()
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "db"))
	must(t, err)
	t.Cleanup(func() { db.Close() })
	for _, name := range []string{"ann", "bob", "eve"} {
		must(t, db.CreateUser(t.Context(), store.User{Name: name, Changed: time.Unix(1, 0)}))
	}
	kek, err := embedded.OpenKEK(filepath.Join(dir, "kek"))
	must(t, err)
	h := &home{store: db}
	h.at.Store(1_800_000_000)
	h.Manager = mfa.New(mfa.Options{Store: db, Tickets: db, Sealer: kek, Issuer: "pay", Now: h.now})
	return h
}

// enrolled is a home where ann has turned her app on.
func enrolled(t *testing.T) *home {
	t.Helper()
	h := open(t)
	must(t, h.BeginTOTP(t.Context(), subject, "sid"))
	e, err := h.PendingTOTP(t.Context(), subject, "sid", "ann")
	must(t, err)
	h.app = func() string { return code(t, e.Secret, h.now()) }
	_, err = h.ConfirmTOTP(t.Context(), subject, "sid", h.app())
	must(t, err)
	return h
}

// code is what an app shows, told by RFC 6238 once more.
func code(t *testing.T, secret string, at time.Time) string {
	t.Helper()
	key, err := base32.StdEncoding.DecodeString(secret)
	must(t, err)
	var step [8]byte
	binary.BigEndian.PutUint64(step[:], uint64(at.Unix()/30))
	mac := hmac.New(sha1.New, key)
	mac.Write(step[:])
	sum := mac.Sum(nil)
	off := sum[19] & 15
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[off:])&0x7fffffff)%1000000)
}

func TestTOTP(t *testing.T) {
	h := enrolled(t)
	verify := func(code string) mfa.Verdict {
		t.Helper()
		v, err := h.VerifyTOTP(t.Context(), subject, code)
		must(t, err)
		return v
	}
	if got := verify(h.app()); got != mfa.Replayed {
		t.Errorf("the code that enrolled is %v afterwards", got)
	}
	h.pass(period)
	code := h.app()
	for _, bad := range []string{"", "000", code + "0", "12345a", "١٢٣٤٥٦", strings.Repeat(" ", 4096) + code} {
		if got := verify(bad); got != mfa.Refused {
			t.Errorf("%.20q is %v", bad, got)
		}
	}
	if got := verify(code[:3] + " " + code[3:]); got != mfa.Accepted {
		t.Errorf("a fresh code is %v", got)
	}
	if got := verify(code); got != mfa.Replayed {
		t.Errorf("the second time it is %v", got)
	}
	late := h.app()
	h.pass(period)
	early := h.app()
	h.pass(-period)
	if got := verify(early); got != mfa.Accepted {
		t.Errorf("the next step's code is %v", got)
	}
	if got := verify(late); got != mfa.Replayed {
		t.Errorf("a code of a step before the last accepted is %v", got)
	}
	h.pass(2 * period)
	last := h.app()
	h.pass(2 * period)
	if got := verify(last); got != mfa.Refused {
		t.Errorf("a code two steps old is %v", got)
	}
	if v, err := h.VerifyTOTP(t.Context(), "user:bob", h.app()); v != mfa.Refused || err != nil {
		t.Errorf("for somebody else it is %v, %v", v, err)
	}
}

// TestCodeIsGoodOnce has fifty browsers show one code at once.
func TestCodeIsGoodOnce(t *testing.T) {
	h := enrolled(t)
	h.pass(period)
	code := h.app()
	codes, err := h.NewRecoveryCodes(t.Context(), subject)
	must(t, err)
	var totp, recovery atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if v, err := h.VerifyTOTP(t.Context(), subject, code); v == mfa.Accepted && err == nil {
				totp.Add(1)
			}
			if v, _, err := h.VerifyRecovery(t.Context(), subject, codes[3]); v == mfa.Accepted && err == nil {
				recovery.Add(1)
			}
		})
	}
	wg.Wait()
	if totp.Load() != 1 || recovery.Load() != 1 {
		t.Errorf("one code was accepted %d times, one recovery code %d times", totp.Load(), recovery.Load())
	}
}

func TestEnrolment(t *testing.T) {
	h := enrolled(t)
	ctx := t.Context()
	const bob = "user:bob"
	must(t, h.BeginTOTP(ctx, bob, "sid"))
	if _, err := h.ConfirmTOTP(ctx, bob, "sid", "000000"); rampart.KindOf(err) != rampart.Invalid {
		t.Errorf("without its code: %v", err)
	}
	for _, who := range [][2]string{{bob, "another session"}, {"user:eve", "sid"}} {
		if _, err := h.PendingTOTP(ctx, who[0], who[1], "x"); rampart.KindOf(err) != rampart.NotFound {
			t.Errorf("%v sees the secret: %v", who, err)
		}
	}
	first, err := h.PendingTOTP(ctx, bob, "sid", "bob")
	must(t, err)
	must(t, h.BeginTOTP(ctx, bob, "sid"))
	second, err := h.PendingTOTP(ctx, bob, "sid", "bob")
	must(t, err)
	if first.Secret == second.Secret || len(second.Secret) != 32 {
		t.Errorf("secrets of %d characters, the second like the first: %v", len(second.Secret), first.Secret == second.Secret)
	}
	if s := fmt.Sprintf("%v %+v %#v %s", second, &second, second, second); strings.Contains(s, second.Secret) {
		t.Errorf("it prints its secret: %s", s)
	}
	h.pass(10 * time.Minute)
	if _, err := h.PendingTOTP(ctx, bob, "sid", "bob"); rampart.KindOf(err) != rampart.NotFound {
		t.Errorf("after ten minutes: %v", err)
	}
}

func TestRecovery(t *testing.T) {
	h := enrolled(t)
	ctx := t.Context()
	codes, err := h.NewRecoveryCodes(ctx, subject)
	must(t, err)
	verify := func(code string, want mfa.Verdict, wantLeft int) {
		t.Helper()
		v, left, err := h.VerifyRecovery(ctx, subject, code)
		must(t, err)
		if v != want || left != wantLeft {
			t.Errorf("%q is %v with %d left, want %v with %d", code, v, left, want, wantLeft)
		}
	}
	verify(codes[0], mfa.Accepted, 9)
	verify(codes[0], mfa.Refused, 0)
	verify(" "+strings.ToUpper(strings.ReplaceAll(codes[1], "-", " ")), mfa.Accepted, 8)
	verify("", mfa.Refused, 0)
	verify("0000-0000-0000-0000", mfa.Refused, 0)
	if v, _, err := h.VerifyRecovery(ctx, "user:bob", codes[2]); v != mfa.Refused || err != nil {
		t.Errorf("for somebody else it is %v, %v", v, err)
	}
	if left, err := h.RecoveryLeft(ctx, subject); left != 8 || err != nil {
		t.Errorf("%d left, %v", left, err)
	}
	fresh, err := h.NewRecoveryCodes(ctx, subject)
	must(t, err)
	verify(codes[2], mfa.Refused, 0)
	verify(fresh[2], mfa.Accepted, 9)
	all, err := h.store.Factors(ctx, subject)
	must(t, err)
	for _, f := range all {
		if s := string(f.Data); strings.Contains(s, "secret") || strings.Contains(s, "hashes") {
			t.Errorf("%s is not sealed: %q", f.Kind, s)
		}
	}
}

// TestSealedToItsRow: data moved to another person does not open there.
func TestSealedToItsRow(t *testing.T) {
	h := enrolled(t)
	all, err := h.store.Factors(t.Context(), subject)
	must(t, err)
	f := all[0]
	f.ID, f.Subject = mfa.NewID(), "user:eve"
	must(t, h.store.PutFactor(t.Context(), f))
	h.pass(period)
	if v, err := h.VerifyTOTP(t.Context(), "user:eve", h.app()); v != mfa.Refused || rampart.KindOf(err) == rampart.Unauthenticated || err == nil {
		t.Errorf("ann's secret copied to eve is %v, %v", v, err)
	}
}

// TestQR has a reader that is not ours read what an app would.
func TestQR(t *testing.T) {
	h := open(t)
	must(t, h.BeginTOTP(t.Context(), subject, "sid"))
	e, err := h.PendingTOTP(t.Context(), subject, "sid", "ann & co@example.com")
	must(t, err)
	text := e.URI
	picture, err := mfa.NewQR(text)
	must(t, err)
	bitmap, err := gozxing.NewBinaryBitmapFromImage(render(t, picture))
	must(t, err)
	read, err := qrcode.NewQRCodeReader().Decode(bitmap, nil)
	must(t, err)
	if read.GetText() != text {
		t.Fatalf("reads %q, want %q", read.GetText(), text)
	}
	u, err := url.Parse(text)
	must(t, err)
	q := u.Query()
	if u.Scheme != "otpauth" || u.Host != "totp" || u.Path != "/pay:ann & co@example.com" || q.Get("issuer") != "pay" || q.Get("secret") != e.Secret || strings.Contains(text, "+") {
		t.Errorf("URI is %s", text)
	}
}

// render paints the path as a browser does.
func render(t *testing.T, code mfa.QR) image.Image {
	t.Helper()
	const scale = 4
	img := image.NewGray(image.Rect(0, 0, code.Size*scale, code.Size*scale))
	for i := range img.Pix {
		img.Pix[i] = 0xff
	}
	for _, run := range strings.SplitAfter(strings.TrimSuffix(code.Path, "z"), "z") {
		var x, y, n, back int
		_, err := fmt.Sscanf(strings.TrimSuffix(run, "z"), "M%d %dh%dv1h-%d", &x, &y, &n, &back)
		must(t, err)
		for dx := range n * scale {
			for dy := range scale {
				img.SetGray(x*scale+dx, y*scale+dy, color.Gray{})
			}
		}
	}
	return img
}
