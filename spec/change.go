package spec

import (
	"bytes"
	"cmp"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Change is one key in which a file differs from the one before.
type Change struct {
	Key  string `json:"key"`            // as in the file; a flow by its id: flows[customer>gateway].limit.ip
	Line int    `json:"line,omitempty"` // in the new file; 0: it stands there no more, or has come by a default
	Old  string `json:"old,omitempty"`  // of a long value the part that differs; "": it was not there
	New  string `json:"new,omitempty"`
	Why  string `json:"why,omitempty"` // why it takes a restart; "": it may change in a running system
}

// Changes lists what differs between two files, sorted by key, with the contents
// of the files that they name. Comments, order and what a default says either way
// are no change.
func Changes(old, new *System) []Change {
	d := differ{old: old, new: new}
	d.walk(standing{}, reflect.ValueOf(old).Elem(), reflect.ValueOf(new).Elem())
	d.resources()
	slices.SortFunc(d.out, func(a, b Change) int { return cmp.Compare(a.Key, b.Key) })
	return slices.CompactFunc(d.out, func(a, b Change) bool { return a.Key == b.Key })
}

// Frozen lists what differs and cannot change in a running system.
func Frozen(old, new *System) []Change {
	return slices.DeleteFunc(Changes(old, new), func(c Change) bool { return c.Why == "" })
}

// standing is where a value stands: in the tables below, in what is shown, and in
// the new file.
type standing struct{ pattern, key, at string }

func (p standing) under(pattern, key, at string) standing {
	dot := func(a, b string) string { return strings.TrimPrefix(a+"."+b, ".") }
	return standing{dot(p.pattern, pattern), dot(p.key, key), dot(p.at, at)}
}

type differ struct {
	old, new *System
	out      []Change
}

// walk compares two values of one type.
func (d *differ) walk(at standing, a, b reflect.Value) {
	t := a.Type()
	switch {
	case t.Kind() == reflect.Pointer:
		d.pointer(at, a, b)
	case t.Kind() == reflect.Struct && !scalar(t):
		for i := range t.NumField() {
			if key := keyOf(t.Field(i)); key != "" {
				d.walk(at.under(key, key, key), a.Field(i), b.Field(i))
			}
		}
	case t == reflect.TypeFor[[]Flow]():
		d.flows(at)
	case hasNames(t):
		d.names(at, a, b)
	case !reflect.DeepEqual(a.Interface(), b.Interface()):
		d.add(at, show(a), show(b))
	}
}

// pointer compares what may be absent: it is then as if all of it were.
func (d *differ) pointer(at standing, a, b reflect.Value) {
	if a.IsNil() && b.IsNil() {
		return
	}
	before := len(d.out)
	d.walk(at, elem(a), elem(b))
	if a.IsNil() != b.IsNil() && len(d.out) == before {
		d.add(at, show(a), show(b))
	}
}

func elem(v reflect.Value) reflect.Value {
	if v.IsNil() {
		return reflect.Zero(v.Type().Elem())
	}
	return v.Elem()
}

// names compares what is named in a map: services, stores, plans.
func (d *differ) names(at standing, a, b reflect.Value) {
	seen := map[string]bool{}
	for _, k := range slices.Concat(a.MapKeys(), b.MapKeys()) {
		name := k.String()
		if seen[name] {
			continue
		}
		seen[name] = true
		x, y := a.MapIndex(k), b.MapIndex(k)
		here := at.under("*", join("", name), join("", name))
		d.entry(here, x.IsValid(), y.IsValid())
		d.walk(here, orZero(x, a.Type().Elem()), orZero(y, a.Type().Elem()))
	}
}

func orZero(v reflect.Value, t reflect.Type) reflect.Value {
	if v.IsValid() {
		return v
	}
	return reflect.Zero(t)
}

// entry notes that something named has come or gone.
func (d *differ) entry(at standing, before, after bool) {
	switch {
	case before && !after:
		d.add(at, "there", "")
	case after && !before:
		d.add(at, "", "new")
	}
}

// flows are compared by id: their order says nothing.
func (d *differ) flows(at standing) {
	ids := map[string]bool{}
	for _, f := range slices.Concat(d.old.Flows, d.new.Flows) {
		if ids[f.ID] {
			continue
		}
		ids[f.ID] = true
		i := slices.IndexFunc(d.old.Flows, func(o Flow) bool { return o.ID == f.ID })
		j := slices.IndexFunc(d.new.Flows, func(n Flow) bool { return n.ID == f.ID })
		here := standing{at.pattern + ".*", at.key + "[" + f.ID + "]", index(at.at, j)}
		d.entry(here, i >= 0, j >= 0)
		var a, b Flow
		if i >= 0 {
			a = d.old.Flows[i]
		}
		if j >= 0 {
			b = d.new.Flows[j]
		}
		d.walk(here, reflect.ValueOf(a), reflect.ValueOf(b))
	}
}

func (d *differ) add(at standing, old, new string) {
	old, new = apart(old, new)
	d.out = append(d.out, Change{Key: at.key, Line: d.new.Line(at.at), Old: old, New: new, Why: why(at.pattern)})
}

// resources compares the contents of the files that both name by one key.
func (d *differ) resources() {
	was := map[resource]bool{}
	for _, r := range d.old.resources() {
		was[r] = true
	}
	for _, r := range d.new.resources() {
		a, _ := d.old.Resource(r.name)
		b, _ := d.new.Resource(r.name)
		if was[r] && !bytes.Equal(a, b) {
			d.add(standing{patternOf(r.key), r.key, r.key}, r.name, r.name+", changed")
		}
	}
}

// listed are indexes in a key.
var listed = regexp.MustCompile(`\[[0-9]+\]`)

// patternOf is the pattern of a key that names a file.
func patternOf(key string) string {
	if strings.HasPrefix(key, "flows[") {
		return "flows.*.message.schema"
	}
	parts := strings.Split(listed.ReplaceAllString(key, ""), ".")
	last := parts[len(parts)-1]
	switch {
	case parts[0] == "services" && slices.Contains(parts, "acme"):
		return "services.*.acme"
	case slices.Contains([]string{"services", "stores", "secrets"}, parts[0]):
		return parts[0] + ".*." + last
	case parts[0] == "identity", parts[0] == "trust":
		return parts[0]
	}
	return strings.Join(parts, ".")
}

// Bounds of what is shown of a value.
const (
	shownWhole  = 60  // bytes; a pair of which none is longer is shown as it is
	shownMost   = 200 // bytes
	shownBefore = 20  // bytes before what differs
)

// apart cuts two long values to where they differ: in a list of exclusions that may
// be a date far behind.
func apart(old, new string) (string, string) {
	from := 0
	if old != "" && new != "" && max(len(old), len(new)) > shownWhole {
		for from < min(len(old), len(new)) && old[from] == new[from] {
			from++
		}
		from = max(0, from-shownBefore)
		if word := strings.LastIndexByte(old[:from], ' ') + 1; from-word < shownWhole {
			from = word
		}
		for from > 0 && !utf8.RuneStart(old[from]) {
			from--
		}
	}
	return excerpt(old, from), excerpt(new, from)
}

func excerpt(s string, from int) string {
	begin := ""
	if from > 0 {
		begin = "..."
	}
	return begin + cut(s[from:], shownMost)
}

// show is a value in one line, as the file would say it.
func show(v reflect.Value) string {
	n := node(v)
	if n == nil {
		return ""
	}
	flow(n)
	text, err := yaml.Marshal(n)
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(string(text)), " ")
}

