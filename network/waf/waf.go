// Package waf looks in requests for the known attacks of the OWASP Core Rule
// Set. Its Engine is the reference: every rule sees everything. A Guide may
// spare a request the engine where a schema proves that no rule can match.
package waf

// Guide knows requests in which no rule of the engine can match.
type Guide interface {
	// Clean reports true only if that is proved for r: any doubt is false. It
	// is safe for concurrent use and does not keep r.
	Clean(r *Request) bool
}

// Mode says how a verdict came about.
type Mode string

// ModeSkip: a guide proved that no rule can match. ModeFull: every rule ran.
const (
	ModeSkip Mode = "guided-skip"
	ModeFull Mode = "full"
)

// Finding is one rule that matched. It holds no value of the request.
type Finding struct {
	Rule     int
	Message  string   // of the rule; never a value of the request
	Severity string   // CRITICAL, ERROR, WARNING, NOTICE
	Variable string   // what it matched in, as the engine has it, such as ARGS:json.note
	Fields   []string // the same as an Exclusion would have it, such as body:/note; where none reaches, as the engine has it
	Score    int      // what it adds to the anomaly score
	Tags     []string
}

// Verdict is what the rules say of one request. The zero Verdict refuses
// nothing, so nobody may use one that came with an error.
type Verdict struct {
	Refuse    bool
	Status    int // of the refusal; 0 without
	Score     int // sum of the findings' scores
	Threshold int // score that refuses; 0 if no rule ran
	Findings  []Finding
	Mode      Mode
}
