// Package policytest answers "Do the policies say what was meant, and would a
// test notice if they no longer did?"
//
// A test file, *_test.yaml, is a table of questions with the answers that are
// wanted. A row is asked of the real decision point, at all three layers as a
// request is, and its filter must agree with its check. Coverage names the
// conditions that no row reached; mutation changes one operator, rule or grant
// at a time and names the changes that no row noticed.
package policytest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
)

// Bounds of a test file; Parse enforces them.
const (
	MaxBytes = 1 << 20
	MaxRows  = 10_000 // rows, cells of matrices included
	maxDepth = 20     // nesting of the YAML
)

// version is what the key policy_test says.
const version = "v1"

// File is one *_test.yaml.
type File struct {
	Version   string              `yaml:"policy_test"` // "v1"
	Now       time.Time           `yaml:"now"`         // what the time is in rows that do not say; default noon of 2026-01-01, UTC
	Subjects  map[string]Subject  `yaml:"subjects"`
	Resources map[string]Resource `yaml:"resources"`
	Relations []Relation          `yaml:"relations"` // tuples that hold for every row
	Tests     []Row               `yaml:"tests"`
	Matrix    []Matrix            `yaml:"matrix"`

	name string
}

// Subject is who asks, with the facts that a token would carry.
type Subject struct {
	ID            string    `yaml:"id"`   // default user:NAME, client:NAME by kind
	Kind          string    `yaml:"kind"` // human (default) | client | service
	Tenant        string    `yaml:"tenant"`
	Organizations []string  `yaml:"organizations"` // the first is the tenant, if that is not said
	Roles         []string  `yaml:"roles"`
	Team          string    `yaml:"team"`
	ManagedTeams  []string  `yaml:"managed_teams"`
	Client        string    `yaml:"client"`
	ACR           string    `yaml:"acr"`
	AMR           []string  `yaml:"amr"`
	AuthTime      time.Time `yaml:"auth_time"`
	Scope         []string  `yaml:"scope"`
	Actors        []string  `yaml:"actors"`

	line, col int
}

// Resource is what is asked for.
type Resource struct {
	Type   string         `yaml:"type"`
	ID     string         `yaml:"id"` // default: its name in the file
	Tenant string         `yaml:"tenant"`
	Attrs  map[string]any `yaml:"attrs"`

	line, col int
}

// Relation is one tuple: the text "order:17#viewer@user:bob", or a map when it
// has a condition.
type Relation struct {
	Tuple     string         `yaml:"tuple"`
	Condition string         `yaml:"condition"`
	Context   map[string]any `yaml:"context"`

	line, col int
}

// Row is one question. It is a map, or a sentence:
//
//	alice may orders:read own
//	alice may orders:read own by orders.allow
//	bob may not orders:read own because no_permit
type Row struct {
	Subject  string         `yaml:"subject"` // key of subjects
	Action   string         `yaml:"action"`  // "type:verb"
	Resource string         `yaml:"resource"`
	List     []string       `yaml:"list"`     // keys of resources: which of them does a list show?
	At       string         `yaml:"at"`       // ask one layer alone; default all three, as a request does
	Tenant   string         `yaml:"tenant"`   // organization of the request; default the resource's
	Allow    []string       `yaml:"allow"`    // as a flow says it: role:NAME, permission:TYPE:VERB, any
	Require  string         `yaml:"require"`  // as a flow says it
	Context  map[string]any `yaml:"context"`  // facts of the request
	Supports []string       `yaml:"supports"` // types of obligation that the asker can carry out; default all
	Now      time.Time      `yaml:"now"`

	Expect      Expect   `yaml:"expect"`      // allow | deny | of a list, the names that it shows
	Layer       string   `yaml:"layer"`       // that denied
	Code        string   `yaml:"code"`        // of the denial
	Policy      string   `yaml:"policy"`      // id of one that decided
	Line        int      `yaml:"line"`        // of that policy
	Policies    []string `yaml:"policies"`    // ids of all that decided, and no other
	Reason      string   `yaml:"reason"`      // a part of what operators read
	Mask        []string `yaml:"mask"`        // exactly these fields are hidden
	Only        []string `yaml:"only"`        // exactly these fields are shown
	Obligations []string `yaml:"obligations"` // exactly these types are asked for

	line, col int
}

