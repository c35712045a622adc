package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/authz/pap"
	"github.com/rampart-security/rampart/authz/policytest"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// limits is what all three questions about a running system leave out.
const limits = `Rights of people are those of the running system's directory; policies are those
of the file, and a warning says when the system runs another. Attributes of the
resource come from --attrs or --resource, and relations from --relations: both
live with the service, and nothing here reads its database.`

// directoryFlags are those of a question about the people of a running system.
type directoryFlags struct {
	askFlags
	stateDir string
}

func (f *directoryFlags) add(cmd *cobra.Command) {
	f.policyFlags.add(cmd)
	stateFlag(cmd, &f.stateDir)
}

// people reads the directory and the file.
func (f *directoryFlags) people(cmd *cobra.Command) (*spec.System, pap.Set, policytest.World, error) {
	sys, set, err := f.load()
	if err != nil {
		return nil, set, policytest.World{}, err
	}
	w := policytest.World{Subjects: map[string]rampart.Principal{}}
	admin, _, err := openAdmin(f.stateDir)
	if err != nil {
		return nil, set, w, err
	}
	st, err := admin.status(cmd.Context())
	if err != nil {
		return nil, set, w, err
	}
	if st.Digest != sys.Bundle().Digest {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: the running system has another file than %s\n", f.file)
	}
	var users []wire.User
	if err := admin.call(cmd.Context(), http.MethodGet, wire.AdminUsers, nil, &users); err != nil {
		return nil, set, w, err
	}
	for _, u := range users {
		if !u.Disabled && u.Tag != "verify" {
			w.Subjects[u.Name] = person(u.Name, u.Facts)
		}
	}
	return sys, set, w, f.readRelations(&w)
}

// complete offers accounts, for the first argument.
func (f *directoryFlags) complete(cmd *cobra.Command, args []string, s string) ([]string, cobra.ShellCompDirective) {
	return (&adminFlags{stateDir: f.stateDir}).completeUsers(cmd, args, s)
}

func canCmd() *cobra.Command {
	var f directoryFlags
	cmd := &cobra.Command{
		Use:   "can SUBJECT ACTION TYPE/ID",
		Short: "May this person do this to that? Exit code 1 when not",
		Long:  "can asks every layer about an account of the running system, and says who decided.\n\n" + limits,
		Example: `  rampart can alice read order/17 --tenant acme --attrs '{"owner":"user:alice","team_id":"red"}'
  rampart can alice payments:read payment/9 --resource payment.json --json`,
		Args:              namedArgs,
		ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			sys, set, w, err := f.people(cmd)
			if err != nil {
				return err
			}
			p, err := account(w, args[0])
			if err != nil {
				return err
			}
			ans, err := f.answer(cmd, sys, set, w, p, args[1], args[2])
			if err != nil {
				return err
			}
			return ans.tell(cmd, f.json)
		},
	}
	f.add(cmd)
	f.addFacts(cmd)
	return cmd
}

// account finds an active account by its name.
func account(w policytest.World, name string) (rampart.Principal, error) {
	p, ok := w.Subjects[strings.TrimPrefix(name, "user:")]
	if !ok {
		return p, usageError("no active account is called %q; rampart user list shows all", name)
	}
	return p, nil
}

func whoCanCmd() *cobra.Command {
	var f directoryFlags
	cmd := &cobra.Command{
		Use:   "who-can ACTION TYPE/ID",
		Short: "Which people may do this to that?",
		Long:  "who-can asks every layer about every active account of the running system.\n\n" + limits,
		Example: `  rampart who-can read order/17 --tenant acme --attrs '{"owner":"user:alice","team_id":"red"}'
  rampart who-can payments:read payment/9 --resource payment.json --json`,
		Args: namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			sys, set, w, err := f.people(cmd)
			if err != nil {
				return err
			}
			yes, hint := []answered{}, ""
			for _, name := range slices.Sorted(maps.Keys(w.Subjects)) {
				ans, err := f.answer(cmd, sys, set, w, w.Subjects[name], args[0], args[1])
				if err != nil {
					return err
				}
				if ans.Allowed {
					yes = append(yes, ans)
				}
				hint = firstText(hint, ans.Hint)
			}
			if len(yes) == 0 && hint != "" {
				return usageError("whether anybody may cannot be said: %s", hint)
			}
			return tellWho(cmd, yes, len(w.Subjects), f.json)
		},
	}
	f.add(cmd)
	f.addFacts(cmd)
	return cmd
}

