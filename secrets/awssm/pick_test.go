package awssm

import "testing"

// FuzzPick: no text makes it panic, and what it returns stands in the text.
func FuzzPick(f *testing.F) {
	for _, text := range []string{`{"password":"a","username":"b"}`, `{"password":1e9}`, `{"password":"\u0061"}`, `{"a":{"password":"x"}}`, `[]`, `{`, `{"password":"a"} x`, `{"password":"a","password":"b"}`, "{\"\xff\":1}"} {
		f.Add([]byte(text), "password")
	}
	f.Fuzz(func(t *testing.T, text []byte, field string) {
		value, user, err := pick(text, field)
		if err == nil && len(value) == 0 || err != nil && (value != nil || user != "") {
			t.Errorf("%q %q: %q, %q, %v", text, field, value, user, err)
		}
	})
}

func FuzzVersionToken(f *testing.F) {
	f.Add(tokenOf(7))
	f.Add("rampart-version-7")
	f.Fuzz(func(t *testing.T, token string) {
		if n := numberOf(token); n != 0 && tokenOf(n) != token {
			t.Errorf("%q and %q are version %d", token, tokenOf(n), n)
		}
	})
}
