package spec

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// ruled is a file that says all that decisions can rest on.
const ruled = `rampart: v1
system: { name: shop }
authz:
  roles: { clerk: ["orders:create"], approver: ["orders:approve"], boss: ["role:clerk"], auditor: [] }
  separate: [{ roles: [clerk, approver] }, { roles: [boss, auditor], kind: dynamic }]
  model: shop.fga
  types:
    order:
      actions: ["orders:read", "orders:approve"]
      attrs: { owner: string, team_id: "string?", card: { type: string, class: secret, pii: true, optional: true }, risk: { type: decimal, provider: scores } }
      relations: [viewer, banned]
      grants: { "orders:read": viewer }
      table: orders
      columns: { owner: user_id, tenant: org_id }
    team: { relations: member }
  from_token: { "team#member": team }
  providers: { scores: { service: scores, timeout: 250ms } }
  openfga: { address: "fga.example:8081", store: 01J, token: "secret://embedded/fga", ca: fga.pem }
  bundle: { keys: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", max_changed: 0 }
  log: { overflow: deny }
services:
  edge: { role: gateway }
  orders: { upstream: "http://127.0.0.1:9000", policy: [a.cedar], policy_tests: [a_test.yaml, b_test.rego] }
  scores: { upstream: "http://127.0.0.1:9001" }
flows:
  - { from: users, to: edge }
  - { from: edge, to: orders }
  - { from: orders, to: scores }
demo: { users: { ann: { roles: [clerk@acme, approver@globex], organizations: [acme, globex] } } }
`

func TestAuthz(t *testing.T) {
	a := mustParse(t, ruled).Authz
	order := a.Types["order"]
	want := map[string]AuthzAttr{
		"owner": {Type: "string", Class: "internal"}, "team_id": {Type: "string", Optional: true, Class: "internal"},
		"card": {Type: "string", Class: "secret", PII: true, Optional: true}, "risk": {Type: "decimal", Class: "internal", Provider: "scores"},
	}
	if diff := cmp.Diff(want, order.Attrs); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(AttrProvider{Service: "scores", Path: "/attributes", Timeout: Duration(250 * time.Millisecond)}, a.Providers["scores"]); diff != "" {
		t.Errorf("provider (-want +got):\n%s", diff)
	}
	if b := a.Bundle; b.Replay != 200 || b.MaxChanged != 0 || b.Expires != Duration(30*24*time.Hour) || len(b.Keys) != 1 {
		t.Errorf("the zero that the file says is kept: %+v", b)
	}
	if a.Separate[0].Kind != SeparateStatic || a.Separate[1].Kind != SeparateDynamic {
		t.Errorf("separate: %+v", a.Separate)
	}
	s := mustParse(t, ruled)
	for key, line := range map[string]int{"authz.roles.clerk": 4, "authz.types.order": 8, "flows[2]": 28, "authz.roles.nobody": 0} {
		if got := s.Line(key); got != line {
			t.Errorf("%s is said on line %d, not %d", key, line, got)
		}
	}
	if new(System).Line("authz") != 0 {
		t.Error("a system without text has lines")
	}
}

