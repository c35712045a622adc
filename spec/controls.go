package spec

import "slices"

// ControlInstance is one control at one place of the system.
type ControlInstance struct {
	ID      string // such as idempotency.key; one of KnownControls
	Element string // what it protects: flow-ID, service-NAME, store-NAME, data-NAME
	Key     string // path of the key that switches it on, such as flows[1].idempotency
	Default bool   // the file does not say the key: the control is a safe default
}

// KnownControls returns the ids of all controls, sorted.
func KnownControls() []string {
	return []string{
		"audit.log",
		"authn.api_key", "authn.api_key_bound_to_jwt", "authn.csrf", "authn.dpop", "authn.federation", "authn.jwt", "authn.mfa", "authn.password", "authn.session", "authn.step_up",
		"authz.domain", "authz.gateway", "authz.separation", "authz.service",
		"data.envelope", "db.audit_log", "db.check", "db.row_mac", "decision.log",
		"edge.cors", "edge.route", "egress.allow", "egress.private_ip", "field.server_owned", "headers.security", "http.framing", "idempotency.key",
		"limit.api_key", "limit.ban", "limit.ip", "limit.login", "limit.pool", "limit.user",
		"message.recipient_guard", "message.replay", "message.schema", "message.signature",
		"mtls.peer_declared", "mtls.required", "mtls.revocation", "nonce.window", "policy.bundle",
		"revocation.bound",
		"secret.acl", "secret.manager", "secret.not_in_env", "tls.min13",
		"token.audience", "token.binding", "token.client_auth", "token.exchange", "token.rotation",
		"validate.json", "validate.max_body", "validate.openapi", "validate.response", "waf.rules",
	}
}

// deriver collects the control instances of a System.
type deriver struct {
	s   *System
	out []ControlInstance
}

// Controls returns every control that the file declares or gets by default,
// without those that it disables: flows in file order, then services, stores
// and data by name. It says what the file promises; that a plane enforces it
// and that a probe proves it are facts of the running system.
func (s *System) Controls() []ControlInstance {
	d := &deriver{s: s}
	for i, f := range s.Flows {
		d.flow(index("flows", i), f)
	}
	for _, name := range sortedNames(s.Services) {
		d.service(name, s.Services[name])
	}
	for _, name := range sortedNames(s.Stores) {
		d.store("store-"+name, s.Stores[name], name)
	}
	for _, name := range sortedNames(s.Data) {
		d.data(name, s.Data[name])
	}
	return d.out
}

// add records controls of an element that stand or fall with one key. A
// control that is on already, or that the file disables, is not added.
func (d *deriver) add(element, key string, ids ...string) {
	for _, id := range ids {
		on := func(c ControlInstance) bool { return c.ID == id && c.Element == element }
		if d.s.Off(id) || slices.ContainsFunc(d.tail(element), on) {
			continue
		}
		said := d.s.source != nil && d.s.source.has(key)
		d.out = append(d.out, ControlInstance{ID: id, Element: element, Key: key, Default: !said})
	}
}

// derive records controls that follow from the element being there at all: no
// key switches them on, and Key names the element.
func (d *deriver) derive(element, key string, ids ...string) {
	before := len(d.out)
	d.add(element, key, ids...)
	for i := before; i < len(d.out); i++ {
		d.out[i].Default = true
	}
}

// tail returns the instances of the element, which are always the last ones.
func (d *deriver) tail(element string) []ControlInstance {
	i := len(d.out)
	for i > 0 && d.out[i-1].Element == element {
		i--
	}
	return d.out[i:]
}

// when is add under a condition.
func (d *deriver) when(is bool, element, key string, ids ...string) {
	if is {
		d.add(element, key, ids...)
	}
}

func (d *deriver) flow(key string, f Flow) {
	el, kind := flowElement(f), d.s.flowKindOf(f)
	d.when(f.TLS.Min == tls13, el, key+".tls.min", "tls.min13")
	switch kind {
	case flowEntry:
		d.entry(el, key, f)
	case flowRoute, flowCall:
		d.internal(el, key, f, kind)
	case flowEgress:
		d.add(el, key+".egress", "egress.allow")
		d.add(el, key+".egress.private_ips", "egress.private_ip")
		d.when(f.Inject != nil, el, key+".inject", "secret.manager", "secret.acl", "secret.not_in_env")
	case flowQuery:
		d.add(el, key+".db.pool", "limit.pool")
		d.store(el, d.s.Stores[f.To], f.To, f.Carries...)
	case flowPublish, flowDeliver:
		d.derive(el, key, "mtls.required", "mtls.peer_declared", "mtls.revocation")
		d.message(el, key, f)
	}
	// A file has no plane in between that could record its use.
	if d.s.Stores[f.To].Kind != "sqlite" {
		d.derive(el, key, "audit.log")
	}
}

