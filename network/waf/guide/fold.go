package guide

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// kind says why a rule cannot match a request that is found clean.
type kind string

const (
	kindValue      kind = "value"      // looked for in every value of its targets
	kindStructural kind = "structural" // decided natively from the shape of the request
	kindSettled    kind = "settled"    // decided by the settings, before any request
	kindSetup      kind = "setup"      // may match: it finds nothing, and only sets things up
	kindAbsent     kind = "absent"     // looks only at what such requests do not have
	kindResponse   kind = "response"   // not of this phase
	kindUnknown    kind = "unknown"    // nothing is proved: no request is clean
)

// judged is a rule with what was found of it at load time.
type judged struct {
	*rule
	kind kind
	why  string  // of kindUnknown
	open []*link // the links that the settings do not decide
}

// folder runs the rules of the request phases as far as the settings alone
// decide them: the variables of TX that no request can change.
type folder struct {
	transforms map[string]transform
	env        map[string]string
	dirty      map[string]bool // names, in lower case, that a request may set; a trailing * is any rest
	out        []*judged
}

// fold runs the rules until what may be dirty grows no more.
func fold(rules []*rule, known map[string]transform) *folder {
	dirty := map[string]bool{}
	for {
		f := &folder{transforms: known, env: map[string]string{}, dirty: dirty}
		before := len(dirty)
		f.phase(rules, 1)
		f.phase(rules, 2)
		if len(f.dirty) == before {
			f.responses(rules)
			return f
		}
	}
}

func (f *folder) responses(rules []*rule) {
	for _, r := range rules {
		if r.Marker == "" && r.Phase > 2 {
			f.out = append(f.out, &judged{rule: r, kind: kindResponse})
		}
	}
}

func (f *folder) phase(rules []*rule, n int) {
	until, soft, skip := "", map[string]bool{}, 0
	for _, r := range rules {
		if r.Marker != "" {
			delete(soft, r.Marker)
			if r.Marker == until {
				until = ""
			}
			continue
		}
		if r.Phase != n {
			continue
		}
		j := &judged{rule: r}
		f.out = append(f.out, j)
		if until != "" {
			j.kind = kindSettled
			continue
		}
		fires := f.judge(j)
		if fires && skip == 0 && len(soft) == 0 {
			f.set(r)
			until = r.SkipAfter
		} else if fires {
			f.taint(r.Links) // whether it runs depends on the request
		}
		skip = max(0, skip-1)
		if j.kind == kindSetup { // it may skip what follows, or may not
			skip = max(skip, r.Skip)
			if r.SkipAfter != "" {
				soft[r.SkipAfter] = true
			}
		}
	}
}

// judge sorts r into its kind. It reports whether the settings alone have it
// match.
func (f *folder) judge(j *judged) (fires bool) {
	if len(j.Strange) > 0 {
		f.taint(j.Links)
		return j.unknown(strings.Join(j.Strange, ", "))
	}
	for i, l := range j.Links {
		holds, known := f.constant(l)
		if known && !holds {
			j.kind = kindSettled
			f.taint(j.Links[:i])
			return slices.ContainsFunc(j.Links[:i], badCtl) && j.unknown("a link that may match has a control")
		}
		if !known {
			j.open = append(j.open, l)
		}
	}
	// Controls of a link are obeyed when it matches, whatever its chain comes to.
	if slices.ContainsFunc(j.Links[:len(j.Links)-1], badCtl) {
		f.taint(j.Links)
		return j.unknown("a link that may match has a control")
	}
	harmless := j.NoLog && j.Pass && !slices.ContainsFunc(j.Links, badCtl)
	switch {
	case len(j.open) == 0 && harmless:
		j.kind = kindSettled
		return j.Skip == 0 || j.unknown("the settings alone make it skip rules")
	case len(j.open) == 0:
		f.taint(j.Links)
		return j.unknown("the settings alone make it match")
	case slices.ContainsFunc(j.open, absent):
		j.kind = kindAbsent
		f.taint(j.Links[:len(j.Links)-1])
	case harmless:
		j.kind = kindSetup
		f.taint(j.Links)
	default:
		// It does not match in clean requests, so its last link sets nothing. The
		// others may.
		f.taint(j.Links[:len(j.Links)-1])
	}
	return false
}

func (j *judged) unknown(why string) bool {
	j.kind, j.why = kindUnknown, why
	return false
}

// badCtl finds controls that change what later rules see. The guide counts on
// the body processors that the engine's settings choose; see view.
func badCtl(l *link) bool {
	return slices.ContainsFunc(l.Ctls, func(s string) bool {
		s = strings.ToLower(s)
		for _, ok := range [...]string{"ruleremove", "auditengine=", "auditlogparts=", "forcerequestbodyvariable=on",
			"requestbodyprocessor=json", "requestbodyprocessor=xml", "requestbodyprocessor=urlencoded"} {
			if strings.HasPrefix(s, ok) {
				return false
			}
		}
		return true
	})
}