func tellWho(cmd *cobra.Command, yes []answered, of int, asJSON bool) error {
	w := cmd.OutOrStdout()
	if asJSON {
		return json.NewEncoder(w).Encode(yes)
	}
	t := table{head: []string{"SUBJECT", "BY"}}
	for _, a := range yes {
		t.add(a.Subject, by(a.Layers[len(a.Layers)-1]))
	}
	if len(yes) > 0 {
		if err := t.print(w); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%d of %s\n", len(yes), plural(of, "account"))
	return err
}

func by(d rampart.Decision) string {
	names := make([]string, len(d.Policies))
	for i, p := range d.Policies {
		names[i] = p.String()
	}
	return words(names, "-")
}

// possible is one thing that somebody may do.
type possible struct {
	Action  rampart.Action `json:"action"`
	Type    string         `json:"type,omitzero"`
	To      string         `json:"to"`             // all | some | none
	Where   string         `json:"where,omitzero"` // in words
	SQL     string         `json:"sql,omitzero"`   // the same, with values in place; without relations
	Code    rampart.Code   `json:"code,omitzero"`
	Layer   rampart.Layer  `json:"layer,omitzero"`
	Because string         `json:"because,omitzero"`
}

func whatCanCmd() *cobra.Command {
	var f directoryFlags
	cmd := &cobra.Command{
		Use:   "what-can SUBJECT [TYPE]",
		Short: "What may this person do, and to which objects?",
		Long: `what-can goes through the actions of authz.types and says for each whether an
account of the running system may do it to all objects, to none, or to some: then
with the condition in words, and with --json in SQL as well.

` + limits,
		Example: `  rampart what-can alice
  rampart what-can alice order --json`,
		Args:              namedArgs,
		ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			sys, set, w, err := f.people(cmd)
			if err != nil {
				return err
			}
			p, err := account(w, args[0])
			if err != nil {
				return err
			}
			list, err := f.possible(cmd, sys, set, w, p, slices.Concat(args, []string{""})[1])
			if err != nil {
				return err
			}
			return tellWhat(cmd, list, f.json)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.relations, "relations", "", `file of relations, one "order:17#viewer@user:bob" a line`)
	return cmd
}

func (f *directoryFlags) possible(cmd *cobra.Command, sys *spec.System, set pap.Set, w policytest.World, p rampart.Principal, typ string) ([]possible, error) {
	if set.Schema == nil {
		return nil, usageError("%w in %s, so that nothing says what there is to do", errNoTypes, f.file)
	}
	types := slices.Sorted(maps.Keys(set.Schema.Types))
	if typ != "" {
		if !slices.Contains(types, typ) {
			return nil, usageError("authz.types has no %q; %s", typ, nearOf(typ, types, "the types are"))
		}
		types = []string{typ}
	}
	out := []possible{}
	for _, typ := range types {
		for _, a := range set.Schema.Types[typ].Actions {
			one, err := f.possibleOne(cmd, sys, set, w, p, typ, a)
			if err != nil {
				return nil, err
			}
			out = append(out, one)
		}
	}
	return out, nil
}

func (f *directoryFlags) possibleOne(cmd *cobra.Command, sys *spec.System, set pap.Set, w policytest.World, p rampart.Principal, typ string, a rampart.Action) (possible, error) {
	service, err := f.decider(sys, set, a)
	if err != nil {
		return possible{}, err
	}
	q := policytest.Question{Principal: p, Action: a, Resource: rampart.Resource{Type: typ}, Now: time.Now()}
	rows, d, err := w.List(cmd.Context(), set, service, q)
	if err != nil {
		return possible{}, placed(err)
	}
	out := possible{Action: a, Type: typ, To: "some", Code: d.Code, Layer: d.Layer, Because: d.Reason}
	switch {
	case !d.Allowed() || rows.IsNone():
		out.To = "none"
	case rows.IsAll():
		out.To = "all"
	default:
		out.Where, out.SQL = rows.Text(), inSQL(rows, set.Schema.Types[typ])
	}
	if relation := set.Schema.Types[typ].Grants[a]; relation != "" {
		f.byRelation(&out, typ, relation, p)
	}
	return out, nil
}

// byRelation adds what a relation permits: which objects these are, the service
// knows. Who is stopped before the policies is not helped by a relation.
func (f *directoryFlags) byRelation(out *possible, typ, relation string, p rampart.Principal) {
	denied := out.Code != "" && (out.Layer != rampart.LayerDomain || out.Code != rampart.CodeNoPermit)
	if denied || out.To == "all" || f.relations != "" {
		return
	}
	more := fmt.Sprintf("each %s of which %s is %s, unless a policy forbids it", typ, p.Subject, relation)
	if out.To == "none" {
		*out = possible{Action: out.Action, Type: typ, To: "some", Where: more}
		return
	}
	out.Where += "; and " + more
}

// inSQL is a filter for people to read: SQL with its values in place.
func inSQL(rows filter.Filter, t authz.Type) string {
	text, args, err := rows.SQL(filter.SQLite, filter.TableOf(t), 1)
	if err != nil {
		return err.Error()
	}
	for i := len(args); i > 0; i-- {
		text = strings.ReplaceAll(text, "?"+strconv.Itoa(i), shown(args[i-1]))
	}
	return text
}

func shown(v any) string {
	if s, ok := v.(string); ok {
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	return fmt.Sprint(v)
}

func tellWhat(cmd *cobra.Command, list []possible, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(list)
	}
	t := table{head: []string{"ACTION", "TYPE", "TO", "WHERE"}}
	for _, p := range list {
		t.add(string(p.Action), p.Type, p.To, firstText(p.Where, codeAt(p), "-"))
	}
	return t.print(cmd.OutOrStdout())
}

// codeAt says where something that cannot be done at all ends.
func codeAt(p possible) string {
	if p.Code == "" {
		return ""
	}
	return fmt.Sprintf("%s at the %s layer", p.Code, p.Layer)
}
