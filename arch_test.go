package rampart_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/rampart-security/rampart"

// may is the architecture: what each folder may import besides its own
// packages and the standard library. The longest matching row counts.
// Widening a line needs an ADR in docs/adr.
var may = map[string]string{
	".":                  "",
	"policies":           "",
	"internal":           ".",
	"internal/wire":      ". spec internal",
	"internal/planelink": ". spec internal tls monitor",
	"spec":               ". internal",
	"secrets":            ". internal",
	"ratelimit":          ".",
	"validate":           ". internal",
	"tls":                ". internal",
	"data":               ". internal",
	"monitor":            ". internal/jsonline",
	"authn":              ". internal",
	"authz":              ". internal",
	"authz/pap":          ". spec",
	"token":              ". internal spec authn monitor",
	"network":            ". internal",
	"network/message":    ". internal tls",
	"threat":             ". spec policies",
	"store":              ". internal secrets authn token",
	"store/postgres":     "secrets tls",
	"store/valkey":       ". authn secrets tls",
	"sdk":                ". internal secrets data ratelimit validate tls authz/filter",
	"control":            ". internal spec secrets ratelimit tls authn authz token monitor store network/egress",
	"gateway":            ". internal spec ratelimit validate tls authn authz network monitor",
	"sidecar":            ". internal spec secrets ratelimit validate tls authn authz network monitor",
	"queue":              ". internal spec tls monitor",
	"verify":             ". spec policies threat internal/wire internal/agent", // the judge shares no code with the judged
	"examples":           ". sdk",                                               // a customer sees what customers see
	"test":               ". internal spec",
	"cmd":                ". internal spec policies secrets ratelimit validate tls data monitor authn authz token network threat store control gateway sidecar queue verify", // alone wires
}

// contracts are folders whose own package holds interfaces and types only:
// implementations below import it, never the reverse.
var contracts = []string{"authz", "ratelimit", "validate", "secrets"}

// owned names the folders that may import a dependency; "" is nobody.
var owned = map[string]string{
	"database/sql":                          "store sdk/db sdk/pii examples verify",
	"modernc.org/sqlite":                    "store/sqlite sdk/db verify",
	"github.com/redis/go-redis":             "store/valkey ratelimit/valkey network/idempotency/valkey",
	"github.com/jackc/pgx":                  "store/postgres sdk/db sdk/pii secrets/rotate",
	"github.com/open-policy-agent/opa":      "authz/rego",
	"github.com/cedar-policy/cedar-go":      "authz/cedar",
	"github.com/go-jose/go-jose":            "authn/jwt",
	"github.com/santhosh-tekuri/jsonschema": "validate/openapi",
	"github.com/microcosm-cc/bluemonday":    "validate/sanitize",
	"github.com/nats-io":                    "queue sidecar verify",
	"github.com/spf13/cobra":                "cmd",
	"github.com/openfga":                    "authz/rebac test",
	"github.com/envoyproxy":                 "authz/extauthz tls/workload",
	"github.com/caddyserver/certmagic":      "tls/acme",
	"github.com/aws":                        "secrets/awssm secrets/kms",
	"github.com/ThalesGroup/crypto11":       "secrets/kms",
	"github.com/miekg/pkcs11":               "secrets/kms",
	"filippo.io/age":                        "tls/ca",
	"google.golang.org/grpc":                "authz/rebac/openfga authz/extauthz sidecar test tls/workload",
	"cel.dev/cel-go":                        "threat sidecar authz/rebac",
	"go.yaml.in/yaml":                       "spec validate/openapi policies threat verify authz/policytest network/waf/waftest",
	"github.com/corazawaf":                  "network/waf",
	"github.com/pires/go-proxyproto":        "gateway",
	"code.dny.dev/ssrf":                     "network/egress",
	"github.com/stripe":                     "examples",
	"golang.org/x/crypto/argon2":            "authn/password",
	"golang.org/x/crypto/bcrypt":            "authn/password",
	"golang.org/x/crypto/scrypt":            "authn/password",
	"github.com/go-webauthn/webauthn":       "authn/mfa/passkey",
	"github.com/coreos/go-oidc":             "", // tests only: it parses tokens
	"golang.org/x/oauth2":                   "authn/oidc",
	"rsc.io/qr":                             "authn/mfa",
	"os/exec":                               "cmd verify test",
	"math/rand":                             "",
	"unsafe":                                "internal/socket", // ADR 29
	"github.com/stretchr/testify":           "",
}