// absent reports whether all targets are parts that no request with a JSON, a
// form or no body has.
func absent(l *link) bool {
	if l.Op == "" {
		return false
	}
	return !slices.ContainsFunc(l.Targets, func(t target) bool { return !t.Not && !noValues[t.Var] || t.Count })
}

// taint marks what links may set.
func (f *folder) taint(links []*link) {
	for _, l := range links {
		for _, s := range l.SetVars {
			name, _, _ := strings.Cut(strings.TrimPrefix(s, "!"), "=")
			_, name, _ = strings.Cut(strings.ToLower(name), ".")
			if head, _, macro := strings.Cut(name, "%{"); macro {
				name = head + "*"
			}
			f.dirty[name] = true
		}
	}
}

// set obeys the setvars of a rule that matches whatever the request is.
func (f *folder) set(r *rule) {
	for _, l := range r.Links {
		for _, s := range l.SetVars {
			name, val, assigned := strings.Cut(s, "=")
			_, name, _ = strings.Cut(strings.ToLower(name), ".")
			text, known := f.expand(val)
			// A link of several targets may match, and so add, several times.
			known = known && (len(l.Targets) < 2 || val == "" || val[0] != '+' && val[0] != '-')
			if !assigned || !known || strings.Contains(name, "%{") || f.dirty[name] {
				f.taint([]*link{{SetVars: []string{s}}})
				continue
			}
			f.env[name] = sum(f.env[name], text)
		}
	}
}

// sum is what setvar makes of a value: +n and -n add to what there is.
func sum(old, text string) string {
	n, err := strconv.Atoi(text)
	if err != nil || text[0] != '+' && text[0] != '-' {
		return text
	}
	base, _ := strconv.Atoi(old)
	return strconv.Itoa(base + n)
}

var macro = regexp.MustCompile(`%\{([^}]*)\}`)

// expand replaces the macros of s. It fails for those that depend on the
// request.
func (f *folder) expand(s string) (string, bool) {
	known := true
	out := macro.ReplaceAllStringFunc(s, func(m string) string {
		name, isTX := strings.CutPrefix(strings.ToLower(m[2:len(m)-1]), "tx.")
		val, is := f.env[name]
		known = known && isTX && is && !f.isDirty(name)
		return val
	})
	return out, known
}

// isDirty reports whether a request can change a variable. TX:0 to TX:9 are what
// expressions captured.
func (f *folder) isDirty(name string) bool {
	if len(name) == 1 && name[0] >= '0' && name[0] <= '9' {
		return true
	}
	for d := range f.dirty {
		if prefix, any := strings.CutSuffix(d, "*"); d == name || any && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// constant evaluates a link that looks at nothing but settings.
func (f *folder) constant(l *link) (holds, known bool) {
	if l.Op == "" {
		return true, true
	}
	arg, ok := f.expand(l.Arg)
	fn, err := plain(l.Op, arg)
	if !ok || err != nil {
		return false, false
	}
	for _, t := range l.Targets {
		val, is, known := f.value(t)
		for _, name := range l.Trans {
			fit, ok := f.transforms[name]
			if known = known && ok; known {
				val, known = fit.apply(val)
			}
		}
		if !known {
			return false, false
		}
		holds = holds || is && fn(val) != l.Neg
	}
	return holds, true
}

// fixed are variables that have one value in every request that the guide
// looks at: its body was parsed, whole, and is no multipart body.
var fixed = map[string]string{
	"REQBODY_ERROR": "0", "MULTIPART_STRICT_ERROR": "", "ARGUMENTS_LIMIT_REACHED": "0",
	"URLENCODED_ERROR": "0", "FILES_COMBINED_SIZE": "0",
}

// noValues are collections that are empty in all these requests.
var noValues = map[string]bool{
	"FILES": true, "FILES_NAMES": true, "FILES_SIZES": true, "FILES_TMPNAMES": true, "FILES_TMP_CONTENT": true,
	"MULTIPART_PART_HEADERS": true, "MULTIPART_FILENAME": true, "MULTIPART_NAME": true, "XML": true,
}

// value is what a target holds, where no request can change that.
func (f *folder) value(t target) (val string, is, known bool) {
	val, is = fixed[t.Var]
	switch {
	case t.Regex || t.Not:
		return "", false, false
	case t.Var == "TX" && t.Key != "" && !f.isDirty(t.Key):
		val, is = f.env[t.Key]
	case !is && !noValues[t.Var]:
		return "", false, false
	}
	if t.Count {
		return strconv.Itoa(int(boolByte(is))), true, true
	}
	return val, is, true
}
