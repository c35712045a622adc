package waf

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	coreruleset "github.com/corazawaf/coraza-coreruleset/v4"
)

// Rules of our own, in the range that the Core Rule Set leaves to its users.
const (
	ruleBody      = 200002 // the body is not what its type says
	ruleMultipart = 200003 // a multipart body that two readers could read differently
	ruleArguments = 190001 // more arguments than the engine looks at
	ruleSize      = 190002 // a longer body than the engine looks at
)

// maxArguments is how many arguments the engine looks at. What is beyond would
// not be inspected, so such a request is refused.
const maxArguments = 1000

// RuleSet is the text that an engine was compiled from.
type RuleSet struct {
	Version string   // of the Core Rule Set
	Sources []Source // in load order
}

// Source is one file of rules or settings, in SecLang, as the engine read it.
type Source struct {
	Name, Text string
}

// Data holds the files that @pmFromFile names, by the names the rules use.
func (RuleSet) Data() fs.FS { return dataFS{} }

// dataFS finds word lists beside the rules.
type dataFS struct{}

func (dataFS) Open(name string) (fs.File, error) {
	return coreruleset.FS.Open("@owasp_crs/" + name[strings.LastIndexByte(name, '/')+1:])
}

// settings come before the rules. Nothing is decided here: every rule runs to
// its end and Inspect judges what they found, so that an early refusal hides
// nothing from the audit event. The body processors are chosen by media type,
// of which the stage has made sure that it is the one that was parsed.
const settings = `
SecRuleEngine DetectionOnly
SecAuditEngine Off
SecRequestBodyAccess On
SecResponseBodyAccess Off
SecRequestBodyLimit 1073741823
SecRequestBodyInMemoryLimit 1073741823
SecRequestBodyJsonDepthLimit 64
SecArgumentsLimit %d
SecRule REQUEST_HEADERS:Content-Type "@rx ^(?:application(?:/soap\+|/)|text/)xml" "id:200000,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "@rx ^application/(?:[a-z0-9.-]+[+])?json" "id:200001,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule REQBODY_ERROR "!@eq 0" "id:200002,phase:2,t:none,log,pass,severity:CRITICAL,msg:'The body is not what its type says'"
SecRule MULTIPART_STRICT_ERROR "!@eq 0" "id:200003,phase:2,t:none,log,pass,severity:CRITICAL,msg:'Two readers could read this multipart body differently'"
SecRule ARGUMENTS_LIMIT_REACHED "!@eq 0" "id:190001,phase:2,t:none,log,pass,severity:CRITICAL,msg:'More arguments than are inspected'"
SecDefaultAction "phase:1,log,noauditlog,pass"
SecDefaultAction "phase:2,log,noauditlog,pass"
SecAction "id:900990,phase:1,pass,t:none,nolog,setvar:tx.crs_setup_version=%d"
`

// decided are rules about what the gateway's earlier stages have settled for
// this very operation: its method, its media type, its host. An engine that
// stands alone runs them.
const decided = "SecRuleRemoveById 911100 920350 920420\n"

// leftOut names the files of the rule set that are not loaded: answers are
// judged by their schema, and nobody is exempt for coming from 127.0.0.1.
var leftOut = regexp.MustCompile(`^(?:RESPONSE-|REQUEST-905-)`)

// ruleSet writes what an engine of these options is compiled from.
func ruleSet(o Options) (RuleSet, error) {
	set := RuleSet{Version: version()}
	set.add("settings", fmt.Sprintf(settings, maxArguments, setupVersion(set.Version))+variables(o))
	files, err := fs.Glob(coreruleset.FS, "@owasp_crs/*.conf")
	if err != nil {
		return RuleSet{}, err
	}
	slices.Sort(files)
	for _, name := range files {
		base := strings.TrimPrefix(name, "@owasp_crs/")
		if leftOut.MatchString(base) {
			continue
		}
		text, err := fs.ReadFile(coreruleset.FS, name)
		if err != nil {
			return RuleSet{}, err
		}
		set.add(base, oneLine(string(text)))
	}
	if !o.Standalone {
		set.add("decided", decided)
	}
	return set, nil
}

