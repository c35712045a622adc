package mfa

import (
	"testing"
	"time"
)

// TestVectors are those of RFC 6238, appendix B, for SHA-1; six digits are the
// last six of its eight.
func TestVectors(t *testing.T) {
	secret := []byte("12345678901234567890")
	for at, want := range map[int64]string{
		59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130",
	} {
		if got := codeAt(secret, at/period); got != want {
			t.Errorf("at %d the code is %s, want %s", at, got, want)
		}
	}
}

func FuzzParseCode(f *testing.F) {
	for _, s := range []string{"123456", "123 456", "12345", "１２３４５６", "-1-2-3-4-5-6", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		code, ok := parseCode(s)
		if again, same := parseCode(code); ok && (len(code) != digits || !same || again != code) {
			t.Errorf("%q reads as %q", s, code)
		}
	})
}

func FuzzParseRecovery(f *testing.F) {
	for _, s := range []string{"0123-4567-89ab-cdef", "OILo ilio 89AB CDEF", "u123-4567-89ab-cdef", "ſ123-4567-89ab-cdef", "K123-4567-89ab-cde"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		code, ok := parseRecovery(s)
		if again, same := parseRecovery(group(code)); ok && (len(code) != recoveryChars || !same || again != code) {
			t.Errorf("%q reads as %q", s, code)
		}
	})
}

func BenchmarkVerifyTOTP(b *testing.B) {
	b.ReportAllocs()
	row := totpRow{Secret: []byte("12345678901234567890")}
	now := time.Unix(1_800_000_000, 0)
	for b.Loop() {
		if row.accept("000000", now) == Accepted {
			b.Fatal("accepted")
		}
	}
}
