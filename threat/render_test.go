package threat

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// fixed is the time of the golden files: before the example's acceptance ends.
var fixed = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// The table of the example, as a person reads it.
func TestTableOfTheExample(t *testing.T) {
	m := analyze(t, load(t, "payments"), Evidence{Now: fixed})
	var b bytes.Buffer
	if err := m.Table(&b, TableOptions{}); err != nil {
		t.Fatal(err)
	}
	golden(t, "payments.table", b.String())
	b.Reset()
	if err := m.Graph(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "payments.mermaid", b.String())
	b.Reset()
	for _, id := range []string{"PAY-3", "RT-D-VOLUMETRIC@flow-1", "RT-T-QUEUE@flow-1"} {
		if err := m.Explain(&b, id); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"nonce.window", "mtls.required"} {
		if err := m.WhyControl(&b, id); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "payments.explain", b.String())
}

// Whatever the width, no line is wider, no word is lost, and without colour
// there are no escapes.
func TestTableWidths(t *testing.T) {
	m := analyze(t, load(t, "partners"), Evidence{Now: fixed})
	for _, width := range []int{0, 1, 80, 200} {
		var plain, coloured bytes.Buffer
		if err := m.Table(&plain, TableOptions{Width: width, All: true}); err != nil {
			t.Fatal(err)
		}
		if err := m.Table(&coloured, TableOptions{Width: width, All: true, Color: true}); err != nil {
			t.Fatal(err)
		}
		limit := max(width, 80)
		if width == 0 {
			limit = 120
		}
		for line := range strings.Lines(plain.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > limit {
				t.Errorf("width %d: a line of %d columns: %s", width, n, line)
			}
		}
		if strings.Contains(plain.String(), "\x1b") || !strings.Contains(coloured.String(), "\x1b[31mopen\x1b[0m") {
			t.Errorf("width %d: colour is where it should not be, or is not where it should be", width)
		}
		bare := strings.NewReplacer("\x1b[31m", "", "\x1b[33m", "", "\x1b[90m", "", "\x1b[34m", "", "\x1b[0m", "").Replace(coloured.String())
		if bare != plain.String() {
			t.Errorf("width %d: colour changes the text", width)
		}
	}
}

func TestUnknownIDs(t *testing.T) {
	m := analyze(t, load(t, "payments"), Evidence{Now: fixed})
	if err := m.Explain(new(bytes.Buffer), "RT-T-QUEU@flow-5"); err == nil || !strings.Contains(err.Error(), `did you mean "RT-T-QUEUE@flow-5"?`) {
		t.Errorf("explain: %v", err)
	}
	if err := m.WhyControl(new(bytes.Buffer), "nonce.windw"); err == nil || !strings.Contains(err.Error(), `did you mean "nonce.window"?`) {
		t.Errorf("why-control: %v", err)
	}
}

func TestDiffInWords(t *testing.T) {
	sys := load(t, "payments")
	before := analyze(t, sys, Evidence{Now: fixed})
	changed := load(t, "payments")
	flow(changed, "2").Nonce = nil
	flow(changed, "6").Guard = nil
	after := analyze(t, changed, Evidence{Now: fixed})
	var b bytes.Buffer
	if err := Diff(before, after).Print(&b); err != nil {
		t.Fatal(err)
	}
	if err := Diff(after, before).Print(&b); err != nil {
		t.Fatal(err)
	}
	if err := Diff(after, after).Print(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "diff.golden", b.String())
}

// JSON carries what other reports need, and every row of it.
func TestJSON(t *testing.T) {
	m := analyze(t, load(t, "payments"), Evidence{Now: fixed})
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var back Model
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	r, ok := back.Row("PAY-1")
	if !ok || r.State != Declared || len(r.Controls) != 3 || back.Rules[r.Rule].Why == "" || len(back.Rows) != len(m.Rows) {
		t.Errorf("after a round trip: %+v", r)
	}
	var here, there bytes.Buffer
	if err := errors.Join(m.Table(&here, TableOptions{}), back.Table(&there, TableOptions{}), m.Graph(&here), back.Graph(&there)); err != nil || here.String() != there.String() {
		t.Errorf("a model read back prints another table or graph (%v)", err)
	}
}

// Names of a file cannot break out of a label.
func TestGraphQuotes(t *testing.T) {
	m := Model{Flows: []Flow{{ID: `1"]`, From: Node{Name: `a"]; click`, Kind: "service"}, To: Node{Name: "b\nc", Kind: "queue"}}}}
	var b bytes.Buffer
	if err := m.Graph(&b); err != nil {
		t.Fatal(err)
	}
	want := `flowchart LR
  subgraph z0[""]
    n0["a#quot;]; click"]
    n1[["b c"]]
  end
  n0 -->|"1#quot;]"| n1
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}
