package spec

// elementKind says what a name of the system stands for.
type elementKind string

const (
	kindNone      elementKind = ""
	kindPrincipal elementKind = "a principal"
	kindGateway   elementKind = "the gateway"
	kindService   elementKind = "a service"
	kindDatabase  elementKind = "a database"
	kindQueue     elementKind = "a queue"
	kindExternal  elementKind = "an external party"
)

// kindOf returns what name stands for; kindNone too for a store of a kind that
// does not exist. Names are unique over all kinds: check refuses a file where
// they are not.
func (s *System) kindOf(name string) elementKind {
	if svc, ok := s.Services[name]; ok {
		if svc.Role == roleGateway {
			return kindGateway
		}
		return kindService
	}
	if st, ok := s.Stores[name]; ok {
		switch st.Kind {
		case "sqlite", "postgres":
			return kindDatabase
		case "nats":
			return kindQueue
		}
		return kindNone
	}
	if _, ok := s.External[name]; ok {
		return kindExternal
	}
	if _, ok := s.Principals[name]; ok {
		return kindPrincipal
	}
	return kindNone
}

// flowKind sorts flows by their two ends: it decides which keys a flow takes.
type flowKind string

const (
	flowNone    flowKind = ""
	flowEntry   flowKind = "flows from a principal to the gateway"
	flowRoute   flowKind = "flows from the gateway to a service"
	flowCall    flowKind = "flows between services"
	flowEgress  flowKind = "flows to an external party"
	flowQuery   flowKind = "flows to a database"
	flowPublish flowKind = "flows to a queue"
	flowDeliver flowKind = "flows from a queue"
)

// flowKindOf returns the kind of the flow, or flowNone when no flow may run in
// that direction.
func (s *System) flowKindOf(f Flow) flowKind {
	switch from, to := s.kindOf(f.From), s.kindOf(f.To); {
	case from == kindPrincipal && to == kindGateway:
		return flowEntry
	case from == kindGateway && to == kindService:
		return flowRoute
	case from == kindService && to == kindService && f.From != f.To:
		return flowCall
	case from == kindService && to == kindExternal:
		return flowEgress
	case from == kindService && to == kindDatabase:
		return flowQuery
	case from == kindService && to == kindQueue:
		return flowPublish
	case from == kindQueue && to == kindService:
		return flowDeliver
	}
	return flowNone
}

// internal reports whether a flow of this kind reaches a service by request,
// under a token or identity that its sidecar checks.
func (k flowKind) internal() bool { return k == flowRoute || k == flowCall }

// elements returns the ids by which threats and accept name parts of s.
func (s *System) elements() []string {
	out := []string{"system-" + s.Info.Name}
	for _, f := range s.Flows {
		out = append(out, flowElement(f))
	}
	for prefix, list := range map[string][]string{
		"service-": names(s.Services), "store-": names(s.Stores), "external-": names(s.External),
		"data-": names(s.Data), "zone-": names(s.Zones), "principal-": names(s.Principals),
	} {
		for _, name := range list {
			out = append(out, prefix+name)
		}
	}
	return out
}

func flowElement(f Flow) string { return "flow-" + f.ID }
