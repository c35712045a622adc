package lint

import "github.com/rampart-security/rampart/internal/literal"

// SARIF returns a report in the form that code hosts read (SARIF 2.1.0), to be
// written as JSON.
func (r Report) SARIF(version string) any {
	type text struct {
		Text string `json:"text"`
	}
	type rule struct {
		ID    string `json:"id"`
		Short text   `json:"shortDescription"`
	}
	type region struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn"`
	}
	type artifact struct {
		URI string `json:"uri"`
	}
	type physical struct {
		Artifact artifact `json:"artifactLocation"`
		Region   region   `json:"region"`
	}
	type location struct {
		Physical physical `json:"physicalLocation"`
	}
	type suppression struct {
		Kind          string `json:"kind"`
		Justification string `json:"justification"`
	}
	type result struct {
		RuleID       string        `json:"ruleId"`
		Level        string        `json:"level"`
		Message      text          `json:"message"`
		Locations    []location    `json:"locations"`
		Suppressions []suppression `json:"suppressions,omitempty"`
	}
	type driver struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		Rules   []rule `json:"rules"`
	}
	type tool struct {
		Driver driver `json:"driver"`
	}
	type run struct {
		Tool    tool     `json:"tool"`
		Results []result `json:"results"`
	}
	d := driver{Name: "rampart secret lint", Version: version}
	for _, k := range literal.New().Rules() {
		d.Rules = append(d.Rules, rule{k.ID, text{k.Title}})
	}
	results := []result{}
	add := func(f Finding, s []suppression) {
		results = append(results, result{
			RuleID: f.Rule, Level: "error", Message: text{f.Title + " stands in the file; store it with rampart secret put, name it by a reference, and replace it everywhere"},
			Locations:    []location{{physical{artifact{f.File}, region{f.Line, f.Column}}}},
			Suppressions: s,
		})
	}
	for _, f := range r.Findings {
		add(f, nil)
	}
	for _, f := range r.Allowed {
		add(f, []suppression{{"inSource", f.Reason}})
	}
	return struct {
		Schema  string `json:"$schema"`
		Version string `json:"version"`
		Runs    []run  `json:"runs"`
	}{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []run{{tool{d}, results}}}
}
