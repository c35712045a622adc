package nearest

import "testing"

func TestTo(t *testing.T) {
	keys := []string{"upstream", "mount", "methods", "policy", "zone"}
	for name, want := range map[string]string{
		"upstrem": "upstream", "upstraem": "upstream", "Upstream": "upstream", "metods": "methods", "zon": "zone", "moutn": "mount",
		"backup": "", "": "", "z": "", "publicy_of_all": "",
	} {
		if got, _ := To(name, keys); got != want {
			t.Errorf("nearest to %q is %q, want %q", name, got, want)
		}
	}
}