func flow(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode {
		n.Style = yaml.FlowStyle
	}
	for _, c := range n.Content {
		flow(c)
	}
}

// keyOf is the key of a field; "" for what no file says.
func keyOf(f reflect.StructField) string {
	key := f.Tag.Get("yaml")
	switch {
	case key == "-" && (f.Name == "Pattern" || f.Name == "Plan"): // written as a word of its own
		return strings.ToLower(f.Name)
	case key == "-":
		return ""
	}
	return key
}

// scalar reports whether a struct is one value.
func scalar(t reflect.Type) bool {
	return t == reflect.TypeFor[Rate]() || t == reflect.TypeFor[time.Time]()
}

// hasNames reports whether a map's keys name things that have keys themselves.
func hasNames(t reflect.Type) bool {
	return t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct
}

// why says why what a pattern means takes a restart, "" if it does not. What
// neither table knows takes one: nobody has made sure that it does not.
func why(pattern string) string {
	for at := pattern; at != ""; at = at[:max(strings.LastIndexByte(at, '.'), 0)] {
		if reason, ok := frozen[at]; ok && (at == pattern || !strings.HasSuffix(at, ".*")) { // "services.*" is that one comes or goes
			return reason
		}
	}
	if slices.Contains(strings.Fields(liveKeys), pattern) {
		return ""
	}
	return "nobody has made sure that it can change in a running system; stop the system and start it with this file"
}

