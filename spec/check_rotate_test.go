package spec

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTurnsApart: of two stores with one role only one could know its password.
func TestTurnsApart(t *testing.T) {
	db := func(url, admin, roles, more string) string {
		return fmt.Sprintf(`{ kind: postgres, url: "postgres://app@%s/app", ca: ca.pem, rotate: { roles: [%s], owner: app, admin: "postgres://rotator@%s/app", password: "secret://embedded/db/rotator" }%s }`, url, roles, admin, more)
	}
	const pair, pooled = "app_a, app_b", ", pooler: true"
	one := db("db.example:5432", "db.example:5432", pair, "")
	for name, row := range map[string]struct {
		two    string
		shared bool
	}{
		"the same two roles":           {one, true},
		"another database there":       {strings.ReplaceAll(one, "5432/app", "5432/other"), true},
		"one of the two":               {db("db.example", "db.example", "app_b, app_c", ""), true},
		"a name written otherwise":     {db("DB.Example.", "DB.Example.", pair, ""), true},
		"the server of the admin":      {db("other.example", "db.example", pair, ""), true},
		"two others":                   {db("db.example:5432", "db.example:5432", "web_a, web_b", ""), false},
		"the same names elsewhere":     {db("db.example:5433", "db.example:5433", pair, ""), false},
		"another server, by a pooler":  {db("db.example:5432", "behind.example", pair, pooled), false},
		"the same server, by a pooler": {db("pool.example", "db.example", pair, pooled), true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{"ca.pem": "PEM", "rampart.yaml": "rampart: v1\nsystem: { name: shop }\nservices: { edge: { role: gateway } }\nstores:\n  one: " + one + "\n  two: " + row.two + "\n"} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Load(filepath.Join(dir, "rampart.yaml"))
			said := fmt.Sprint(err)
			if got := strings.Contains(said, "takes turns for store \"one\" already"); got != row.shared {
				t.Errorf("refused for the role: %v, want %v\n%s", got, row.shared, said)
			}
			if row.shared && (!strings.Contains(said, "rampart.yaml:6:") || !strings.Contains(said, "stores.two.rotate.roles") || !strings.Contains(said, "two roles of its own")) {
				t.Errorf("want the place and the fix\n%s", said)
			}
		})
	}
}