func TestArchitecture(t *testing.T) {
	for _, v := range violations(t, ".") {
		t.Error(v)
	}
}

// violations lists what breaks the tables above in the tree at root.
func violations(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	walkGo(t, root, func(file string) {
		if strings.HasSuffix(file, "_test.go") {
			return
		}
		pkg := path.Dir(file)
		list, ok := row(pkg)
		if !ok {
			out = append(out, file+": folder "+pkg+" is not in the architecture")
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			imp, _ := strconv.Unquote(spec.Path.Value)
			out = append(out, check(file, pkg, imp, strings.Fields(list))...)
		}
	})
	return out
}

func check(file, pkg, imp string, list []string) []string {
	var out []string
	for dep, owner := range owned {
		mine := slices.ContainsFunc(strings.Fields(owner), func(f string) bool { return within(pkg, f) })
		if within(imp, dep) && !mine {
			out = append(out, file+" imports "+imp+", which only "+strconv.Quote(owner)+" may")
		}
	}
	if !within(imp, module) {
		return out
	}
	to := strings.TrimPrefix(strings.TrimPrefix(imp, module), "/")
	if to == "" {
		to = "."
	}
	allowed := top(to) == top(pkg) || slices.ContainsFunc(list, func(f string) bool { return within(to, f) })
	if !allowed {
		out = append(out, file+" may not import "+imp)
	}
	if slices.Contains(contracts, pkg) && to != pkg && top(to) == pkg {
		out = append(out, file+": contract "+pkg+" imports its implementation "+to)
	}
	return out
}

// row finds the longest row of the table that holds pkg.
func row(pkg string) (string, bool) {
	for p := pkg; ; p = path.Dir(p) {
		if list, ok := may[p]; ok && (p != "." || pkg == ".") {
			return list, true
		}
		if p == "." {
			return "", false
		}
	}
}

func top(pkg string) string {
	first, _, _ := strings.Cut(pkg, "/")
	return first
}

func within(p, prefix string) bool {
	return p == prefix || prefix != "." && strings.HasPrefix(p, prefix+"/") || prefix == p
}

// walkGo calls fn for each Go file under root, slash-separated and relative.
func walkGo(t *testing.T, root string, fn func(file string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && file != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, file)
		fn(filepath.ToSlash(rel))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestArchitectureCanFail plants violations and demands that each is seen.
func TestArchitectureCanFail(t *testing.T) {
	for name, plant := range map[string]struct{ file, imp string }{
		"verify may not judge with the judged's code": {"verify/a.go", module + "/authn/jwt"},
		"an example sees what a customer sees":        {"examples/payments/orders/a.go", module + "/gateway"},
		"no folder outside the table":                 {"util/a.go", "fmt"},
		"no SQL in a plane":                           {"gateway/a.go", "database/sql"},
		"no weak randomness":                          {"token/a.go", "math/rand/v2"},
		"a contract does not know its drivers":        {"authz/a.go", module + "/authz/rego"},
		"domains do not import sideways":              {"authz/pdp/a.go", module + "/authn/jwt"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			file := filepath.Join(root, plant.file)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			src := "package a\n\nimport _ " + strconv.Quote(plant.imp) + "\n"
			if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := violations(t, root); len(got) != 1 {
				t.Errorf("planted %s -> %s: got %q, want one violation", plant.file, plant.imp, got)
			}
		})
	}
}