// Reasons that several keys share. Each says what to do.
const (
	restartSystem  = "; stop the system and start it with this file"
	needsProcess   = "it takes a process and a certificate of its own" + restartSystem
	startsWith     = "the process is started with it" + restartSystem
	serviceReads   = "services ask for it when they start, and go by it until they end" + restartSystem
	controlOpens   = "the control plane opens it when it starts" + restartSystem
	demoOnce       = "rampart up makes demo identities when it starts; make others with rampart user add and rampart client add"
	edgeCertSource = "the edge's certificates and the issuer of tokens hang on it" + restartSystem
)

// frozen are keys that take a restart, each with all below it, but for those that
// end in a name: they mean that one comes or goes.
var frozen = map[string]string{
	"rampart":             "it is the form of the file",
	"system.name":         "another name is another system; use another state folder",
	"system.trust_domain": "every certificate and token says it; another is another system, with another state folder",

	"data.*.kind":     serviceReads,
	"data.*.pii":      serviceReads,
	"data.*.encrypt":  "rows are written by it, and services ask for it when they start" + restartSystem,
	"data.*.shred":    "rows are written by it, and services ask for it when they start" + restartSystem,
	"data.*.row_mac":  "rows are written by it, and services ask for it when they start" + restartSystem,
	"data.*.search":   "rows are written by it, and services ask for it when they start" + restartSystem,
	"data.*.source":   controlOpens,
	"data.*.rotate":   controlOpens,
	"data.*.generate": controlOpens,

	"authz.model":       "relations that services have told hang on it" + restartSystem,
	"authz.openfga":     "sidecars hold a connection to it, and relations that services have told" + restartSystem,
	"authz.bundle.keys": "it says who may sign policies, which a running system must not be told by its file alone" + restartSystem,
	"identity":          controlOpens,
	"trust":             "certificates in use hang on it" + restartSystem,
	"secrets":           controlOpens,
	"kek":               controlOpens,

	"limits.store": "counts and idempotency keys are there: with another store a payment could be made twice" + restartSystem,

	"services.*":             needsProcess,
	"services.*.role":        needsProcess,
	"services.*.listen":      startsWith,
	"services.*.upstream":    startsWith,
	"services.*.run":         startsWith,
	"services.*.envoy":       "the sidecar opens its socket when it starts" + restartSystem,
	"services.*.workload":    "the sidecar opens its socket when it starts" + restartSystem,
	"services.*.secrets":     "the service is started with them" + restartSystem,
	"services.*.names":       edgeCertSource,
	"services.*.acme":        edgeCertSource,
	"services.*.certificate": edgeCertSource,

	"stores.*":             "services open it when they start" + restartSystem,
	"stores.*.kind":        "services open it when they start" + restartSystem,
	"stores.*.audit_table": serviceReads,
	"stores.*.url":         serviceReads,
	"stores.*.password":    serviceReads,
	"stores.*.ca":          serviceReads,
	"stores.*.pooler":      serviceReads,
	"stores.*.client_cert": serviceReads,
	"stores.*.rotate":      controlOpens,
	"stores.*.dynamic":     controlOpens,

	"external.*.stand_in": startsWith,
	"external.*.run":      startsWith,

	"flows.*.server_owned": serviceReads,
	"flows.*.db":           serviceReads,

	"demo":           demoOnce,
	"unsafe.disable": "planes leave a control out when they are made" + restartSystem,
}