func (d *deriver) entry(el, key string, f Flow) {
	authn := key + ".authn"
	d.derive(el, key, "edge.cors", "edge.route", "http.framing", "headers.security", "authz.gateway", "validate.json")
	d.add(el, "revocation", "revocation.bound")
	d.add(el, key+".limit.ip", "limit.ip")
	d.add(el, key+".limit.user", "limit.user")
	d.add(el, key+".validate.max_body", "validate.max_body")
	for _, m := range f.Authn.All {
		d.add(el, authn, "authn."+m)
		switch m {
		case "session":
			d.add(el, authn, "authn.csrf", "authn.password", "authn.mfa", "limit.login")
		case "jwt": // a JWT is issued after the same login
			d.add(el, authn, "authn.password", "authn.mfa", "limit.login", "authn.dpop", "token.client_auth", "token.rotation")
		case "api_key":
			d.add(el, key+".limit.api_key", "limit.api_key")
		}
	}
	people := slices.Contains(f.Authn.All, "session") || slices.Contains(f.Authn.All, "jwt")
	d.when(people && len(d.s.Identity.Providers) > 0, el, "identity.providers", "authn.federation")
	d.when(f.Authn.Bind != "", el, authn+".bind", "authn.api_key_bound_to_jwt")
}

func (d *deriver) internal(el, key string, f Flow, kind flowKind) {
	d.derive(el, key, "mtls.required", "mtls.peer_declared", "mtls.revocation", "validate.json")
	d.when(f.Authn.Pattern == "exchange", el, key+".authn", "token.exchange", "token.audience", "token.binding")
	d.when(kind == flowRoute, el, key+".allow", "authz.gateway")
	d.add(el, join("services", f.To)+".policy", "authz.service")
	d.when(len(d.s.Services[f.To].Policy) > 0, el, join("services", f.To)+".policy", "authz.domain")
	d.add(el, key+".validate.max_body", "validate.max_body")
	d.when(f.Validate.OpenAPI != "", el, key+".validate.openapi", "validate.openapi")
	d.when(f.Validate.Response == ResponseStrict, el, key+".validate.response", "validate.response")
	d.when(f.WAF != nil && f.WAF.Mode != WAFOff && !f.WAF.Detect, el, key+".waf", "waf.rules")
	d.when(len(f.ServerOwned.Fields) > 0, el, key+".server_owned", "field.server_owned")
	d.when(f.Idempotency != nil, el, key+".idempotency", "idempotency.key")
	d.when(f.Nonce != nil, el, key+".nonce", "nonce.window")
	d.when(len(f.StepUp) > 0, el, key+".step_up", "authn.step_up")
}

func (d *deriver) message(el, key string, f Flow) {
	if m := f.Message; m != nil {
		d.when(m.Sign != "", el, key+".message.sign", "message.signature")
		d.when(len(m.AcceptFrom) > 0, el, key+".message.accept_from", "message.signature")
		d.when(len(m.AcceptFrom) > 0, el, key+".message.replay_window", "message.replay")
		d.when(m.Schema != "", el, key+".message.schema", "message.schema")
	}
	d.when(f.Guard != nil, el, key+".guard", "message.recipient_guard")
}

func (d *deriver) service(name string, svc Service) {
	el, key := "service-"+name, join("services", name)
	d.derive(el, key, "audit.log", "decision.log", "policy.bundle")
	d.when(len(d.s.Authz.Separate) > 0, el, "authz.separate", "authz.separation")
	if svc.Role == roleGateway {
		d.derive(el, key, "edge.cors", "edge.route", "http.framing", "headers.security")
		d.add(el, key+".edge.ban", "limit.ban")
		return
	}
	d.derive(el, key, "mtls.required", "mtls.peer_declared", "mtls.revocation", "egress.allow", "egress.private_ip", "secret.not_in_env", "authz.service")
	d.when(len(svc.Policy) > 0, el, key+".policy", "authz.domain")
	d.when(svc.OpenAPI != "", el, key+".openapi", "validate.openapi")
}

// store adds what a database promises about its data. With items, only those
// count: a flow is protected by what is done to the data it carries.
func (d *deriver) store(el string, st Store, name string, items ...string) {
	if st.Kind == "nats" {
		d.derive(el, join("stores", name), "mtls.required", "mtls.peer_declared", "mtls.revocation")
		return
	}
	d.when(st.AuditTable != "", el, join("stores", name)+".audit_table", "db.audit_log")
	d.when(st.Password != "", el, join("stores", name)+".password", "secret.manager", "secret.acl", "secret.not_in_env")
	for _, item := range st.Holds {
		if len(items) > 0 && !slices.Contains(items, item) {
			continue
		}
		data, key := d.s.Data[item], join("data", item)
		d.when(data.RowMAC, el, key+".row_mac", "db.row_mac")
		d.when(data.Encrypt != "", el, key+".encrypt", "data.envelope")
		d.when(data.Integrity == "high" || data.Integrity == "critical", el, key+".integrity", "db.check")
	}
}

func (d *deriver) data(name string, data Data) {
	el, key := "data-"+name, join("data", name)
	d.when(data.RowMAC, el, key+".row_mac", "db.row_mac")
	d.when(data.Encrypt != "", el, key+".encrypt", "data.envelope")
	d.when(data.Kind == "credential", el, key+".source", "secret.manager", "secret.acl", "secret.not_in_env")
}
