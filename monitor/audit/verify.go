package audit

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rampart-security/rampart"
)

// Rule names what a log must satisfy.
type Rule string

// The rules of VerifyDir.
const (
	RuleShape     Rule = "shape"     // a line is a record in its one spelling
	RuleHash      Rule = "hash"      // a record's hash fits its content
	RuleSequence  Rule = "sequence"  // sequence numbers start at 1 and have no gap
	RuleChain     Rule = "chain"     // prev is the hash of the record before
	RuleEvent     Rule = "event"     // the event is JSON and of the folder's plane
	RuleOrder     Rule = "order"     // files run from 000001 without a gap
	RuleTorn      Rule = "torn"      // the last line is whole
	RuleCut       Rule = "cut"       // the log reaches the head that was reported
	RuleRewritten Rule = "rewritten" // the record at the reported head has the reported hash
)

// maxProblems bounds a report per plane; a log with so many is beyond repair.
const maxProblems = 100

// Problem is one violation and where it is.
type Problem struct {
	Plane  string `json:"plane"`
	File   string `json:"file"`   // "gateway_edge/000001.jsonl"; the folder alone for a whole log
	Line   int    `json:"line"`   // 1-based; 0 when it is about the file
	Offset int64  `json:"offset"` // byte at which the line starts
	Seq    uint64 `json:"seq"`    // as the record states it, else as it should be; 0 when there is none
	Rule   Rule   `json:"rule"`
	Text   string `json:"text"`
}

func (p Problem) String() string {
	return fmt.Sprintf("%s: %s line %d, byte %d, record %d: %s: %s", p.Plane, p.File, p.Line, p.Offset, p.Seq, p.Rule, p.Text)
}

// PlaneReport sums up one plane's log.
type PlaneReport struct {
	Plane   string `json:"plane"`
	Files   int    `json:"files"`
	Records uint64 `json:"records"` // sound ones
	Seq     uint64 `json:"seq"`     // of the newest record
	Hash    string `json:"hash"`    // of the newest record, in hex
	Anchor  bool   `json:"anchor"`  // a reported head was there to compare with
}

// Report is the result of VerifyDir. Planes without Anchor may have lost their
// tail without a trace.
type Report struct {
	Planes   []PlaneReport `json:"planes"`
	Problems []Problem     `json:"problems"`
}

// OK reports whether no problem was found.
func (r Report) OK() bool { return len(r.Problems) == 0 }

// VerifyDir reads the logs of all planes under dir, the audit folder, and
// checks every byte. heads are the last heads that planes, by name, reported
// to the control plane; nil checks the chains alone. The system may be running.
// The error is about reading, never about what was found.
func VerifyDir(dir string, heads map[string]Head) (Report, error) {
	var rep Report
	folders, err := planeFolders(dir)
	if err != nil {
		return rep, err
	}
	left := maps.Clone(heads)
	for _, folder := range folders {
		v := &verifier{folder: folder, dir: filepath.Join(dir, folder), plane: strings.ReplaceAll(folder, "_", "/")}
		for plane, head := range heads {
			if name, err := folderOf(plane); err == nil && name == folder {
				v.plane, v.named, v.want = plane, true, &head
				delete(left, plane)
			}
		}
		if err := v.run(); err != nil {
			return rep, fmt.Errorf("audit: %w", err)
		}
		rep.Planes = append(rep.Planes, v.report)
		rep.Problems = append(rep.Problems, v.problems...)
	}
	for _, plane := range slices.Sorted(maps.Keys(left)) {
		if left[plane].Seq > 0 {
			rep.Problems = append(rep.Problems, Problem{
				Plane: plane, Seq: left[plane].Seq, Rule: RuleCut, Text: "the whole log is missing",
			})
		}
	}
	return rep, nil
}