// liveKeys may change while the system runs: who enforces one reads it from the
// configuration in force each time, or makes anew what it is compiled into. A key
// comes here after a look at all of its readers; see TestEveryKeyIsDecided.
const liveKeys = `
system.owner system.criticality
data.* data.*.class data.*.integrity data.*.pci data.*.cache
zones.* zones.*.trust zones.*.private
principals.* principals.*.kind principals.*.zone principals.*.plan
plans.* plans.*.api_key plans.*.quota plans.*.concurrency
authz.roles authz.separate authz.types.* authz.types.*.actions authz.types.*.attrs.* authz.types.*.attrs.*.type
authz.types.*.attrs.*.optional authz.types.*.attrs.*.class authz.types.*.attrs.*.pii authz.types.*.attrs.*.provider authz.types.*.relations
authz.types.*.grants authz.types.*.table authz.types.*.columns authz.from_token authz.providers.* authz.providers.*.service
authz.providers.*.path authz.providers.*.cache authz.providers.*.timeout authz.bundle.expires authz.bundle.max_staleness authz.bundle.replay
authz.bundle.max_changed authz.log.overflow authz.log.keep
sessions.idle sessions.absolute
revocation.sensitive revocation.other
limits.ca limits.gateways
services.*.zone services.*.mount services.*.openapi services.*.policy services.*.policy_tests services.*.methods services.*.headers
services.*.edge.trusted_hops services.*.edge.proxy_protocol services.*.edge.connections services.*.edge.per_ip services.*.edge.ban.after
services.*.edge.ban.first services.*.edge.ban.longest services.*.edge.waf.mode services.*.edge.waf.detect services.*.edge.waf.paranoia
services.*.edge.waf.threshold services.*.edge.waf.exclude
stores.*.zone stores.*.holds stores.*.at_rest stores.*.dead_letter
external.* external.*.zone external.*.url
flows.* flows.*.id flows.*.from flows.*.subject flows.*.to flows.*.carries flows.*.tls.min flows.*.tls.certificate flows.*.tls.verify flows.*.authn.all flows.*.authn.bind
flows.*.authn.pattern flows.*.limit.ip flows.*.limit.user flows.*.limit.api_key flows.*.limit.plan flows.*.validate.openapi
flows.*.validate.max_body flows.*.validate.response flows.*.validate.opaque flows.*.allow flows.*.authz.require flows.*.authz.ask
flows.*.authz.search flows.*.scope flows.*.step_up flows.*.idempotency.header flows.*.idempotency.required flows.*.idempotency.keep flows.*.idempotency.repeat flows.*.idempotency.repeat
flows.*.nonce.header flows.*.nonce.window flows.*.egress.methods flows.*.egress.paths flows.*.egress.private_ips flows.*.inject.secret
flows.*.inject.into flows.*.topic flows.*.message.sign flows.*.message.accept_from flows.*.message.schema flows.*.message.replay_window
flows.*.message.refuse flows.*.guard.recipient flows.*.priority flows.*.stream flows.*.upstream.timeout flows.*.upstream.breaker.failures
flows.*.upstream.breaker.least flows.*.upstream.breaker.open flows.*.cors.origins flows.*.cors.headers flows.*.cors.expose
flows.*.cors.credentials flows.*.cors.max_age flows.*.waf.mode flows.*.waf.detect flows.*.waf.paranoia flows.*.waf.threshold
flows.*.waf.exclude
threats.* threats.*.is threats.*.title
accept
verify.freshness verify.scenario.user.roles verify.scenario.user.organizations verify.scenario.user.team verify.scenario.user.managed_teams
verify.scenario.prepare verify.scenario.call verify.scenario.body verify.scenario.amount verify.scenario.ledger verify.scenario.object
verify.scenario.list verify.scenario.pii
`
