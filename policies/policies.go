// Package policies holds the rules of the house as data: the STRIDE rules
// that package threat evaluates, and the one list of controls with the folder
// that enforces each and the probes that attack it.
//
// It imports nothing of the house, so that every judge reads the same list.
package policies

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed controls.yaml stride/*.yaml
var files embed.FS

// Control is one row of controls.yaml. A control id stands for the same
// promise in configuration, audit events, threat rows and probes.
type Control struct {
	ID     string   `yaml:"id" json:"id"`         // "AREA.NAME"
	Title  string   `yaml:"title" json:"title"`   // the promise, one sentence
	Seed   []string `yaml:"seed" json:"seed"`     // rows of the mission that ask for it, "checklist: ...", "owasp: A01", "payment: 4 ..."
	Folder string   `yaml:"folder" json:"folder"` // of the tree, where it is enforced
	Probes []string `yaml:"probes" json:"probes"` // ids of the probes that attack it

	// Unprobed says why no probe attacks it and what shows it instead; "" if
	// probes do.
	Unprobed string `yaml:"unprobed" json:"unprobed,omitempty"`
}

// AttackedBy names the probes that attack the control, or says why none does.
func (c Control) AttackedBy() string {
	if len(c.Probes) == 0 {
		return "no probe: " + c.Unprobed
	}
	return strings.Join(c.Probes, ", ")
}

var (
	controlID = regexp.MustCompile(`^[a-z0-9]+\.[a-z0-9_]+$`)
	probeID   = regexp.MustCompile(`^P-[0-9]{3}$`)
)

// Controls returns every control in the order of controls.yaml. The error
// names the row that breaks a rule of the list.
func Controls() ([]Control, error) {
	text, err := files.ReadFile("controls.yaml")
	if err != nil {
		return nil, err
	}
	return parseControls(text)
}

// Stride returns the rule files of the STRIDE engine, one rule a file.
func Stride() (fs.FS, error) { return fs.Sub(files, "stride") }

func parseControls(text []byte) ([]Control, error) {
	var out []Control
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&out); err != nil {
		return nil, fmt.Errorf("controls.yaml: %w", err)
	}
	seen := map[string]bool{}
	for _, c := range out {
		if err := c.validate(); err != nil {
			return nil, fmt.Errorf("controls.yaml: %w", err)
		}
		if seen[c.ID] {
			return nil, fmt.Errorf("controls.yaml: control %s is listed twice", c.ID)
		}
		seen[c.ID] = true
	}
	return out, nil
}

// validate refuses a row with a hole: a control nobody asked for, nobody
// enforces or nobody attacks, without saying why, is a claim and no control.
func (c Control) validate() error {
	if !controlID.MatchString(c.ID) {
		return fmt.Errorf("control id %q is not of the form area.name", c.ID)
	}
	if c.Title == "" || c.Folder == "" || len(c.Seed) == 0 || (len(c.Probes) == 0) == (c.Unprobed == "") {
		return fmt.Errorf("control %s needs title, seed, folder and probes (or unprobed, saying why)", c.ID)
	}
	for _, p := range c.Probes {
		if !probeID.MatchString(p) {
			return fmt.Errorf("control %s: probe %q is not of the form P-000", c.ID, p)
		}
	}
	return nil
}
