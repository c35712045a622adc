package mfa

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"strings"
)

// RecoveryCodes is how many codes a person gets at once.
const RecoveryCodes = 10

// A recovery code has 80 bits: no brake is needed to make guessing hopeless,
// and a plain MAC keeps it as safe as a slow hash would.
const (
	recoveryChars = 16 // of five bits each
	recoveryGroup = 4
	maxTyped      = 64 // bytes of a code as people type it
)

// alphabet has no letter that reads like another or like a digit (Crockford).
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// recoveryRow is the sealed part of a person's recovery codes.
type recoveryRow struct {
	Key    []byte   `json:"key"` // of this row's MACs
	Hashes [][]byte `json:"hashes"`
}

// NewRecoveryCodes gives the subject ten new codes, the only ones from now on.
// They exist nowhere else.
func (m *Manager) NewRecoveryCodes(ctx context.Context, subject string) ([]string, error) {
	codes, row := newRecovery()
	for range swaps {
		old, err := m.ofKind(ctx, subject, KindRecovery)
		if err != nil {
			return nil, err
		}
		if len(old) == 0 {
			f := m.newFactor(subject, KindRecovery, "Recovery codes")
			return codes, m.put(ctx, &f, row)
		}
		f := old[0]
		f.Created = m.opt.Now()
		ok, err := m.swap(ctx, f, row)
		if err != nil {
			return nil, err
		}
		if ok {
			return codes, m.drop(ctx, old[1:])
		}
	}
	return nil, contended()
}

// drop deletes rows that two first generations at once have left.
func (m *Manager) drop(ctx context.Context, rows []Factor) error {
	for _, f := range rows {
		if _, err := m.opt.Store.DeleteFactor(ctx, f.Subject, f.ID); err != nil {
			return unavailable(err)
		}
	}
	return nil
}

// VerifyRecovery uses up one of the subject's codes and says how many are left.
// A code that is wrong or used is Refused.
func (m *Manager) VerifyRecovery(ctx context.Context, subject, code string) (Verdict, int, error) {
	typed, ok := parseRecovery(code)
	if !ok {
		return Refused, 0, nil
	}
	rows, err := m.ofKind(ctx, subject, KindRecovery)
	if err != nil {
		return Refused, 0, err
	}
	for _, f := range rows {
		v, left, err := m.useRecovery(ctx, f, typed)
		if v == Accepted || err != nil {
			return v, left, err
		}
	}
	return Refused, 0, nil
}

func (m *Manager) useRecovery(ctx context.Context, f Factor, code string) (Verdict, int, error) {
	for range swaps {
		var row recoveryRow
		if err := m.open(ctx, f, &row); err != nil {
			return Refused, 0, err
		}
		if !row.take(code) {
			return Refused, 0, nil
		}
		f.LastUsed = m.opt.Now()
		ok, err := m.swap(ctx, f, row)
		if err != nil {
			return Refused, 0, err
		}
		if ok {
			return Accepted, len(row.Hashes), nil
		}
		if f, err = m.again(ctx, f.ID); err != nil {
			return Refused, 0, err
		}
	}
	return Refused, 0, contended()
}

// RecoveryLeft counts the subject's unused codes.
func (m *Manager) RecoveryLeft(ctx context.Context, subject string) (int, error) {
	rows, err := m.ofKind(ctx, subject, KindRecovery)
	if err != nil {
		return 0, err
	}
	left := 0
	for _, f := range rows {
		var row recoveryRow
		if err := m.open(ctx, f, &row); err != nil {
			return 0, err
		}
		left += len(row.Hashes)
	}
	return left, nil
}

// take removes the code's hash and reports whether it was there. All are
// compared, whichever fits.
func (r *recoveryRow) take(code string) bool {
	want := r.hash(code)
	var rest [][]byte
	for _, h := range r.Hashes {
		if subtle.ConstantTimeCompare(h, want) != 1 {
			rest = append(rest, h)
		}
	}
	found := len(rest) < len(r.Hashes)
	r.Hashes = rest
	return found
}

func (r *recoveryRow) hash(code string) []byte {
	mac := hmac.New(sha256.New, r.Key)
	mac.Write([]byte(code))
	return mac.Sum(nil)
}

func newRecovery() ([]string, recoveryRow) {
	row := recoveryRow{Key: make([]byte, sha256.Size)}
	rand.Read(row.Key)
	codes := make([]string, RecoveryCodes)
	for i := range codes {
		raw := make([]byte, recoveryChars)
		rand.Read(raw)
		for j, b := range raw {
			raw[j] = alphabet[b%32] // 256 is a multiple of 32: no bias
		}
		row.Hashes = append(row.Hashes, row.hash(string(raw)))
		codes[i] = group(string(raw))
	}
	return codes, row
}

// group puts a dash after every fourth character, as people read it.
func group(code string) string {
	var parts []string
	for ; len(code) > recoveryGroup; code = code[recoveryGroup:] {
		parts = append(parts, code[:recoveryGroup])
	}
	return strings.Join(append(parts, code), "-")
}

// parseRecovery takes a code as people type it: any case, any spacing, and the
// letters that they mistake for digits.
func parseRecovery(s string) (string, bool) {
	if len(s) > maxTyped {
		return "", false
	}
	s = strings.NewReplacer(" ", "", "-", "", "\u00a0", "", "o", "0", "i", "1", "l", "1").Replace(strings.ToLower(s))
	if len(s) != recoveryChars {
		return "", false
	}
	for _, c := range []byte(s) {
		if strings.IndexByte(alphabet, c) < 0 {
			return "", false
		}
	}
	return s, true
}
