package guide

import (
	"strings"
	"testing"
)

// TestPlaceClass: what a rule says of one key holds however the key is spelled.
func TestPlaceClass(t *testing.T) {
	long := strings.Repeat("k", 200)
	keyed, base := &class{}, &class{}
	p := place{base: base, keyed: map[string]*class{"user-agent": keyed, long: keyed, "é": keyed}}
	for key, want := range map[string]*class{
		"user-agent": keyed, "User-Agent": keyed, strings.ToUpper(long): keyed, "É": keyed, "é": keyed,
		"": base, "user-agen": base, "user-agents": base, long + "k": base,
	} {
		if p.class(key) != want {
			t.Errorf("%.30q: the wrong class", key)
		}
	}
}
