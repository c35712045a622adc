package spec

import (
	"strings"
	"testing"
)

// whole is a file without a fault; each case below breaks one rule of it.
const whole = `rampart: v1
system: { name: shop }
data:
  order: { integrity: high }
  card: { class: secret }
  key: { kind: credential, source: "secret://embedded/shop/key" }
principals:
  buyer: { kind: human }
  partner: { kind: client, plan: basic }
plans: { basic: { api_key: 60/m } }
authz: { roles: { member: ["orders:*"] } }
services:
  edge: { role: gateway }
  orders: { upstream: "http://127.0.0.1:9000", openapi: orders.yaml }
  mail: { upstream: "http://127.0.0.1:9001" }
stores:
  orders_db: { kind: sqlite, holds: [order] }
  events: { kind: nats }
external:
  bank: { url: "https://bank.example", stand_in: "127.0.0.1:9002" }
flows:
  - { id: 1, from: buyer, to: edge, authn: session }
  - { id: 2, from: partner, to: edge, authn: { all: [api_key, jwt] } }
  - { id: 3, from: edge, to: orders, carries: [order], allow: "role:member", scope: "orders:*", step_up: [{ routes: "POST /orders/*/refund", acr: aal2, max_age: 5m }] }
  - { id: 4, from: orders, to: orders_db, carries: [order] }
  - { id: 5, from: orders, to: bank, egress: { methods: [POST], paths: [/v1/pay] }, inject: { secret: key, into: "header:Authorization" } }
  - { id: 6, from: orders, to: events, topic: order.paid, message: { sign: svid } }
  - { id: 7, from: events, to: mail, topic: order.paid, message: { accept_from: [orders] }, guard: { recipient: "message.to == subject" } }
  - { id: 8, from: mail, to: orders }
`

