package spec

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Python's file server says what it lays open: a folder that may hold the
// state, and a port that others reach.
func TestWarnFileServer(t *testing.T) {
	const folder, bind = "keep what it serves in a folder of its own and add --directory, FOLDER", "add --bind, 127.0.0.1"
	for run, want := range map[string][]string{
		`[python3, -m, http.server, "9000"]`:                                        {folder, bind},
		`[python3, -m, http.server, "9000", --bind, 127.0.0.1]`:                     {folder},
		`[python3, -m, http.server, "9000", -b, 0.0.0.0, -d, ./]`:                   {folder, bind},
		`[python3, -m, http.server, "9000", --bind=127.0.0.1, --directory=site]`:    nil,
		`[sh, -c, "cd site && exec python3 -m http.server $PORT --bind 127.0.0.1"]`: nil,
		`[sh, -c, "python3 -m http.server $PORT --directory site"]`:                 {bind},
		`[echo, http.server]`: nil,
	} {
		s := mustParse(t, fmt.Sprintf(`rampart: v1
system: { name: shop }
services:
  gateway: { role: gateway }
  files: { upstream: "http://127.0.0.1:9000", run: %s }
flows:
  - { from: users, to: gateway, authn: session }
  - { from: gateway, to: files, allow: "role:member" }
`, run))
		var got []string
		for _, w := range s.Warnings() {
			if strings.HasPrefix(w.Msg, "http.server") && w.Key == "services.files.run" {
				got = append(got, w.Fix)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", run, diff)
		}
	}
}

// A service on the gateway's port is told of where both listen on one address, and
// whoever writes a first file is not given one.
func TestWarnPort(t *testing.T) {
	for listen, want := range map[string]bool{":8443": true, "127.0.0.1:8443": true, "[::]:8443": true, "localhost:8443": true, "127.0.0.2:8443": false, "192.0.2.1:8443": false, ":443": false} {
		s := mustParse(t, fmt.Sprintf(`rampart: v1
system: { name: shop }
services:
  gateway: { role: gateway, listen: %q }
  shop: { upstream: "http://127.0.0.1:8443", methods: [GET] }
flows:
  - { from: users, to: gateway, authn: session }
  - { from: gateway, to: shop, allow: "role:member" }
`, listen))
		got := slices.ContainsFunc(s.Warnings(), func(p Problem) bool {
			return p.Key == "services.shop.upstream" && strings.HasPrefix(p.Msg, "port 8443 is the gateway's too")
		})
		if got != want {
			t.Errorf("%s: told %v, want %v", listen, got, want)
		}
	}
}
