package control

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/secrets"
)

// TestLongestUse: an old password is not revoked while a plane that is cut off may
// serve it, or a connection may live that was made with it. What says so stands in
// packages that know nothing of this one.
func TestLongestUse(t *testing.T) {
	read := func(path string) string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	cache := regexp.MustCompile(`secrets\.CacheOptions\{[^}]*\}`).FindAllString(read("../sidecar/sidecar.go"), -1)
	if len(cache) != 1 || strings.Contains(cache[0], "MaxStale") {
		t.Errorf("the sidecar's cache has another bound than secrets.DefaultMaxStale: %q", cache)
	}
	conn := regexp.MustCompile(`maxLifetime *= (\d+) \* time\.Minute`).FindStringSubmatch(read("../sdk/db/logins.go"))
	if len(conn) != 2 {
		t.Fatal("sdk/db does not say how long a connection lives")
	}
	life, err := time.ParseDuration(conn[1] + "m")
	if err != nil || life > longestConn || longestUse < secrets.DefaultMaxStale+life+useGrace {
		t.Errorf("longest use %v; a cache that is cut off %v, a connection %v, grace %v, %v", longestUse, secrets.DefaultMaxStale, life, useGrace, err)
	}
	for _, page := range []string{"../docs/database-credentials.md", "../docs/adr/0018-credentials-that-take-turns.md"} {
		if text := read(page); !strings.Contains(text, "95 min") {
			t.Errorf("%s does not say %v", page, longestUse)
		}
	}
}