// TestAuthzRefused breaks one rule at a time, as TestRefused does.
func TestAuthzRefused(t *testing.T) {
	for name, tc := range map[string]struct{ old, new, want string }{
		"type in the plural of words":   {`    team: {`, `    Team-s: {`, `15:5: authz.types.Team-s: "Team-s" is not accepted here; name the type by a noun in the singular, of lower-case letters, digits and _, such as order`},
		"unknown kind":                  {`owner: string,`, `owner: text,`, `10:16: authz.types.order.attrs.owner: "text" is not accepted here; the values are: string, bool, long, decimal, strings`},
		"unknown kind in a map":         {`type: decimal`, `type: float`, `10:125: authz.types.order.attrs.risk.type: "float" is not accepted here; the values are: string, bool, long, decimal, strings`},
		"attribute without a type":      {`type: decimal, `, ``, `10:117: authz.types.order.attrs.risk.type: the key is missing; write type: string`},
		"attribute as a list":           {`owner: string,`, `owner: [string],`, `10:16: authz.types.order.attrs.owner: want a type or a map, got a list; write string, string? for one that may be absent, or { type: string, class: confidential }`},
		"attribute that all have":       {`team_id:`, `tenant:`, `10:31: authz.types.order.attrs.tenant: every type has tenant, beside its attributes; remove it here`},
		"unknown class":                 {`class: secret`, `class: secrets`, `10:73: authz.types.order.attrs.card.class: "secrets" is not accepted here; did you mean "secret"?`},
		"unknown provider":              {`provider: scores`, `provider: score`, `10:140: authz.types.order.attrs.risk.provider: provider "score" is not declared; did you mean "scores"?`},
		"action without a verb":         {`["orders:read", "orders:approve"]`, `["orders:read", "orders:*"]`, `9:32: authz.types.order.actions[1]: "orders:*" is not accepted here; write "type:verb", such as "orders:read"`},
		"grant of another action":       {`grants: { "orders:read"`, `grants: { "orders:reed"`, `12:17: authz.types.order.grants."orders:reed": action "orders:reed" is not declared; did you mean "orders:read"?`},
		"relation with a dash":          {`[viewer, banned]`, `[viewer, is-banned]`, `11:27: authz.types.order.relations[1]: "is-banned" is not accepted here; write the name of a relation of the model, such as viewer: lower-case letters, digits and _`},
		"column of nothing":             {`{ owner: user_id`, `{ ownr: user_id`, `14:18: authz.types.order.columns.ownr: attribute "ownr" is not declared; did you mean "owner"?`},
		"column with a dot":             {`tenant: org_id`, `tenant: orders.org_id`, `14:34: authz.types.order.columns.tenant: "orders.org_id" is not accepted here; write the name of a column, such as owner_id`},
		"column of a provider's":        {`tenant: org_id`, `risk: risk`, `14:34: authz.types.order.columns.risk: a provider supplies this attribute, so no row has it; remove the column, or the provider`},
		"columns without a table":       {"      table: orders\n", "", `13:7: authz.types.order.columns: columns of no table; add table: NAME`},
		"token key without a relation":  {`"team#member": team`, `team: team`, `16:17: authz.from_token.team: "team" is not accepted here; write "TYPE#RELATION" as in the model, such as "team#member"`},
		"token fact that no token has":  {`"team#member": team`, `"team#member": teams`, `16:17: authz.from_token."team#member": "teams" is not accepted here; the values are: team, managed_teams, organizations, roles`},
		"provider that nobody asks":     {"  - { from: orders, to: scores }\n", "", `17:26: authz.providers.scores.service: no flow leads from a service to "scores", so no sidecar may ask it; add { from: SERVICE, to: scores } to flows`},
		"provider of a gateway":         {`service: scores`, `service: edge`, `17:26: authz.providers.scores.service: service "edge" is not declared; declared are: orders, scores`},
		"provider without a slash":      {`timeout: 250ms`, `path: attrs`, `17:43: authz.providers.scores.path: "attrs" is not accepted here; begin it with /, without a query, such as /attributes`},
		"provider that takes forever":   {`timeout: 250ms`, `timeout: 1h`, `17:43: authz.providers.scores.timeout: 1h is out of bounds; write 1ms to 10s`},
		"model of another language":     {`model: shop.fga`, `model: shop.zed`, `6:3: authz.model: file "shop.zed" has an ending that is not read here; the endings are .fga`},
		"one role apart":                {`[boss, auditor]`, `[boss]`, `5:46: authz.separate[1].roles: one role alone cannot be kept apart; name two roles or more`},
		"unknown role apart":            {`[boss, auditor]`, `[boss, auditer]`, `5:60: authz.separate[1].roles[1]: role "auditer" is not declared; did you mean "auditor"?`},
		"kind of separation":            {`kind: dynamic`, `kind: dynamik`, `5:70: authz.separate[1].kind: "dynamik" is not accepted here; did you mean "dynamic"?`},
		"role that includes both":       {`["role:clerk"]`, `["role:clerk", "role:approver"]`, `4:68: authz.roles.boss: the role includes clerk and approver, which authz.separate keeps apart; include one of them, or separate others`},
		"user with both":                {`[clerk@acme, approver@globex]`, `[boss@acme, approver]`, `29:25: demo.users.ann.roles: nobody is granted both clerk and approver (authz.separate, line 5); grant one of them`},
		"role in a foreign house":       {`[clerk@acme, approver@globex]`, `[clerk@acne]`, `29:33: demo.users.ann.roles[0]: the user does not belong to organization "acne"; did you mean "acme"?`},
		"key that is none":              {`11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo`, `11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHUR`, `19:19: authz.bundle.keys[0]: want an Ed25519 public key; write its 32 bytes in base64url without padding, 43 characters`},
		"staleness beyond expiry":       {`max_changed: 0`, `expires: 2h, max_staleness: 3h`, `19:79: authz.bundle.max_staleness: longer than the 2h after which a bundle expires; shorten it, or raise expires`},
		"more than all":                 {`max_changed: 0`, `max_changed: 101`, `19:66: authz.bundle.max_changed: 101 is no percentage; write 0 to 100`},
		"log that forgets":              {`overflow: deny`, `overflow: drop`, `20:10: authz.log.overflow: "drop" is not accepted here; the values are: block, deny`},
		"openfga in the clear":          {`, ca: fga.pem`, ``, `18:3: authz.openfga.ca: without TLS anybody on the way could change who may do what; write ca: FILE.pem; only a server at 127.0.0.1 or [::1] does without`},
		"openfga without a port":        {`"fga.example:8081"`, `fga.example`, `18:14: authz.openfga.address: "fga.example" is no HOST:PORT; write the address of the gRPC listener, such as fga.example:8081`},
		"openfga with a literal secret": {`"secret://embedded/fga"`, `hunter2`, `18:55: authz.openfga.token: ` + secretMsg + `; ` + secretFix},
		"openfga with another store":    {`"secret://embedded/fga"`, `"secret://vault/fga"`, `18:55: authz.openfga.token: backend "vault" is not declared; declared are: embedded`},
		"test that nothing runs":        {`a_test.yaml`, `a.yaml`, `23:82: services.orders.policy_tests[0]: file "a.yaml" does not say that it is a test; name it NAME_test.yaml or NAME_test.rego`},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Count(ruled, tc.old) != 1 {
				t.Fatalf("%q stands %d times in the file", tc.old, strings.Count(ruled, tc.old))
			}
			_, err := parse("rampart.yaml", []byte(strings.Replace(ruled, tc.old, tc.new, 1)))
			if err == nil {
				t.Fatal("loads")
			}
			if want := "rampart.yaml:" + tc.want; err.Error() != want {
				t.Errorf("\n got %s\nwant %s", err, want)
			}
		})
	}
	_, err := parse("rampart.yaml", []byte(strings.Replace(ruled, "  model: shop.fga\n", "", 1)))
	if err == nil || strings.Count(err.Error(), "relations are not described anywhere; add model: FILE.fga to authz") != 6 {
		t.Errorf("without a model: %v", err)
	}
}
