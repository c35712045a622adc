package mfa

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" // HMAC-SHA-1 is what authenticator apps speak; its collisions do not matter here (RFC 6238, B.1)
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/ticket"
)

// TOTP as every authenticator app understands it.
const (
	secretSize = 20 // bytes: 160 bits, the length of the hash (RFC 4226, section 4)
	digits     = 6
	modulus    = 1_000_000
	period     = 30 // seconds
	skew       = 1  // steps to either side (RFC 6238, section 5.2)
)

const (
	enrolKind = "totp"
	enrolFor  = 10 * time.Minute
)

var unpadded = base32.StdEncoding.WithPadding(base32.NoPadding)

// Verdict is what became of a code. The zero Verdict refuses.
type Verdict uint8

// The verdicts.
const (
	Refused  Verdict = iota
	Replayed         // right, but its step was accepted before: refused, and no guess
	Accepted
)

func (v Verdict) String() string {
	switch v {
	case Accepted:
		return "accepted"
	case Replayed:
		return "replayed"
	}
	return "refused"
}

// Enrolment is a secret that waits for its first code. It is shown to its
// owner and kept out of logs.
type Enrolment struct {
	Secret string // base32, for typing
	URI    string // otpauth, for the QR code
}

// Format keeps the secret out of whatever prints the value.
func (Enrolment) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[REDACTED]")) }

// totpRow is the sealed part of a TOTP factor.
type totpRow struct {
	Secret []byte `json:"secret"`
	Step   int64  `json:"step"` // the last one accepted
}

// BeginTOTP makes a secret for the subject and remembers it for ten minutes.
// binding, such as a session's handle, names who may go on with it; a secret
// begun before under the same binding is forgotten.
func (m *Manager) BeginTOTP(ctx context.Context, subject, binding string) error {
	secret := make([]byte, secretSize)
	rand.Read(secret)
	sealed, err := m.opt.Sealer.Wrap(ctx, secret, enrolAAD(subject))
	if err != nil {
		return unavailable(err)
	}
	hash, now := enrolHash(subject, binding), m.opt.Now()
	if _, err := m.opt.Tickets.TakeTicket(ctx, enrolKind, hash, now); err != nil && !errors.Is(err, ticket.ErrNotFound) {
		return unavailable(err)
	}
	return unavailable(m.opt.Tickets.PutTicket(ctx, enrolKind, hash, sealed, now, now.Add(enrolFor)))
}

// PendingTOTP returns what BeginTOTP has made, or NotFound. name is the account
// as the app shows it.
func (m *Manager) PendingTOTP(ctx context.Context, subject, binding, name string) (Enrolment, error) {
	secret, err := m.pending(ctx, subject, binding)
	if err != nil {
		return Enrolment{}, err
	}
	return Enrolment{Secret: unpadded.EncodeToString(secret), URI: otpauth(m.opt.Issuer, name, secret)}, nil
}

func (m *Manager) pending(ctx context.Context, subject, binding string) ([]byte, error) {
	sealed, err := m.opt.Tickets.Ticket(ctx, enrolKind, enrolHash(subject, binding), m.opt.Now())
	if errors.Is(err, ticket.ErrNotFound) {
		return nil, rampart.Errorf(rampart.NotFound, control, "mfa: the set-up has expired; start it again")
	}
	if err != nil {
		return nil, unavailable(err)
	}
	secret, err := m.opt.Sealer.Unwrap(ctx, sealed, enrolAAD(subject))
	return secret, unavailable(err)
}

// ConfirmTOTP turns what BeginTOTP has made into a factor, if code is one of
// its codes; else it is Invalid and may be tried again. That code is used up.
func (m *Manager) ConfirmTOTP(ctx context.Context, subject, binding, code string) (Factor, error) {
	secret, err := m.pending(ctx, subject, binding)
	if err != nil {
		return Factor{}, err
	}
	now := m.opt.Now()
	row := totpRow{Secret: secret}
	if row.accept(code, now) != Accepted {
		return Factor{}, rampart.Errorf(rampart.Invalid, control, "mfa: this is not the app's code of now")
	}
	_, err = m.opt.Tickets.TakeTicket(ctx, enrolKind, enrolHash(subject, binding), now)
	if errors.Is(err, ticket.ErrNotFound) {
		return Factor{}, rampart.Errorf(rampart.Conflict, control, "mfa: the set-up has been finished already")
	}
	if err != nil {
		return Factor{}, unavailable(err)
	}
	f := m.newFactor(subject, KindTOTP, "Authenticator app")
	return f, m.put(ctx, &f, row)
}

