// Package lint answers "Which files hold a secret that they should not?" It
// reads files, knows the shapes of credentials and what random values look like,
// and never repeats what it found.
package lint

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rampart-security/rampart/internal/literal"
)

// Bounds of one scan.
const (
	maxFile     = 2 << 20 // bytes; larger files are named, not read
	maxFiles    = 200_000
	maxDepth    = 64
	maxFindings = 1000
	sniff       = 8 << 10 // bytes in which a NUL makes a file binary
	AllowFile   = ".rampart-lint"
	maxAllow    = 64 << 10
)

// marker allows what stands on its line or the next one, for a reason.
const marker = "rampart:allow"

// Finding is one literal secret. It does not hold the value.
type Finding struct {
	File   string `json:"file"` // as the scan was asked for it, with slashes
	Line   int    `json:"line"`
	Column int    `json:"column"` // in bytes, from 1
	Rule   string `json:"rule"`
	Title  string `json:"title"`
	Reason string `json:"allowed,omitempty"` // why it may stand there; "": it may not
}

// Report is what one scan found, by file and line.
type Report struct {
	Files    int       `json:"files"`             // that were read
	Skipped  []string  `json:"skipped,omitempty"` // too large to be read
	Findings []Finding `json:"findings"`
	Allowed  []Finding `json:"allowed,omitempty"`
}

// skipped folders hold other people's files, or what is meant to be secret.
var skippedFolders = []string{".git", ".hg", ".svn", "node_modules", ".rampart"}

// scan is one run.
type scan struct {
	forms  *literal.Forms
	allow  []allowance
	report Report
}

// allowance is one line of an AllowFile.
type allowance struct{ glob, reason string }

// Scan reads files and folders. Folders of version control, node_modules and
// Rampart's state, links, binary and large files are not looked into. In each
// folder that it is given, the file .rampart-lint may allow what some files hold,
// a line each: a pattern of paths below the folder, where ** stands for any
// folders, a space, and the reason.
func Scan(ctx context.Context, roots ...string) (Report, error) {
	s := &scan{forms: literal.New(), report: Report{Findings: []Finding{}}}
	for _, root := range roots {
		if err := s.root(ctx, root); err != nil {
			return s.report, fmt.Errorf("lint: %w", err)
		}
	}
	byPlace := func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	}
	slices.SortFunc(s.report.Findings, byPlace)
	slices.SortFunc(s.report.Allowed, byPlace)
	return s.report, nil
}

func (s *scan) root(ctx context.Context, root string) error {
	info, err := os.Lstat(root)
	if err != nil {
		return err
	}
	s.allow = nil
	if !info.IsDir() {
		return s.file(root, filepath.Base(root), info)
	}
	if s.allow, err = readAllow(filepath.Join(root, AllowFile)); err != nil {
		return err
	}
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		below, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		below = filepath.ToSlash(below)
		if d.IsDir() {
			if name != root && (slices.Contains(skippedFolders, d.Name()) || strings.Count(below, "/") > maxDepth) {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || d.Name() == AllowFile {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went while we read
		}
		if err != nil {
			return err
		}
		return s.file(name, below, info)
	})
}

func (s *scan) file(name, below string, info fs.FileInfo) error {
	if s.report.Files++; s.report.Files > maxFiles {
		return fmt.Errorf("more than %d files: name folders that hold less", maxFiles)
	}
	if info.Size() > maxFile {
		s.report.Skipped = append(s.report.Skipped, filepath.ToSlash(name))
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil || bytes.IndexByte(data[:min(len(data), sniff)], 0) >= 0 {
		return err
	}
	reason := s.allowed(below)
	for _, found := range Text(s.forms, data) {
		found.File = filepath.ToSlash(name)
		if found.Reason == "" {
			found.Reason = reason
		}
		if found.Reason != "" {
			s.report.Allowed = append(s.report.Allowed, found)
			continue
		}
		if s.report.Findings = append(s.report.Findings, found); len(s.report.Findings) >= maxFindings {
			return fmt.Errorf("%d secrets, and there is more: the last in %s", maxFindings, name)
		}
	}
	return nil
}

// Text finds secrets in the lines of a text.
func Text(forms *literal.Forms, data []byte) []Finding {
	var out []Finding
	before, n := "", 0
	for line := range bytes.Lines(data) {
		n++
		here := reasonIn(line)
		for _, h := range forms.Line(line) {
			out = append(out, Finding{Line: n, Column: h.Start + 1, Rule: h.Rule.ID, Title: h.Rule.Title, Reason: cmp.Or(here, before)})
		}
		before = here
	}
	return out
}

// reasonIn returns what stands behind the marker. Without a reason nothing is
// allowed.
func reasonIn(line []byte) string {
	_, rest, ok := bytes.Cut(line, []byte(marker))
	if !ok {
		return ""
	}
	reason := strings.TrimSpace(strings.Trim(strings.TrimSpace(string(rest)), "*/->:"))
	if len(reason) < 4 {
		return ""
	}
	return reason[:min(len(reason), 200)]
}

func readAllow(file string) ([]allowance, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxAllow))
	if err != nil {
		return nil, err
	}
	return parseAllow(file, string(data))
}

func parseAllow(file, text string) ([]allowance, error) {
	var out []allowance
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		glob, reason, _ := strings.Cut(line, " ")
		reason = strings.TrimSpace(reason)
		if _, err := path.Match(glob, ""); err != nil || len(reason) < 4 || strings.Count(glob, "**") > 2 {
			return nil, fmt.Errorf("%s:%d: want a pattern of paths and the reason behind it", file, n)
		}
		out = append(out, allowance{glob, reason})
	}
	return out, nil
}

// allowed returns the reason why a file may hold secrets.
func (s *scan) allowed(below string) string {
	for _, a := range s.allow {
		if covers(strings.Split(a.glob, "/"), strings.Split(below, "/")) {
			return a.reason
		}
	}
	return ""
}

// covers matches word by word; ** stands for any number of them. There are two of
// those at most, as each tries every place.
func covers(glob, words []string) bool {
	for len(glob) > 0 && glob[0] != "**" {
		if len(words) == 0 {
			return false
		}
		if ok, err := path.Match(glob[0], words[0]); !ok || err != nil {
			return false
		}
		glob, words = glob[1:], words[1:]
	}
	if len(glob) == 0 {
		return len(words) == 0
	}
	for i := range len(words) + 1 {
		if covers(glob[1:], words[i:]) {
			return true
		}
	}
	return false
}
