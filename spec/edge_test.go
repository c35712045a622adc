package spec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEdge adds one thing to a file that loads; the problem must name it.
func TestEdge(t *testing.T) {
	gateway := func(text string) func(string) string {
		return func(s string) string {
			return strings.Replace(s, "edge: { role: gateway }", "edge: { role: gateway, edge: { "+text+" } }", 1)
		}
	}
	route := func(text string) func(string) string {
		return func(s string) string {
			return strings.Replace(s, `allow: "role:member"`, `allow: "role:member", `+text, 1)
		}
	}
	top := func(text string) func(string) string {
		return func(s string) string { return strings.Replace(s, "stores:\n", text+"\nstores:\n", 1) }
	}
	const exclude = `{ route: "POST /orders", field: "body:/note", rules: [942190], reason: prose, until: 2027-06-30 }`
	for name, row := range map[string]struct {
		change func(string) string
		want   string
	}{
		"hops":                   {gateway(`trusted_hops: [10.0.0.0/8, "fd00::/8"], proxy_protocol: true`), ""},
		"a hop with host bits":   {gateway(`trusted_hops: 10.1.2.3/8`), `edge.trusted_hops[0]: "10.1.2.3/8" is no network`},
		"everybody is a hop":     {gateway(`trusted_hops: 0.0.0.0/0`), `any client could choose its address`},
		"PROXY from nobody":      {gateway(`proxy_protocol: true`), `no hop is trusted to say who the client is`},
		"a ban that shrinks":     {gateway(`ban: { first: 2h, longest: 1h }`), `edge.ban.longest: 1h is out of bounds`},
		"an edge of a service":   {func(s string) string { return strings.Replace(s, "mail: {", "mail: { edge: { per_ip: 4 },", 1) }, `only the gateway listens`},
		"no connections":         {gateway(`connections: 0`), `edge.connections: want a number from 16 to 1000000, got 0; write at least 16, or leave the key out for the default of 10000`},
		"no connection of one":   {gateway(`per_ip: 0`), `edge.per_ip: want a number from 1 to 1000000, got 0; write at least 1, or leave the key out for the default of 256`},
		"no gateways":            {top(`limits: { store: "rediss://10.0.0.7:6379", ca: limits.pem, gateways: 0 }`), `limits.gateways: want a number from 1 to 64, got 0; write at least 1, or leave the key out for the default of 2`},
		"no level":               {route(`waf: { paranoia: 0 }`), `waf.paranoia: want a number from 1 to 4, got 0`},
		"no score":               {route(`waf: { threshold: 0 }`), `waf.threshold: want a number from 1 to 100, got 0; write at least 1, or leave the key out for the default of 5`},
		"a gateway's level of 0": {gateway(`waf: { paranoia: 0 }`), `edge.waf.paranoia: want a number from 1 to 4, got 0`},
		"a breaker at nothing":   {route(`upstream: { breaker: { failures: 0 } }`), `breaker.failures: want a number from 5 to 100, got 0`},
		"a breaker of nothing":   {route(`upstream: { breaker: { least: 0 } }`), `breaker.least: want a number from 1 to 100000, got 0`},
		"none at once":           {func(s string) string { return strings.Replace(s, "api_key: 60/m", "api_key: 60/m, concurrency: 0", 1) }, `concurrency: want a number from 1 to 10000, got 0; write at least 1, or leave the key out for the default of 100`},
		"no time for an answer":  {route(`upstream: { timeout: 0s }`), `"0s" is not accepted here; want a duration such as 100ms or 2s, from 1ms to 3650d; leave the key out for its default`},
		"a ban for nothing":      {gateway(`ban: { after: 0/m }`), `"0/m" is not accepted here; want a rate such as 10/s, 60/m, 1000/h or 10000/d, from 1 to 1000000000; leave the key out for its default`},
		"no body":                {route(`validate: { max_body: 0 }`), `"0" is not accepted here; want a size such as 512, 64KiB or 1MiB, from 1 to 1024MiB; leave the key out for its default`},
		"a store of limits":      {top(`limits: { store: "rediss://10.0.0.7:6379", ca: limits.pem, gateways: 4 }`), ""},
		"gateways that share keys": {func(s string) string {
			return top(`limits: { store: "rediss://10.0.0.7:6379", ca: limits.pem, gateways: 2 }`)(route(`idempotency: { required: true }`)(s))
		}, ""},
		"a store in clear text":      {top(`limits: { store: "redis://10.0.0.7:6379", ca: limits.pem }`), `limits.store: "redis://10.0.0.7:6379" is no address of a store`},
		"a store with a password":    {top(`limits: { store: "rediss://:pass@10.0.0.7:6379", ca: limits.pem }`), `limits.store: `},
		"a store nobody vouches for": {top(`limits: { store: "rediss://10.0.0.7:6379" }`), `limits.ca: the key is missing`},
		"a WAF":                      {route(`waf: { mode: full, paranoia: 2, threshold: 7, exclude: [` + exclude + `] }`), ""},
		"a WAF in one word":          {route(`waf: full`), ""},
		"a WAF that only looks":      {route(`waf: detect`), ""},
		"a WAF in a wrong word":      {route(`waf: fulll`), `waf: unknown way to look for attacks "fulll"; did you mean "full"?`},
		"a WAF in no word":           {route(`waf: true`), `waf: want a word or a map, got the truth value true; write waf: full, or waf: { mode: full, paranoia: 2 }`},
		"a WAF of the gateway":       {gateway(`waf: full`), ""},
		"a gateway's exclusion":      {gateway(`waf: { exclude: [` + exclude + `] }`), `edge.waf.exclude: an exclusion is of one operation`},
		"a gateway beyond levels":    {gateway(`waf: { paranoia: 5 }`), `edge.waf.paranoia: want a number from 1 to 4`},
		"a WAF of no mode":           {route(`waf: { mode: half }`), `waf.mode: "half" is not accepted`},
		"a WAF beyond the levels":    {route(`waf: { paranoia: 5 }`), `waf.paranoia: want a number from 1 to 4`},
		"an exclusion for ever":      {route(`waf: { exclude: [` + strings.Replace(exclude, ", until: 2027-06-30", "", 1) + `] }`), `exclude[0].until: the key is missing`},
		"an exclusion of everything": {route(`waf: { exclude: [` + strings.Replace(exclude, "body:/note", "*", 1) + `] }`), `exclude[0].field: "*" is not accepted here`},
		"an exclusion of no rule":    {route(`waf: { exclude: [` + strings.Replace(exclude, "942190", "42", 1) + `] }`), `exclude[0].rules[0]: want a number from 900000 to 999999`},
		"a WAF inside": {func(s string) string {
			return strings.Replace(s, "from: mail, to: orders", "from: mail, to: orders, waf: { mode: full }", 1)
		}, `waf belongs to flows from the gateway to a service`},
		"answers checked inside": {func(s string) string {
			return strings.Replace(s, "from: mail, to: orders", "from: mail, to: orders, validate: { response: strict }", 1)
		}, `validate.response: the gateway does that`},
		"CORS":                        {route(`cors: { origins: "https://app.example.com", credentials: true }`), ""},
		"CORS for everybody":          {route(`cors: { origins: "*" }`), `"*" is no origin of the web`},
		"CORS in clear text":          {route(`cors: { origins: "http://app.example.com" }`), `is no origin of the web`},
		"CORS with credentials: yes":  {route(`cors: { origins: "https://app.example.com", credentials: yes }`), `cors.credentials: want true or false`},
		"CORS with a path":            {route(`cors: { origins: "https://app.example.com/" }`), `is no origin of the web`},
		"a stream":                    {route(`stream: [websocket, sse]`), ""},
		"calls of gRPC":               {route(`stream: grpc, validate: { opaque: grpc }`), ""},
		"calls that nobody says pass": {route(`stream: grpc`), `stream[0]: messages of gRPC pass without validation, and the flow does not say so`},
		"calls that are kept":         {route(`stream: grpc, validate: { opaque: grpc }, idempotency: { required: true }`), `stream[0]: an idempotency key keeps a whole answer`},
		"a stream of something":       {route(`stream: quic`), `stream[0]: "quic" is not accepted`},
		"a patient gateway":           {route(`upstream: { timeout: 500ms, breaker: { failures: 20, least: 5, open: 10s } }`), ""},
		"a breaker that never opens":  {route(`upstream: { breaker: { failures: 101 } }`), `breaker.failures: want a number from 5 to 100`},
		"a low priority":              {route(`priority: low`), ""},
		"no priority at all":          {route(`priority: none`), `priority: "none" is not accepted`},
	} {
		t.Run(name, func(t *testing.T) {
			text := row.change(whole)
			if text == whole {
				t.Fatal("the row changes nothing")
			}
			_, err := parse("rampart.yaml", []byte(text))
			switch {
			case row.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

// TestOneWord: what a flow says of the WAF goes before what its gateway says, key
// by key, and the file with all defaults says the same.
func TestOneWord(t *testing.T) {
	for name, row := range map[string]struct {
		gateway, flow string // "" leaves the key out
		want          WAF
	}{
		"nothing is guided":               {"", "", WAF{Mode: WAFGuided, Paranoia: 1, Threshold: 5}},
		"full":                            {"", "full", WAF{Mode: WAFFull, Paranoia: 1, Threshold: 5}},
		"guided":                          {"", "guided", WAF{Mode: WAFGuided, Paranoia: 1, Threshold: 5}},
		"off":                             {"", "off", WAF{Mode: WAFOff, Paranoia: 1, Threshold: 5}},
		"detect":                          {"", "detect", WAF{Mode: WAFGuided, Detect: true, Paranoia: 1, Threshold: 5}},
		"all flows full":                  {"full", "", WAF{Mode: WAFFull, Paranoia: 1, Threshold: 5}},
		"all flows full, this one guided": {"full", "guided", WAF{Mode: WAFGuided, Paranoia: 1, Threshold: 5}},
		"a level of all, a score of one":  {"{ paranoia: 2, threshold: 10 }", "{ threshold: 7 }", WAF{Mode: WAFGuided, Paranoia: 2, Threshold: 7}},
		"all only look":                   {"detect", "full", WAF{Mode: WAFFull, Detect: true, Paranoia: 1, Threshold: 5}},
		"all only look, this one refuses": {"detect", "{ detect: false }", WAF{Mode: WAFGuided, Paranoia: 1, Threshold: 5}},
	} {
		t.Run(name, func(t *testing.T) {
			text := whole
			if row.gateway != "" {
				text = strings.Replace(text, "edge: { role: gateway }", "edge: { role: gateway, edge: { waf: "+row.gateway+" } }", 1)
			}
			if row.flow != "" {
				text = strings.Replace(text, `allow: "role:member"`, `allow: "role:member", waf: `+row.flow, 1)
			}
			s := mustParse(t, text)
			effective, err := s.Effective()
			if err != nil {
				t.Fatal(err)
			}
			for what, sys := range map[string]*System{"file": s, "effective": mustParse(t, string(effective))} {
				f, _ := sys.FlowBetween("edge", "orders")
				if diff := cmp.Diff(&row.want, f.WAF); diff != "" {
					t.Errorf("%s (-want +got):\n%s", what, diff)
				}
			}
		})
	}
}