// VerifyTOTP says what code is worth for the subject right now. An accepted
// code is used up, also against a second try at the same moment.
func (m *Manager) VerifyTOTP(ctx context.Context, subject, code string) (Verdict, error) {
	factors, err := m.ofKind(ctx, subject, KindTOTP)
	if err != nil {
		return Refused, err
	}
	verdict := Refused
	for _, f := range factors {
		v, err := m.verifyTOTP(ctx, f, code)
		if err != nil {
			return Refused, err
		}
		verdict = max(verdict, v)
	}
	return verdict, nil
}

// verifyTOTP judges one factor. Whoever loses the swap looks again, and then
// sees the winner's step.
func (m *Manager) verifyTOTP(ctx context.Context, f Factor, code string) (Verdict, error) {
	for range swaps {
		var row totpRow
		if err := m.open(ctx, f, &row); err != nil {
			return Refused, err
		}
		now := m.opt.Now()
		if v := row.accept(code, now); v != Accepted {
			return v, nil
		}
		f.LastUsed = now
		ok, err := m.swap(ctx, f, row)
		if ok || err != nil {
			return Accepted, err
		}
		if f, err = m.again(ctx, f.ID); err != nil {
			return Refused, err
		}
	}
	return Refused, contended()
}

// accept moves the row to the step of a code that is right and new. All steps
// are computed and compared, whichever fits.
func (r *totpRow) accept(code string, now time.Time) Verdict {
	typed, ok := parseCode(code)
	if !ok {
		return Refused
	}
	verdict := Refused
	current := now.Unix() / period
	for step := current - skew; step <= current+skew; step++ {
		if subtle.ConstantTimeCompare([]byte(typed), []byte(codeAt(r.Secret, step))) != 1 {
			continue
		}
		if step <= r.Step {
			verdict = max(verdict, Replayed)
			continue
		}
		verdict, r.Step = Accepted, step
	}
	return verdict
}

// parseCode takes six digits, however people space them.
func parseCode(s string) (string, bool) {
	if len(s) > 4*digits {
		return "", false
	}
	s = strings.NewReplacer(" ", "", "-", "", "\u00a0", "").Replace(s)
	if len(s) != digits {
		return "", false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return "", false
		}
	}
	return s, true
}

// codeAt is HOTP at a step (RFC 4226, section 5.3).
func codeAt(secret []byte, step int64) string {
	mac := hmac.New(sha1.New, secret)
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(step)))
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	n := binary.BigEndian.Uint32(sum[at:at+4]) & 0x7fffffff
	return fmt.Sprintf("%0*d", digits, n%modulus)
}

// otpauth is the Key URI that authenticator apps read from a QR code.
func otpauth(issuer, name string, secret []byte) string {
	q := url.Values{
		"secret": {unpadded.EncodeToString(secret)}, "issuer": {issuer},
		"algorithm": {"SHA1"}, "digits": {fmt.Sprint(digits)}, "period": {fmt.Sprint(period)},
	}
	label := url.PathEscape(issuer) + ":" + url.PathEscape(name)
	// Some apps show "+" as it is: a space in a query is %20 for all of them.
	return "otpauth://totp/" + label + "?" + strings.ReplaceAll(q.Encode(), "+", "%20")
}

func enrolHash(subject, binding string) ticket.Hash {
	return sha256.Sum256([]byte("rampart-totp-v1\n" + subject + "\n" + binding))
}

func enrolAAD(subject string) []byte { return []byte("rampart-totp-enrol-v1\n" + subject) }