func (s *RuleSet) add(name, text string) { s.Sources = append(s.Sources, Source{name, text}) }

// variables sets the paranoia level and what else o sets of the rule set's
// setup. The threshold is Inspect's alone: rules of one level are compiled once.
func variables(o Options) string {
	set := map[string]string{
		"blocking_paranoia_level": strconv.Itoa(o.Paranoia), "detection_paranoia_level": strconv.Itoa(o.Paranoia),
		"allowed_methods": "GET HEAD POST PUT PATCH DELETE OPTIONS",
	}
	if o.Standalone {
		delete(set, "allowed_methods")
	}
	maps.Copy(set, o.Setup)
	var b bytes.Buffer
	for i, name := range slices.Sorted(maps.Keys(set)) {
		fmt.Fprintf(&b, "SecAction \"id:%d,phase:1,pass,t:none,nolog,setvar:'tx.%s=%s'\"\n", 190100+i, name, set[name])
	}
	return b.String()
}

var pattern = regexp.MustCompile(`(?m)^(\s*(?:SecRule\s[^\n]*?)?"!?@rx )`)

// oneLine has ^ and $ of the rules' patterns mean the ends of the value, as the
// Core Rule Set is written for. Coraza takes them for ends of lines unless it
// is built with a tag, by which a negated rule would be content with one good
// line; whoever runs "go install" sets no tag.
func oneLine(text string) string { return pattern.ReplaceAllString(text, "${1}(?-m)") }

// weight is what a rule adds to the anomaly score each time that the link of
// its chain at level matches.
type weight struct {
	score, level int
}

// rule is what Inspect needs to know of a rule.
type rule struct {
	msg     string
	weights []weight
}

var (
	directive = regexp.MustCompile(`^\s*Sec(Rule|Action)\s`)
	ruleID    = regexp.MustCompile(`[",\s]id:'?(\d+)`)
	chained   = regexp.MustCompile(`[",\s]chain\b`)
	message   = regexp.MustCompile(`msg:'([^'%]*)`)
	scores    = regexp.MustCompile(`setvar:'tx\.inbound_anomaly_score_pl\d=\+%\{tx\.(critical|error|warning|notice)_anomaly_score\}'`)
)

// points are the scores of the severities, as the rule set gives them.
var points = map[string]int{"critical": 5, "error": 4, "warning": 3, "notice": 2}

// index reads ids, messages and weights out of the rules' text.
func (s RuleSet) index() map[int]rule {
	out := map[int]rule{}
	for _, src := range s.Sources {
		id, level := 0, 0
		for line := range strings.SplitSeq(strings.ReplaceAll(src.Text, "\\\n", " "), "\n") {
			if !directive.MatchString(line) {
				continue
			}
			if m := ruleID.FindStringSubmatch(line); m != nil && level == 0 {
				id, _ = strconv.Atoi(m[1])
			}
			out[id] = out[id].read(line, level)
			level++
			if !chained.MatchString(line) {
				level = 0
			}
		}
	}
	return out
}

// read adds what one link of a chain says.
func (r rule) read(line string, level int) rule {
	if m := message.FindStringSubmatch(line); m != nil && r.msg == "" {
		r.msg = strings.TrimRight(m[1], " (")
	}
	for _, m := range scores.FindAllStringSubmatch(line, -1) {
		r.weights = append(r.weights, weight{points[m[1]], level})
	}
	return r
}

var component = regexp.MustCompile(`SecComponentSignature "OWASP_CRS/([0-9.]+)"`)

// version reads the version of the rule set out of its text.
func version() string {
	text, err := fs.ReadFile(coreruleset.FS, "@owasp_crs/REQUEST-901-INITIALIZATION.conf")
	m := component.FindSubmatch(text)
	if err != nil || m == nil {
		return ""
	}
	return string(m[1])
}

// setupVersion is 4250 for 4.25.0.
func setupVersion(v string) int {
	n, _ := strconv.Atoi(strings.ReplaceAll(v, ".", ""))
	return n
}
