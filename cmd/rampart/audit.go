package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/monitor/audit"
)

func auditCmd() *cobra.Command {
	cmd := group("audit", "Read and verify the audit log")
	cmd.AddCommand(auditTailCmd(), auditVerifyCmd())
	return cmd
}

func auditTailCmd() *cobra.Command {
	var stateDir, trace string
	var follow, asJSON, all bool
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print events of all planes in order of time",
		Long: `tail prints events of the audit log, oldest first. With --trace it prints those of
one request; with --follow=false the exit code is 1 when there are none.`,
		Example: `  rampart audit tail                 # the last ten minutes, then what happens
  rampart audit tail --since 24h --follow=false --json
  rampart audit tail --since 24h --follow=false --trace f7c27a8f971da1208e2bfef7c25d4084   # why was this answer given?`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if trace = strings.ToLower(trace); trace != "" && !traceID.MatchString(trace) {
				return usageError("%.64q is no trace: it has 32 hex digits, as the answer has them", trace)
			}
			state, err := statedir.Open(stateDir, statedir.Options{})
			if err != nil {
				return &exitError{exitUsage, err}
			}
			opt := audit.TailOptions{Follow: follow, Since: time.Now().Add(-since), Filter: func(e audit.Event) bool {
				if trace != "" {
					return e.Trace == trace
				}
				return all || asJSON || e.Class != audit.ClassAPIRead
			}}
			shown := 0
			err = audit.Tail(cmd.Context(), state.Path("audit"), opt, func(e audit.Event, _ audit.Pos) error {
				shown++
				return printEvent(cmd.OutOrStdout(), e, asJSON)
			})
			if err == nil && trace != "" && shown == 0 && !follow {
				return &exitError{exitFailed, fmt.Errorf("no event of trace %s in the last %s; %s", trace, briefly(since), further(since))}
			}
			return err
		},
	}
	stateFlag(cmd, &stateDir)
	fl := cmd.Flags()
	fl.BoolVar(&follow, "follow", true, "go on with what happens")
	fl.BoolVar(&all, "all", false, "with what administrators and planes only read; --json always has it")
	fl.BoolVar(&asJSON, "json", false, "one JSON object per event")
	fl.StringVar(&trace, "trace", "", "only what belongs to the request with this trace, which every refusal tells its caller")
	fl.DurationVar(&since, "since", 10*time.Minute, "how far back to start")
	return cmd
}

// further says where a trace may be that is not found: further back, or elsewhere.
func further(since time.Duration) string {
	if since < 24*time.Hour {
		return "try --since 24h"
	}
	return "try a longer --since, or another --state"
}

// briefly writes a span as its flag takes it: 10m, not 10m0s.
func briefly(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func printEvent(w io.Writer, e audit.Event, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(e)
	}
	_, err := fmt.Fprintf(w, "%s  %-8s %-22s %-34s %-26s %s\n", e.Time.Local().Format("15:04:05.000 MST"), e.Outcome, e.Plane, e.Action, firstText(e.Subject, e.Actor, e.Peer), whyOf(e))
	return err
}

// whyOf says who else took part, what it was done to, and why.
func whyOf(e audit.Event) string {
	parts := []string{e.Control}
	if len(e.Policies) > 0 {
		parts = append(parts, e.Policies[0].String())
	}
	if e.Subject != "" && e.Actor != "" && e.Actor != e.Subject {
		parts = append(parts, "by "+e.Actor)
	}
	if e.Resource != "" {
		parts = append(parts, "on "+e.Resource)
	}
	if reason := firstText(e.Detail["reason"], e.Detail["error"], e.Code); reason != "" {
		parts = append(parts, "("+plainText(reason)+")")
	}
	for _, key := range [...]string{"rules", "score", "fields", "seconds", "turned_away"} { // of the WAF, of schemas, of bans
		if v := e.Detail[key]; v != "" {
			parts = append(parts, key+" "+plainText(v))
		}
	}
	if id := e.Detail["decision"]; id != "" {
		parts = append(parts, "decision "+plainText(id))
	}
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), " ")
}

func auditVerifyCmd() *cobra.Command {
	var stateDir string
	var asJSON bool
	var stores storeFlags
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check every record's hash, the chain, and that no log was cut",
		Long:  "verify reads the logs alone. One changed byte is named with its file, line and offset. Exit code 1 when a log was edited.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			state, err := statedir.Open(stateDir, statedir.Options{})
			if err != nil {
				return &exitError{exitUsage, err}
			}
			heads, err := reportedHeads(cmd, stores, state)
			if err != nil {
				return err
			}
			report, err := audit.VerifyDir(state.Path("audit"), heads)
			if err != nil {
				return &exitError{exitFailed, err}
			}
			return printReport(cmd.OutOrStdout(), report, asJSON)
		},
	}
	stateFlag(cmd, &stateDir)
	stores.database.add(cmd, "database", "postgres://USER@HOST:PORT/DB", "PostgreSQL, if the control plane keeps its state there")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

// printReport prints one line per log, then one per problem.
func printReport(w io.Writer, report audit.Report, asJSON bool) error {
	if asJSON {
		if err := json.NewEncoder(w).Encode(report); err != nil {
			return err
		}
	}
	broken := map[string]bool{}
	var lines []error
	for _, p := range report.Problems {
		broken[p.Plane] = true
		lines = append(lines, fmt.Errorf("%s: %s%s: %s", p.Plane, placeOf(p), p.Rule, p.Text))
	}
	for _, p := range report.Planes {
		if asJSON {
			break
		}
		state := "end not vouched for"
		switch {
		case broken[p.Plane]:
			state = "DOES NOT VERIFY"
		case p.Anchor:
			state = "end as reported"
		}
		fmt.Fprintf(w, "%-24s %7d records, %d files, %s, head %.16s\n", p.Plane, p.Records, p.Files, state, p.Hash)
	}
	if report.OK() {
		fmt.Fprintln(os.Stderr, "ok: every record is as it was written")
		return nil
	}
	return &exitError{exitFailed, errors.Join(lines...)}
}

// placeOf says where in a file a problem is; a log that lacks its end, or all
// of it, has no such place.
func placeOf(p audit.Problem) string {
	if p.Line == 0 {
		return fmt.Sprintf("record %d: ", p.Seq)
	}
	return fmt.Sprintf("%s, line %d, byte %d, record %d: ", p.File, p.Line, p.Offset, p.Seq)
}

// reportedHeads reads what the planes told the control plane of their logs, so
// that a log cut off at its end is noticed. A folder without a database has
// none.
func reportedHeads(cmd *cobra.Command, stores storeFlags, state *statedir.Dir) (map[string]audit.Head, error) {
	if _, err := os.Stat(state.Path("control.db")); err != nil && stores.database.url == "" {
		return nil, nil
	}
	db, err := stores.openBase(cmd.Context(), state)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	heads, err := db.Heads(cmd.Context())
	out := map[string]audit.Head{}
	for _, h := range heads {
		out[h.Plane] = audit.Head{Seq: h.Seq, Hash: h.Hash}
	}
	return out, err
}
