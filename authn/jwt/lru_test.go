package jwt

import "testing"

func TestLRUForgetsWhatWasUsedLongestAgo(t *testing.T) {
	l := newLRU[string](2)
	name := func(b byte) [32]byte { return [32]byte{b} }
	l.put(&entry[string]{hash: name(1), claims: "one"})
	l.put(&entry[string]{hash: name(2), claims: "two"})
	l.get(name(1))
	l.put(&entry[string]{hash: name(3), claims: "three"})
	l.put(&entry[string]{hash: name(3), claims: "three again"})
	for b, want := range map[byte]string{1: "one", 2: "", 3: "three again"} {
		got := ""
		if e := l.get(name(b)); e != nil {
			got = e.claims
		}
		if got != want {
			t.Errorf("entry %d is %q, want %q", b, got, want)
		}
	}
	if len(l.entries) != 2 || l.order.Len() != 2 {
		t.Errorf("holds %d entries, %d in order", len(l.entries), l.order.Len())
	}
}