// planeFolders lists the folders under dir by name.
func planeFolders(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &rampart.Error{Kind: rampart.Invalid, Control: control, Msg: "audit: the folder cannot be read", Err: err}
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// verifier checks one plane's log.
type verifier struct {
	folder, dir, plane string
	named              bool // plane is known, not guessed from the folder
	want               *Head
	head               Head
	blind              bool // the record before was broken: the next one's prev proves nothing
	report             PlaneReport
	problems           []Problem
}

func (v *verifier) run() error {
	list, err := segments(v.dir)
	if order, ok := errors.AsType[*orderError](err); ok {
		v.problem(Problem{File: v.folder + "/" + order.file, Rule: RuleOrder, Text: "the file " + order.what})
	} else if err != nil {
		return err
	}
	for _, n := range list {
		if err := v.file(segmentName(n)); err != nil {
			return err
		}
	}
	v.compare()
	v.report.Plane, v.report.Files, v.report.Anchor = v.plane, len(list), v.want != nil
	v.report.Seq, v.report.Hash = v.head.Seq, hex.EncodeToString(v.head.Hash[:])
	return nil
}

func (v *verifier) problem(p Problem) {
	if len(v.problems) < maxProblems {
		p.Plane = v.plane
		v.problems = append(v.problems, p)
	}
}

func (v *verifier) file(name string) error {
	f, err := os.Open(filepath.Join(v.dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	lines := newLineReader(f)
	for lines.next < info.Size() { // what comes meanwhile could go on forever
		r, err := readWhole(f, lines)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = v.record(r)
		}
		if err == nil {
			continue
		}
		p := Problem{File: v.folder + "/" + name, Line: lines.line, Offset: lines.offset, Seq: v.head.Seq + 1, Text: err.Error()}
		if !p.classify(err) {
			return fmt.Errorf("%s: %w", name, err)
		}
		v.problem(p)
		v.skip(r)
	}
	return nil
}

// readWhole reads a record and, when the last line is not whole, gives a
// running plane the time to finish writing it.
func readWhole(f *os.File, lines *lineReader) (record, error) {
	r, err := lines.readRecord()
	for range 5 {
		if !errors.Is(err, errTorn) {
			break
		}
		time.Sleep(10 * time.Millisecond)
		if err := lines.again(f); err != nil {
			return r, err
		}
		r, err = lines.readRecord()
	}
	return r, err
}

// classify fills Rule and Seq from err and reports false for a read error.
func (p *Problem) classify(err error) bool {
	if e, ok := errors.AsType[*recordError](err); ok {
		p.Rule = e.rule
		if e.seq != 0 {
			p.Seq = e.seq
		}
		return true
	}
	p.Rule = RuleShape
	if errors.Is(err, errTorn) {
		p.Rule = RuleTorn
	}
	return isBroken(err)
}

// record judges a record that is sound in itself.
func (v *verifier) record(r record) error {
	if v.blind {
		v.head.Hash = r.prev
	}
	if err := v.head.after(r); err != nil {
		return err
	}
	v.blind = false
	v.report.Records++
	v.match(r)
	return v.event(r)
}

// match compares the record at the reported head.
func (v *verifier) match(r record) {
	if v.want != nil && r.seq == v.want.Seq && r.hash != v.want.Hash {
		v.problem(Problem{File: v.folder, Seq: r.seq, Rule: RuleRewritten, Text: "the record is not the one that was reported"})
	}
}

// event checks that the event is one of this folder's plane.
func (v *verifier) event(r record) error {
	plane, err := planeOf(r)
	if err != nil {
		return err
	}
	if name, err := folderOf(plane); !v.named && err == nil && name == v.folder {
		v.plane, v.named = plane, true
	}
	if plane != v.plane {
		return foreign(r, plane)
	}
	return nil
}

// skip goes on behind a broken or misplaced record, so that one flipped byte
// is one problem and not one for each record that follows.
func (v *verifier) skip(r record) {
	v.head.Seq++
	v.blind = true
	if r.seq > 0 && r.sum() == r.hash {
		v.head, v.blind = Head{r.seq, r.hash}, false
	}
}

func (v *verifier) compare() {
	if v.want != nil && v.head.Seq < v.want.Seq {
		v.problem(Problem{
			File: v.folder, Seq: v.want.Seq, Rule: RuleCut,
			Text: fmt.Sprintf("the log ends at record %d, but %d was reported", v.head.Seq, v.want.Seq),
		})
	}
}