// TestRefused changes one thing of the whole file at a time. Each must be
// refused with exactly one line, of place, key, rule and fix.
func TestRefused(t *testing.T) {
	if _, err := parse("rampart.yaml", []byte(whole)); err != nil {
		t.Fatalf("the whole file is refused: %v", err)
	}
	for _, tc := range []struct{ name, old, new, want string }{
		// what YAML would bear, and one reading alone does not
		{"tag", `{ name: shop }`, `{ name: !!str shop }`, `2:17: system.name: tags are not allowed; remove !!str`},
		{"merge key", `order: { integrity: high }`, `order: { <<: { pci: true } }`, `4:12: data.order: merge keys (<<) are not allowed; write the keys out`},
		{"number as key", `mail: {`, `7: {`, `15:3: services.7: a key that YAML reads as the number 7; put the key in quotes`},
		{"empty value", `{ name: shop }`, `{ name: }`, `2:11: system.name: the key has no value; give it one, or remove the key`},
		{"empty list", `carries: [order], allow`, `carries: [], allow`, `24:38: flows[3].carries: the list is empty; fill it, or remove the key`},
		{"bad indentation", "  mail: {", "    mail: {", `15:5: this line does not fit the block above it; check its indentation, and that its key ends with a colon and a space`},
		{"open quote", `"header:Authorization"`, `"header:Authorization`, `26:3: a bracket that opens here is never closed; close it with ] or }, and check the commas and quotes inside`},
		{"bare question mark", `{ integrity: high }`, `{ integrity: high?, pci: true }`, `4:23: high? needs quotes here: inside { } and [ ] a bare ? means something else in YAML; write "high?"`},
		{"unknown alias", `member: ["orders:*"]`, `member: [*all]`, `11:28: alias *all: anchors and aliases are not allowed; write the value out, or quote it if it starts with *`},
		{"control character", `{ name: shop }`, "{ name: shop, owner: \"a\\x07b\" }", `2:30: system.owner: a control character in the value; remove it`},
		{"not text", `{ name: shop }`, "{ name: shop\x01 }", `2:21: the file has a byte that is not printable UTF-8 text; save it as plain UTF-8`},
		{"second document", "services:\n", "---\nservices:\n", `12:1: the file holds a second document; keep one document per file and remove the line ---`},

		// types
		{"list for map", `plans: { basic: { api_key: 60/m } }`, `plans: [basic]`, `10:1: plans: want a map of names, got a list; write NAME: and its keys below it`},
		{"word for list", `holds: [order]`, `holds: order`, `17:30: stores.orders_db.holds: want a list, got a string; write [a, b], or one entry per line after a dash`},
		{"word for truth", `{ class: secret }`, `{ class: secret, pci: yes }`, `5:26: data.card.pci: want true or false, got a string; write true or false without quotes`},
		{"bad rate", `api_key: 60/m`, `api_key: 60`, `10:19: plans.basic.api_key: "60" is not accepted here; want a rate such as 10/s, 60/m, 1000/h or 10000/d, from 1 to 1000000000`},
		{"bad duration", `{ name: shop }`, "{ name: shop }\nsessions: { idle: 30min }", `3:13: sessions.idle: "30min" is not accepted here; want a duration such as 90s, 5m, 24h or 30d, from 1s to 3650d`},
		{"bad date", "flows:", "accept: [{ threat: RT-X@flow-1, owner: a, reason: b, until: soon }]\nflows:", `21:54: accept[0].until: "soon" is not accepted here; want a date such as 2027-06-30`},
		{"the people of the file that needs to declare none", `from: buyer, to: edge`, `from: user, to: edge`, `22:14: flows[1].from: element "user" is not declared; did you mean "users"?`},
		{"authn word", `authn: session`, `authn: sesion`, `22:37: flows[1].authn: unknown way to authenticate "sesion"; did you mean "session"?`},
		{"authn map", `authn: { all: [api_key, jwt] }`, `authn: { bind: "jwt.azp == api_key.client" }`, `23:39: flows[2].authn: want the methods that must all be present; write { all: [api_key, jwt] }`},

		// names and references
		{"name form", `card: {`, `Card: {`, `5:3: data.Card: a name starts with a letter and holds lower-case letters, digits, _ and -, at most 63; rename it`},
		{"system name", `{ name: shop }`, `{ name: my_shop }`, `2:11: system.name: "my_shop" is not accepted here; use lower-case letters, digits and dashes, at most 63`},
		{"name of two", `events: { kind: nats }`, "events: { kind: nats }\n  mail: { kind: sqlite }", `19:3: stores.mail: the name is already taken in services, so a flow could mean either; rename one of the two`},
		{"zone", `{ kind: human }`, `{ kind: human, zone: internt }`, `8:25: principals.buyer.zone: zone "internt" is not declared; did you mean "internet"?`},
		{"plan", `plan: basic }`, `plan: gold }`, `9:28: principals.partner.plan: plan "gold" is not declared; declared are: basic`},
		{"data", `holds: [order]`, `holds: [order, ordr]`, `17:45: stores.orders_db.holds[1]: data item "ordr" is not declared; did you mean "order"?`},
		{"twice in a list", `holds: [order]`, `holds: [order, order]`, `17:45: stores.orders_db.holds[1]: data item "order" stands twice; remove one`},
		{"role of nobody", `["orders:*"]`, `["role:members"]`, `11:28: authz.roles.member[0]: role "members" is not declared; did you mean "member"?`},
		{"permission", `["orders:*"]`, `["orders"]`, `11:28: authz.roles.member[0]: "orders" is not accepted here; write "type:verb", "type:*" or "role:OTHER"`},
		{"element of a threat", "flows:", "threats: { T-1: { is: RT-S-REPLAY@flow-9 } }\nflows:", `21:19: threats.T-1.is: element "flow-9" is not in this system; did you mean "flow-1"?`},
		{"control", "flows:", "unsafe: { disable: [limits.ip] }\nflows:", `21:21: unsafe.disable[0]: control "limits.ip" is not declared; did you mean "limit.ip"?`},
		{"demo role", "flows:", "demo: { users: { ann: { roles: [memeber] } } }\nflows:", `21:33: demo.users.ann.roles[0]: role "memeber" is not declared; did you mean "member"?`},

		// elements
		{"a misspelt role", `{ role: gateway }`, `{ role: gatway }`, `13:11: services.edge.role: "gatway" is not accepted here; did you mean "gateway"?`},
		{"a role that is none", `{ role: gateway }`, `{ role: proxy }`, `13:11: services.edge.role: "proxy" is not accepted here; the values are: gateway`},
		{"a misspelt store", `kind: nats`, `kind: nast`, `18:13: stores.events.kind: "nast" is not accepted here; did you mean "nats"?`},
		{"a misspelt client", `{ kind: client, plan: basic }`, `{ kind: clint, plan: basic }`, `9:14: principals.partner.kind: "clint" is not accepted here; did you mean "client"?`},
		{"a misspelt credential", `{ kind: credential, source`, `{ kind: credental, source`, `6:10: data.key.kind: "credental" is not accepted here; did you mean "credential"?`},
		{"two gateways", "stores:\n", "  front: { role: gateway }\nstores:\n", `16:12: services.front.role: "edge" is already the gateway, and a system has one; remove role from one of the two`},
		{"gateway with a process", `{ role: gateway }`, `{ role: gateway, run: [node] }`, `13:26: services.edge.run: the gateway is Rampart itself: it has no process, document or policy of its own; remove the key`},
		{"listen", `{ role: gateway }`, `{ role: gateway, listen: 8443x }`, `13:26: services.edge.listen: "8443x" is no address to listen on; write ":8443" or "127.0.0.1:8443"`},
		{"upstream by name", `"http://127.0.0.1:9001"`, `"http://localhost:9001"`, `15:11: services.mail.upstream: "http://localhost:9001" is not loopback, so others could reach the service around its sidecar; write http://127.0.0.1:PORT`},
		{"upstream with a path", `"http://127.0.0.1:9001"`, `"http://127.0.0.1:9001/"`, `15:11: services.mail.upstream: "http://127.0.0.1:9001/" is not plain http to one address; write http://127.0.0.1:PORT, without path`},
		{"port of another", `"http://127.0.0.1:9001"`, `"http://127.0.0.1:9000"`, `15:11: services.mail.upstream: port 9000 is already that of "orders"; give each process a port of its own`},
		{"reserved mount", `openapi: orders.yaml }`, `openapi: orders.yaml, mount: /oauth2/x/ }`, `14:70: services.orders.mount: "/oauth2/x/" is reserved for Rampart itself; mount the service elsewhere, such as mount: /app/`},
		{"reserved name", "stores:\n", "  login: { upstream: \"http://127.0.0.1:9009\" }\nstores:\n", `16:3: services.login.mount: "/login/" is reserved for Rampart itself; mount the service elsewhere, such as mount: /app/`},
		{"shared mount", `9001" }`, `9001", mount: / }`, `15:46: services.mail.mount: "orders" is already mounted there, and without two documents requests cannot be told apart; mount one elsewhere`},
		{"path out of the folder", `openapi: orders.yaml`, `openapi: ../orders.yaml`, `14:48: services.orders.openapi: file "../orders.yaml" is not a plain path inside the folder of rampart.yaml; write it relative, without .. or ./`},
		{"policy of no engine", `9001" }`, `9001", policy: mail.lua }`, `15:54: services.mail.policy[0]: file "mail.lua" has an ending that is not read here; the endings are .cedar, .rego`},
		{"no idempotency", `allow: "role:member", `, `allow: "role:member", idempotency: false, `, `24:78: flows[3].idempotency: want a map, got the truth value false; write true for the defaults, { required: true } to demand a key, or remove the key to have none`},
		{"nonce as a word", `allow: "role:member", `, `allow: "role:member", nonce: on, `, `24:78: flows[3].nonce: want a map, got a string; write true for the defaults, { window: 5m }, or remove the key to have none`},
		{"no breaker", `allow: "role:member", `, `allow: "role:member", upstream: { breaker: off }, `, `24:90: flows[3].upstream.breaker: want a map, got a string; write { failures: 50, least: 20, open: 5s }; it cannot be switched off, so write failures: 100 to open it only when every request fails`},
		{"a map of no example", `message: { sign: svid }`, `message: svid`, `27:59: flows[6].message: want a map, got a string; write { KEY: VALUE }, of the keys accept_from, refuse, replay_window, schema, sign`},
		{"a role known from a slip", "flows:", "demo: { users: { ann: { roles: [audtor] } } }\nflows:\n  - { id: 9, from: edge, to: mail, allow: \"role:auditr\" }", `21:33: demo.users.ann.roles[0]: role "audtor" is not declared; did you mean "auditr"? that one is known from flows[9].allow[0] alone, line 23`},
		{"a credential as idempotency key", `allow: "role:member", `, `allow: "role:member", idempotency: { header: cookie }, `, `24:93: flows[3].idempotency.header: the header "cookie" has another use: it carries a credential, belongs to one connection or to Rampart; write a name of its own, such as Idempotency-Key`},
		{"a header of one hop as nonce", `allow: "role:member", `, `allow: "role:member", nonce: { header: Connection }, `, `24:87: flows[3].nonce.header: the header "Connection" has another use: it carries a credential, belongs to one connection or to Rampart; write a name of its own, such as Rampart-Nonce`},
		{"a header of the planes as nonce", `allow: "role:member", `, `allow: "role:member", nonce: { header: Rampart-Identity }, `, `24:87: flows[3].nonce.header: the header "Rampart-Identity" has another use: it carries a credential, belongs to one connection or to Rampart; write a name of its own, such as Rampart-Nonce`},
		{"a header of the planes", `9001" }`, `9001", headers: [last-event-id, cookie] }`, `15:71: services.mail.headers[1]: no service gets the header "Cookie" from its callers; remove it; who calls is in Rampart-Identity`},
		{"methods beside a document", `openapi: orders.yaml }`, `openapi: orders.yaml, methods: [GET] }`, `14:70: services.orders.methods: the openapi document already says the methods; remove the key`},
		{"store kind", `kind: nats`, `kind: kafka`, `18:13: stores.events.kind: "kafka" is not accepted here; the values are: nats, postgres, sqlite`},
		{"postgres with a password", `{ kind: sqlite, holds: [order] }`, `{ kind: postgres, holds: [order], url: "postgres://u:p@db:5432/x", password: "secret://embedded/db", ca: ca.pem }`,
			`17:53: stores.orders_db.url: ` + secretMsg + `; ` + secretFix},
		{"stand-in elsewhere", `"127.0.0.1:9002"`, `"10.0.0.7:9002"`, `20:40: external.bank.stand_in: "10.0.0.7:9002" is not on this machine; write 127.0.0.1:PORT or [::1]:PORT`},
		{"private external", `https://bank.example`, `https://169.254.169.254`, `20:11: external.bank.url: "169.254.169.254" is a private address, and egress never reaches those; name a public host; to play the party locally, add stand_in: 127.0.0.1:PORT`},

		// what probes are told
		{"a planted field of nothing", `flows:`, "verify: { scenario: { call: POST /orders, pii: { mail: /email } } }\nflows:", `21:50: verify.scenario.pii.mail: field of data.*.pii "mail" is not declared; nothing of the kind is declared; declare it first`},

		// data
		{"credential without a source", `key: { kind: credential, source: "secret://embedded/shop/key" }`, `key: { kind: credential }`, `6:3: data.key.source: the key is missing; write source: secret://embedded/PATH`},
		{"credential elsewhere", `secret://embedded/shop/key`, `vault://shop/key`, `6:28: data.key.source: want a reference to a secret store; write secret://embedded/PATH, or secret://BACKEND/PATH#FIELD; letters, digits, - and _ between slashes`},
		{"search of few values", `{ integrity: high }`, `{ pii: [mail, birth_year], encrypt: envelope, search: { mail: email, birth_year: exact } }`, `4:79: data.order.search.birth_year: "birth_year" has few values: an index of it would show them; remove it from search; look such rows up by another field`},
		{"envelope of nothing", `{ integrity: high }`, `{ integrity: high, encrypt: envelope }`, `4:29: data.order.encrypt: envelope encryption needs the fields to encrypt; add pii: [FIELD]`},
		{"mac nowhere", `{ class: secret }`, `{ class: secret, row_mac: true }`, `5:26: data.card.row_mac: no database holds this data item, so nothing would keep the promise; name it in holds of a sqlite or postgres store`},

		// flows
		{"around the gateway", `from: mail, to: orders }`, `from: mail, to: edge }`, `29:14: flows[8].from: only principals call the gateway, and this one goes from a service to the gateway; call the service itself`},
		{"to itself", `from: mail, to: orders }`, `from: orders, to: orders }`, `29:14: flows[8].from: a flow from an element to itself, and this one goes from a service to a service; remove the flow: nothing crosses a boundary`},
		{"out of a database", `from: mail, to: orders }`, `from: orders_db, to: orders }`, `29:14: flows[8].from: a database cannot start a flow, and this one goes from a database to a service; turn the flow round: services ask databases`},
		{"limit inside", `from: mail, to: orders }`, `from: mail, to: orders, limit: { user: 5/m } }`, `29:38: flows[8].limit: limit belongs to flows from a principal to the gateway; remove it here, or move it to such a flow`},
		{"person with a key", `authn: session`, `authn: api_key`, `22:37: flows[1].authn: an API key needs a client with a plan, and "buyer" has none; write buyer: { kind: client, plan: PLAN } under principals`},
		{"client with a session", "session }\n  - { id: 2, from: partner, to: edge, authn: { all: [api_key, jwt] }", "jwt }\n  - { id: 2, from: partner, to: edge, authn: session",
			`23:39: flows[2].authn: "partner" is a client, and sessions are for humans; write { all: [api_key, jwt] }, jwt or api_key`},
		{"pattern at the edge", `authn: session`, `authn: exchange`, `22:37: flows[1].authn: "exchange" is how identity travels inside; a principal must prove who it is; write session, jwt, or { all: [api_key, jwt] }`},
		{"method inside", `from: mail, to: orders }`, `from: mail, to: orders, authn: jwt }`, `29:38: flows[8].authn: "jwt" is how a principal proves who it is at the gateway; write exchange, per_service or gateway, or remove the key`},
		{"limit of a missing key", `authn: session }`, `authn: session, limit: { api_key: plan } }`, `22:62: flows[1].limit.api_key: this flow takes no API key; remove the limit, or add api_key to authn`},
		{"any beside others", `allow: "role:member"`, `allow: ["role:member", any]`, `24:79: flows[3].allow[1]: any makes the other entries void; remove it, or the others`},
		{"body in memory", `allow: "role:member"`, `validate: { max_body: 64MiB }`, `24:68: flows[3].validate.max_body: a body is held in memory and is at most 16MiB; write a smaller size`},
		{"comparison with nothing", `allow: "role:member"`, `server_owned: { fields: [amount], mode: compare }`, `24:56: flows[3].server_owned.source: the key is missing; write source: DATA, the item that holds the truth`},
		{"no subject token", `from: mail, to: orders }`, "from: edge, to: mail, authn: gateway }\n  - { from: mail, to: orders }", `30:5: flows[mail>orders].authn: "mail" is reached only with pattern gateway, so it has no subject token to exchange; write exchange on a flow to "mail", or gateway here`},
		{"no credential to hand on", `from: mail, to: orders }`, "from: edge, to: mail }\n  - { from: mail, to: orders, authn: per_service }", `30:31: flows[mail>orders].authn: "mail" never sees the caller's credential, so it cannot hand it on; write per_service on a flow to "mail", or exchange here`},
		{"step-up of nothing", `acr: aal2, max_age: 5m`, ``, `24:107: flows[3].step_up[0]: says neither how strong nor how fresh the login must be; add acr: aal2, or max_age: 5m`},
		{"step-up to a slip", `acr: aal2`, `acr: all2`, `24:142: flows[3].step_up[0].acr: "all2" is not accepted here; the values are: aal1, aal2`},
		{"step-up route", `routes: "POST /orders/*/refund"`, `routes: [/orders/*]`, `24:118: flows[3].step_up[0].routes[0]: "/orders/*" is not accepted here; write "METHOD /path", such as "POST /payments/*/refund"; * is one segment, or at the end all that follows`},
		{"step-up too old", `max_age: 5m`, `max_age: 2d`, `24:153: flows[3].step_up[0].max_age: 2d is out of bounds; write 30s to 24h`},
		{"step-up at the edge", `authn: session }`, `authn: session, step_up: [{ acr: aal2 }] }`, `22:53: flows[1].step_up: step_up belongs to flows from the gateway to a service or flows between services; remove it here, or move it to such a flow`},
		{"scope without a verb", `scope: "orders:*"`, `scope: orders`, `24:85: flows[3].scope[0]: "orders" is not accepted here; write "type:verb" or "type:*"`},
		{"scope of nothing", `scope: "orders:*"`, `scope: []`, `24:78: flows[3].scope: the list is empty; fill it, or remove the key`},
		{"bound out of bounds", "stores:\n", "revocation: { sensitive: 2m }\nstores:\n", `16:15: revocation.sensitive: 2m is out of bounds; write 2s to 1m`},
		{"bounds the wrong way round", "stores:\n", "revocation: { sensitive: 30s, other: 20s }\nstores:\n", `16:31: revocation.other: shorter than the 30s of sensitive flows; raise it, or shorten sensitive`},
		{"bound of nothing", "stores:\n", "revocation: { sensitiv: 5s }\nstores:\n", `16:15: revocation.sensitiv: unknown key; did you mean "sensitive"?`},
		{"egress everywhere", `paths: [/v1/pay]`, `paths: ["/v1/*/pay"]`, `26:73: flows[5].egress.paths[0]: "/v1/*/pay" is no path; write an exact path, or a prefix that ends in "/*"; no .., // or query`},
		{"secret that is none", `secret: key`, `secret: card`, `26:95: flows[5].inject.secret: want the name of a data item of kind credential; the credentials are: key`},
		{"not held", `to: orders_db, carries: [order]`, `to: orders_db, carries: [card]`, `25:53: flows[4].carries[0]: "orders_db" does not hold "card"; add it to holds of stores.orders_db`},
		{"topic of nobody", `to: mail, topic: order.paid`, `to: mail, topic: order.payed`, `28:38: flows[7].topic: nothing publishes "order.payed" to "events"; did you mean "order.paid"?`},
		{"unsigned and verified", `message: { sign: svid } }`, `message: { schema: paid.json } }`, `28:68: flows[7].message.accept_from: flow 6 publishes these messages unsigned, so all of them would be refused; add sign: svid to message of flow 6`},
		{"guard of nothing", `guard: { recipient: "message.to == subject" }`, `guard: {}`, `28:93: flows[7].guard.recipient: the key is missing; write recipient: "message.recipient == subject"`},
		{"wildcard topic", `to: mail, topic: order.paid`, `to: mail, topic: "order.*"`, `28:38: flows[7].topic: "order.*" is not accepted here; write words separated by dots, without wildcards, such as payments.completed`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if strings.Count(whole, tc.old) != 1 {
				t.Fatalf("%q stands %d times in the file", tc.old, strings.Count(whole, tc.old))
			}
			_, err := parse("rampart.yaml", []byte(strings.Replace(whole, tc.old, tc.new, 1)))
			if err == nil {
				t.Fatal("loads")
			}
			if want := "rampart.yaml:" + tc.want; err.Error() != want {
				t.Errorf("\n got %s\nwant %s", err, want)
			}
		})
	}
}

// TestRefusedAtOnce: a misspelt word of a list stands beside what else is wrong,
// whether that is found while the file is read or when it is judged.
func TestRefusedAtOnce(t *testing.T) {
	const role = `13:11: services.edge.role: "gatway" is not accepted here; did you mean "gateway"?`
	slip := strings.NewReplacer(`{ role: gateway }`, `{ role: gatway }`)
	for name, tc := range map[string]struct{ old, new, want string }{
		"an unknown key":     {`9001" }`, `9001", mont: /m/ }`, `15:46: services.mail.mont: unknown key; did you mean "mount"?`},
		"an unknown element": {`from: buyer`, `from: buyr`, `22:14: flows[1].from: element "buyr" is not declared; did you mean "buyer"?`},
		"another such word":  {`kind: nats`, `kind: natts`, `18:13: stores.events.kind: "natts" is not accepted here; did you mean "nats"?`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse("rampart.yaml", []byte(slip.Replace(strings.Replace(whole, tc.old, tc.new, 1))))
			if want := "rampart.yaml:" + role + "\nrampart.yaml:" + tc.want; err == nil || err.Error() != want {
				t.Errorf("\n got %v\nwant %s", err, want)
			}
		})
	}
}
