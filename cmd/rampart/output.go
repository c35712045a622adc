package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rampart-security/rampart/internal/wire"
)

// adminFlags are what every command about people, clients and keys has.
type adminFlags struct {
	stateDir string
	json     bool
	yes      bool
}

// add puts --state and --json on a group, for all of its commands.
func (f *adminFlags) add(group *cobra.Command) {
	fl := group.PersistentFlags()
	fl.StringVar(&f.stateDir, "state", ".rampart", "state folder of the running system")
	fl.BoolVar(&f.json, "json", false, "print as JSON")
}

// addYes puts --yes on a command that cannot be undone.
func (f *adminFlags) addYes(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask")
}

// dashedIDs says how to write an id that looks like a flag: ids are random, and
// one in sixty begins with a dash.
func dashedIDs(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usageError("%v; an id that begins with a dash goes after --", err)
	})
}

func (f *adminFlags) open() (*adminClient, error) {
	admin, _, err := openAdmin(f.stateDir)
	return admin, err
}

// confirm asks before what cannot be undone. Without a terminal there is nobody
// to ask, and silence is no consent.
func (f *adminFlags) confirm(cmd *cobra.Command, format string, args ...any) error {
	if f.yes {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return usageError("this would %s; there is no terminal to ask on, so say it with --yes", what)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "This will %s. Go on? [y/N] ", what)
	line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); err == nil && (answer == "y" || answer == "yes") {
		return nil
	}
	return usageError("nothing was changed")
}

// tell prints v as JSON if that was asked for, else the sentence.
func (f *adminFlags) tell(cmd *cobra.Command, v any, format string, args ...any) error {
	if f.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
	return err
}

// show prints v as JSON if that was asked for, else the table, or the sentence
// if the table is empty.
func (f *adminFlags) show(cmd *cobra.Command, v any, t table, empty string) error {
	if f.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
	}
	if len(t.rows) == 0 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), empty)
		return err
	}
	return t.print(cmd.OutOrStdout())
}

// table prints rows in columns.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// print aligns the columns. Colours are for terminals alone, and say nothing
// that the words do not say.
func (t *table) print(w io.Writer) error {
	width := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	colour := colourful(w)
	b := bufio.NewWriter(w)
	line := func(row []string, tone func(string) string) {
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i == len(row)-1 {
				pad = "\n"
			} else {
				pad += "  "
			}
			if code := tone(cell); colour && code != "" {
				cell = code + cell + "\x1b[0m"
			}
			b.WriteString(cell + pad)
		}
	}
	line(t.head, func(string) string { return "\x1b[1m" })
	for _, row := range t.rows {
		line(row, tone)
	}
	return b.Flush()
}

// tone is the colour of a state.
func tone(cell string) string {
	switch cell {
	case "live", "active", "enabled":
		return "\x1b[32m"
	case "disabled":
		return "\x1b[31m"
	case "expired", "retired", "pending", "probe":
		return "\x1b[33m"
	}
	return ""
}

// colourful reports whether w is a terminal whose user has nothing against
// colours (no-color.org).
func colourful(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// when is a time for people, in their own zone; zero is never.
func when(t time.Time, zero string) string {
	if t.IsZero() {
		return zero
	}
	return t.Local().Format("2006-01-02 15:04 MST")
}

// words joins a list, or says what none means.
func words(list []string, none string) string {
	if len(list) == 0 {
		return none
	}
	return strings.Join(list, " ")
}

// ended says in words what a call put an end to.
func ended(v wire.Ended) string {
	var parts []string
	for _, part := range []struct {
		n    int
		noun string
	}{{v.Sessions, "session"}, {v.Apps, "app"}, {v.Keys, "API key"}, {v.Factors, "factor"}, {v.Links, "link"}} {
		if part.n > 0 {
			parts = append(parts, plural(part.n, part.noun))
		}
	}
	switch len(parts) {
	case 0:
		return "nothing was in use"
	case 1:
		return parts[0] + " ended"
	}
	return strings.Join(parts[:len(parts)-1], ", ") + " and " + parts[len(parts)-1] + " ended"
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