// Expect is what a row wants.
type Expect struct {
	Effect rampart.Effect
	Names  []string // of a list
	set    bool
	list   bool
}

// Matrix is a grid: who may do what. What a line does not name is denied.
type Matrix struct {
	Name     string              `yaml:"name"`
	Actions  []string            `yaml:"actions"`  // the columns
	Roles    map[string][]string `yaml:"roles"`    // for somebody with this role alone: what is allowed
	Subjects map[string][]string `yaml:"subjects"` // for a key of subjects: what is allowed
	Resource string              `yaml:"resource"` // asked at all three layers; without one, at the gateway
	At       string              `yaml:"at"`

	line, col int
}

// layers in the order in which a request meets them.
var layers = []rampart.Layer{rampart.LayerGateway, rampart.LayerService, rampart.LayerDomain}

func isLayer(s string) bool { return slices.Contains(layers, rampart.Layer(s)) }

// principal is the subject as a token would present it.
func (s Subject) principal(name string) rampart.Principal {
	p := rampart.Principal{Kind: rampart.PrincipalKind(s.Kind), Subject: s.ID, Tenant: s.Tenant, Organizations: s.Organizations,
		Roles: s.Roles, Team: s.Team, ManagedTeams: s.ManagedTeams, Client: s.Client, ACR: s.ACR, AMR: s.AMR,
		AuthTime: s.AuthTime, Scope: s.Scope, Actors: s.Actors}
	if p.Kind == "" {
		p.Kind = rampart.KindHuman
	}
	if p.Subject == "" {
		p.Subject = prefixes[p.Kind] + name
	}
	if p.Tenant == "" && len(p.Organizations) > 0 {
		p.Tenant = p.Organizations[0]
	}
	return p
}

// prefixes keep kinds of subject apart, as in tokens; a service has its SPIFFE
// ID and no default.
var prefixes = map[rampart.PrincipalKind]string{rampart.KindHuman: "user:", rampart.KindClient: "client:", rampart.KindService: ""}

func (r Resource) resource(name string) rampart.Resource {
	out := rampart.Resource{Type: r.Type, ID: r.ID, Tenant: r.Tenant, Attrs: r.Attrs}
	if out.ID == "" {
		out.ID = name
	}
	return out
}

// tuple reads "order:17#viewer@user:bob".
func (r Relation) tuple() (authz.Tuple, error) {
	object, rest, ok := strings.Cut(r.Tuple, "#")
	relation, subject, ok2 := strings.Cut(rest, "@")
	_, id, ok3 := strings.Cut(object, ":")
	if !ok || !ok2 || !ok3 || id == "" || relation == "" || !strings.Contains(subject, ":") {
		return authz.Tuple{}, fmt.Errorf("%q is no tuple", r.Tuple)
	}
	return authz.Tuple{Object: object, Relation: relation, Subject: subject, Condition: r.Condition, Context: r.Context}, nil
}

// question is the row without the answer that it wants.
func (r Row) question() string {
	out := r.Subject + " " + r.Action
	for _, part := range []struct{ word, value string }{{"", r.Resource}, {"at ", r.At}, {"in ", r.Tenant}} {
		if part.value != "" {
			out += " " + part.word + part.value
		}
	}
	if r.List != nil {
		out += " [" + strings.Join(r.List, " ") + "]"
	}
	return out
}

// String says the row as a sentence.
func (r Row) String() string {
	var b strings.Builder
	b.WriteString(r.Subject)
	switch {
	case r.Expect.list:
		fmt.Fprintf(&b, " lists %s of [%s]: [%s]", r.Action, strings.Join(r.List, " "), strings.Join(r.Expect.Names, " "))
	case r.Expect.Effect == rampart.Allow:
		fmt.Fprintf(&b, " may %s", r.Action)
	default:
		fmt.Fprintf(&b, " may not %s", r.Action)
	}
	for _, part := range []struct{ word, value string }{{"", r.Resource}, {"at ", r.At}, {"in ", r.Tenant}, {"by ", r.Policy}, {"because ", r.Code}} {
		if part.value != "" {
			b.WriteString(" " + part.word + part.value)
		}
	}
	return b.String()
}
