package password

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rampart-security/rampart"
)

func TestNewPasswords(t *testing.T) {
	alone := Policy{Alone: true, Words: []string{"payments", "ann.miller", "al"}}
	with := Policy{Words: alone.Words}
	for _, tc := range []struct {
		policy   Policy
		password string
		good     bool
	}{
		{alone, "correct horse battery", true},
		{alone, "correct horsey", false}, // 14 characters
		{alone, "correct horsey!", true},
		{alone, strings.Repeat("漢字を覚える", 2) + "のは大変", true},
		{alone, strings.Repeat("long words are fine ", 50), false}, // repeats itself
		{alone, "no rule of composition at all", true},
		{alone, strings.Repeat("a", 1025), false},
		{alone, "fifteen bytes\xff\xff", false},
		{with, "k7 vbq2z", true},
		{with, "k7 vbq2", false},
		{with, "password", false},
		{with, "Password1!", false},
		{with, "ＰＡＳＳＷＯＲＤ", false}, // in wide letters
		{with, "sunshine2024", false},
		{with, "trustno1", false},
		{with, "cat2847-!9371", true}, // a short word says nothing
		{with, "aaaaaaaa", false},
		{with, "abcabcabcabc", false},
		{with, "12345678", false},
		{with, "qwertyuiop", false},
		{with, "0987654321qwerty", false},
		{with, "abcdefgh", false},
		{alone, "passwordpassword", false},
		{alone, "qwertyuiopasdfghjkl", false},
		{with, "payments2024", false},
		{with, "Ann.Miller!1", false},
		{with, "payments-xq", false},
		{with, "payments at dawn", true},
		{with, "always alert", true}, // of a word of two letters nothing follows
		{Policy{}, "payments-xq", true},
	} {
		err := tc.policy.Check(tc.password)
		if (err == nil) != tc.good || err != nil && rampart.KindOf(err) != rampart.Invalid {
			t.Errorf("%.40q, alone %v: %v, want good %v", tc.password, tc.policy.Alone, err, tc.good)
		}
	}
	if alone.Least() != 15 || with.Least() != 8 {
		t.Errorf("least %d and %d", alone.Least(), with.Least())
	}
}

// TestFalseAlarms: the filter refuses few passwords that are on no list.
func TestFalseAlarms(t *testing.T) {
	alarms := 0
	for n := range 200_000 {
		if listed(fmt.Sprintf("%x is on no list", n*7919)) {
			alarms++
		}
	}
	if alarms > 60 {
		t.Errorf("%d of 200,000 random passwords are refused, want about 20", alarms)
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add("correct horse battery", "payments")
	f.Add("ＰＡＳＳ", "ß")
	f.Fuzz(func(t *testing.T, password, word string) {
		p := Policy{Alone: true, Words: []string{word}}
		if p.Check(password) == nil && (Policy{Words: p.Words}).Check(password) != nil {
			t.Fatalf("%q is good alone and not beside a second factor", password)
		}
	})
}

func BenchmarkPolicy(b *testing.B) {
	p := Policy{Alone: true, Words: []string{"payments", "ann"}}
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Check("correct horse battery staple"); err != nil {
			b.Fatal(err)
		}
	}
}
