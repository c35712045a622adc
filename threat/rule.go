package threat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/rampart-security/rampart/policies"
)

// Stride is one letter of STRIDE.
type Stride string

// The six letters.
const (
	Spoofing    Stride = "S"
	Tampering   Stride = "T"
	Repudiation Stride = "R"
	Disclosure  Stride = "I"
	Denial      Stride = "D"
	Elevation   Stride = "E"
)

// letters lists the six in their order.
func letters() []Stride {
	return []Stride{Spoofing, Tampering, Repudiation, Disclosure, Denial, Elevation}
}

// Word returns the letter's meaning, "spoofing" for S.
func (s Stride) Word() string {
	switch s {
	case Spoofing:
		return "spoofing"
	case Tampering:
		return "tampering"
	case Repudiation:
		return "repudiation"
	case Disclosure:
		return "information disclosure"
	case Denial:
		return "denial of service"
	case Elevation:
		return "elevation of privilege"
	}
	return "unknown"
}

// Needs are the controls that close a threat: every one of All and, when Any
// is not empty, at least one of Any. Needs without any control close nothing:
// what such a rule finds is cured by changing the system.
type Needs struct {
	All []string `yaml:"all" json:"all,omitempty"`
	Any []string `yaml:"any" json:"any,omitempty"`
}

// Refs point into other lists.
type Refs struct {
	CWE       []string `yaml:"cwe" json:"cwe,omitempty"`
	OWASP2021 []string `yaml:"owasp2021" json:"owasp2021,omitempty"`
	OWASP2025 []string `yaml:"owasp2025" json:"owasp2025,omitempty"`
	API2023   []string `yaml:"api2023" json:"api2023,omitempty"`
	ASVS      []string `yaml:"asvs" json:"asvs,omitempty"`
	ATTACK    []string `yaml:"attack" json:"attack,omitempty"`
}

// Rule is one threat that the engine knows, as one file of policies/stride.
//
// Applies and About are typed CEL. Applies is a condition on the element, which
// bears the name of its kind ("flow", "store", ...). About chooses the items of
// data, each called d, that the threat is about: with About the rule applies
// only where an item is chosen, controls of data must be on every chosen item,
// and the impact is theirs.
type Rule struct {
	ID        string   `yaml:"id"` // RT-LETTER-NAME
	Title     string   `yaml:"title"`
	Stride    Stride   `yaml:"stride"`
	Element   Element  `yaml:"element"`
	Applies   expr     `yaml:"applies"`
	About     expr     `yaml:"about"`
	Mitigated Needs    `yaml:"mitigated_by"`
	Partial   []string `yaml:"partial_by"` // lower the severity by one step, close nothing
	Severity  struct {
		Impact     expr `yaml:"impact"`     // int 0..3; default: the highest rank of the data, one more when its integrity is critical
		Likelihood expr `yaml:"likelihood"` // "low", "medium" or "high"; default: the element's exposure
	} `yaml:"severity"`
	Why   string `yaml:"why"`
	Abuse string `yaml:"abuse"`
	Fix   string `yaml:"fix"`
	Refs  Refs   `yaml:"refs"`

	file     string
	silence  string // why the rule does not apply where it does not
	compiled compiled
}

// expr is CEL text with its place in the file.
type expr struct {
	text      string
	line, col int // of the first character of the expression, 1-based
}

// UnmarshalYAML keeps the position, so that an error of the compiler can name
// the place in the rule file.
func (e *expr) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		return fmt.Errorf("line %d: an expression is a string", n.Line)
	}
	*e = expr{text: n.Value, line: n.Line, col: n.Column}
	switch n.Style {
	case yaml.SingleQuotedStyle, yaml.DoubleQuotedStyle:
		e.col++
	case yaml.LiteralStyle, yaml.FoldedStyle:
		e.line, e.col = n.Line+1, 1
	}
	return nil
}

const maxRuleFile = 64 << 10

var ruleID = regexp.MustCompile(`^RT-([STRIDE])(-[A-Z0-9]+)+$`)

// ruleSet is every rule, compiled, in the order of letters and ids.
type ruleSet struct {
	rules    []*Rule
	controls []policies.Control
}

// loadRules reads every *.yaml of fsys, one rule a file. controls are those
// that rules may name. All errors are returned, joined, each with its file.
func loadRules(fsys fs.FS, controls []policies.Control) (*ruleSet, error) {
	names, err := fs.Glob(fsys, "*.yaml")
	if err != nil {
		return nil, err
	}
	envs, err := newEnvs()
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, c := range controls {
		known[c.ID] = true
	}
	set := &ruleSet{controls: controls}
	files := map[string]string{}
	var errs []error
	for _, name := range names {
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		r, err := parseRule(name, text)
		if err == nil {
			err = errors.Join(r.check(known), r.compile(envs))
		}
		if err == nil && files[r.ID] != "" {
			err = fmt.Errorf("%s: rule %s is also in %s", name, r.ID, files[r.ID])
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		files[r.ID], r.silence = name, r.silent()
		set.rules = append(set.rules, r)
	}
	slices.SortFunc(set.rules, func(a, b *Rule) int { return compareIDs(a.ID, b.ID) })
	return set, errors.Join(errs...)
}

// parseRule reads one strict YAML document; unknown keys are errors.
func parseRule(file string, text []byte) (*Rule, error) {
	if len(text) > maxRuleFile {
		return nil, fmt.Errorf("%s: a rule file has at most %d bytes", file, maxRuleFile)
	}
	r := &Rule{file: file}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: one rule a file", file)
	}
	return r, nil
}

// check holds what can be said of a rule without compiling it.
func (r *Rule) check(controls map[string]bool) error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf(r.file+": "+format, args...))
	}
	if m := ruleID.FindStringSubmatch(r.ID); m == nil {
		fail("rule id %q is not of the form RT-LETTER-NAME", r.ID)
	} else if m[1] != string(r.Stride) {
		fail("rule %s is not of letter %q", r.ID, r.Stride)
	}
	if !slices.Contains(kinds(), r.Element) {
		fail("element %q is none of %v", r.Element, kinds())
	}
	if r.Title == "" || r.Why == "" || r.Abuse == "" || r.Fix == "" || r.Applies.text == "" {
		fail("a rule needs title, applies, why, abuse and fix")
	}
	for _, id := range slices.Concat(r.Mitigated.All, r.Mitigated.Any, r.Partial) {
		if !controls[id] {
			fail("control %q is not in controls.yaml", id)
		}
	}
	return errors.Join(errs...)
}

// silent words why the rule does not apply where it does not.
func (r *Rule) silent() string {
	text := "it is not so that " + strings.Join(strings.Fields(r.Applies.text), " ")
	if r.About.text != "" {
		text += ", with data where " + strings.Join(strings.Fields(r.About.text), " ")
	}
	return text
}

// compareIDs orders rules as STRIDE spells, then by name.
func compareIDs(a, b string) int {
	const order = "STRIDE"
	ia, ib := bytes.IndexByte([]byte(order), a[3]), bytes.IndexByte([]byte(order), b[3])
	if ia != ib {
		return ia - ib
	}
	return natural(a, b)
}
