package main

import (
	"bufio"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rampart-security/rampart/internal/wire"
)

func dekCmd() *cobra.Command {
	var f adminFlags
	cmd := group("dek", "Look after the keys that encrypt stored data: replace, move, back up, destroy")
	cmd.Example = `  rampart dek list --tenant acme
  rampart dek rekey --tenant acme --item contact
  rampart dek backup deks.backup
  rampart dek shred --tenant acme`
	f.add(cmd)
	cmd.AddCommand(dekListCmd(&f), dekRekeyCmd(&f), dekRewrapCmd(&f), dekShredCmd(&f), dekReopenCmd(&f), dekBackupCmd(&f), dekRestoreCmd(&f))
	return cmd
}

// targetFlags say whose keys a command is about.
func targetFlags(cmd *cobra.Command, t *wire.DEKTarget) {
	fl := cmd.Flags()
	fl.StringVar(&t.Tenant, "tenant", "", "whose data it is")
	fl.StringVar(&t.Item, "item", "", "data item of rampart.yaml (default: all of them)")
	fl.StringVar(&t.Subject, "subject", "", `one person, such as "user:alice", of items with shred: subject`)
}

// named says in words what a target is.
func named(t wire.DEKTarget) string {
	text := t.Tenant
	if t.Tenant == "" {
		text = "no tenant"
	}
	if t.Subject != "" {
		text = t.Subject + " at " + text
	}
	if t.Item != "" {
		text += " in " + t.Item
	}
	return text
}

func dekListCmd(f *adminFlags) *cobra.Command {
	var t wire.DEKTarget
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List data keys of tenants: versions, what wraps them, and which tenants' were destroyed",
		Long: `list shows the keys of tenants. Of people it says nothing: their keys are below
those of their tenant, and are stored under a hash of the name. Who was shredded is
in the audit log, under that hash.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := f.deks(cmd, t)
			if err != nil {
				return err
			}
			tab := table{head: []string{"ITEM", "TENANT", "VERSION", "STATE", "WRAPPED BY", "SEALED AT MOST", "CREATED"}}
			for _, k := range all {
				for _, v := range k.Versions {
					tab.add(k.Item, firstText(k.Tenant, "-"), fmt.Sprint(v.Version), v.State, v.KEK, fmt.Sprint(v.Messages), when(v.Created, "-"))
				}
				if !k.Shredded.IsZero() {
					tab.add(k.Item, firstText(k.Tenant, "-"), "-", "shredded", "-", "-", when(k.Shredded, "-"))
				}
			}
			return f.show(cmd, all, tab, "no data keys yet; each is made when something is sealed with it first")
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&t.Tenant, "tenant", "", "only of this one")
	fl.StringVar(&t.Item, "item", "", "only of this data item")
	return cmd
}

func (f *adminFlags) deks(cmd *cobra.Command, t wire.DEKTarget) ([]wire.DEKInfo, error) {
	admin, err := f.open()
	if err != nil {
		return nil, err
	}
	all, q := []wire.DEKInfo{}, url.Values{"item": {t.Item}, "tenant": {t.Tenant}}
	for {
		var some []wire.DEKInfo
		if err := admin.call(cmd.Context(), http.MethodGet, wire.AdminDEKs+"?"+q.Encode(), nil, &some); err != nil || len(some) == 0 {
			return all, err
		}
		all = append(all, some...)
		last := some[len(some)-1]
		q.Set("after_item", last.Item)
		q.Set("after_tenant", last.Tenant)
	}
}

func dekRekeyCmd(f *adminFlags) *cobra.Command {
	var t wire.DEKTarget
	cmd := &cobra.Command{
		Use:   "rekey",
		Short: "Make new data keys of a tenant or person, which seal from now on",
		Long: `rekey makes the next version of the keys. Everything is sealed with it from now
on; what is sealed already stays readable with the version that sealed it, until
the service's own job (pii.Rekey of the SDK) has sealed it anew. The people of a
tenant, and its blind indexes, get new keys with it.`,
		Example: "  rampart dek rekey --tenant acme --item contact",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			items, err := f.itemsOf(cmd, t)
			if err != nil {
				return err
			}
			admin, err := f.open()
			if err != nil {
				return err
			}
			out := []wire.DEKInfo{}
			for _, item := range items {
				var info wire.DEKInfo
				if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminRekey, wire.DEKTarget{Item: item, Tenant: t.Tenant, Subject: t.Subject}, &info); err != nil {
					return err
				}
				out = append(out, info)
			}
			return f.tell(cmd, out, "new keys of %s seal from now on (%s); let the services run their re-encryption", named(t), strings.Join(items, ", "))
		},
	}
	targetFlags(cmd, &t)
	return cmd
}

// itemsOf lists the items in which a tenant has keys, or the one that was named.
func (f *adminFlags) itemsOf(cmd *cobra.Command, t wire.DEKTarget) ([]string, error) {
	if t.Item != "" {
		return []string{t.Item}, nil
	}
	if t.Tenant == "" {
		return nil, usageError("say whose keys: --tenant NAME, or --item ITEM for data without a tenant")
	}
	if t.Subject != "" {
		return nil, usageError("say in which data item: --item ITEM")
	}
	all, err := f.deks(cmd, t)
	if err != nil {
		return nil, err
	}
	var items []string
	for _, k := range all {
		if len(k.Versions) > 0 {
			items = append(items, k.Item)
		}
	}
	if len(items) == 0 {
		return nil, usageError("%s has no keys; rampart dek list shows who has", t.Tenant)
	}
	return items, nil
}

func dekRewrapCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "rewrap",
		Short: "Wrap all data keys with the newest version of the key encryption key",
		Long: `rewrap moves the wrapped data keys to the newest version of the key encryption
key. Nothing that they sealed changes. Whoever stops it starts it again: it goes
on where it was.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			sum := wire.Rewrapped{Left: 1}
			for sum.Left > 0 {
				var r wire.Rewrapped
				if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminRewrap, struct{}{}, &r); err != nil {
					return err
				}
				sum.KEK, sum.Done, sum.Left = r.KEK, sum.Done+r.Done, r.Left
				rewriteLine(cmd, "%d rewrapped, %d left", sum.Done, sum.Left)
			}
			return f.tell(cmd, sum, "%s moved to %s", plural(sum.Done, "key"), sum.KEK)
		},
	}
}

// rewriteLine rewrites one line of a terminal, and says nothing elsewhere.
func rewriteLine(cmd *cobra.Command, format string, args ...any) {
	if term.IsTerminal(int(os.Stderr.Fd())) {
		fmt.Fprintf(cmd.ErrOrStderr(), "\r\x1b[K"+format, args...)
	}
}

func dekShredCmd(f *adminFlags) *cobra.Command {
	var t wire.DEKTarget
	var yes string
	cmd := &cobra.Command{
		Use:   "shred",
		Short: "Destroy the keys of a tenant or person: what they sealed is unreadable, for good",
		Long: `shred deletes every version of the keys, tells every plane to forget them and
waits for their word. What was sealed is unreadable at once, and cannot come back
once the last backup of the keys has ended: shred says when that is. It cannot
be undone. New data of the tenant or person is refused until rampart dek reopen.`,
		Example: `  rampart dek shred --tenant acme
  rampart dek shred --tenant acme --item contact --subject user:alice --yes user:alice`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if t.Tenant == "" && t.Item == "" {
				return usageError("say whose keys: --tenant NAME, or --item ITEM for data without a tenant")
			}
			if err := f.sureToShred(cmd, t, yes); err != nil {
				return err
			}
			admin, err := f.open()
			if err != nil {
				return err
			}
			var s wire.Shredded
			err = admin.call(cmd.Context(), http.MethodPost, wire.AdminShred, t, &s)
			if isNotFound(err) && strings.Contains(err.Error(), "nothing was destroyed") { // not: no such item
				return &exitError{exitFailed, fmt.Errorf("no keys of %s; NOTHING was destroyed: check the name, rampart dek list shows who has keys", named(t))}
			}
			if err != nil {
				return err
			}
			return f.tell(cmd, s, "%s", shredded(t, s))
		},
	}
	targetFlags(cmd, &t)
	cmd.Flags().StringVar(&yes, "yes", "", "do not ask: the name of the tenant or subject, once more")
	return cmd
}

func shredded(t wire.DEKTarget, s wire.Shredded) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s of %s destroyed; %s forgot them\n", plural(s.Keys, "key"), named(t), plural(s.Planes, "plane"))
	if len(s.Waiting) > 0 {
		fmt.Fprintf(&b, "not heard from: %s; what they keep ends within five minutes\n", strings.Join(s.Waiting, ", "))
	}
	fmt.Fprintf(&b, "irrecoverable from %s, when the last backup of the keys has ended\n", s.Irrecoverable.Local().Format("2006-01-02 15:04 MST"))
	fmt.Fprintf(&b, "on record under trace %s", s.Certificate)
	return b.String()
}

// sureToShred asks twice: whether, and for the name.
func (f *adminFlags) sureToShred(cmd *cobra.Command, t wire.DEKTarget, yes string) error {
	name := firstText(t.Subject, t.Tenant, t.Item)
	if yes != "" {
		if yes != name {
			return usageError("--yes names %q, the keys are those of %q; nothing was changed", yes, name)
		}
		return nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return usageError("this would destroy the keys of %s for good; there is no terminal to ask on, so say it with --yes %s", named(t), name)
	}
	in := bufio.NewReader(cmd.InOrStdin())
	for _, q := range []struct{ ask, want string }{
		{"This destroys the keys of " + named(t) + " for good. Go on? [y/N] ", "y"},
		{"Type " + name + " to destroy its keys: ", name},
	} {
		fmt.Fprint(cmd.ErrOrStderr(), q.ask)
		line, err := in.ReadString('\n')
		if err != nil || strings.TrimSpace(line) != q.want {
			return usageError("nothing was changed")
		}
	}
	return nil
}

func dekReopenCmd(f *adminFlags) *cobra.Command {
	var t wire.DEKTarget
	cmd := &cobra.Command{
		Use:   "reopen",
		Short: "Let a tenant or person whose keys were destroyed have new ones",
		Long:  "reopen lets new data be sealed again. What was sealed before the shredding stays unreadable.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminReopen, t, nil); err != nil {
				return err
			}
			return f.tell(cmd, t, "%s may have new keys", named(t))
		},
	}
	targetFlags(cmd, &t)
	return cmd
}

func dekBackupCmd(f *adminFlags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write a backup of the data keys, wrapped as they are, for seven days",
		Long: `backup writes the wrapped keys and the list of what was destroyed into a file
that only you can read. The key encryption key is not in it. It is restored for
seven days: delete it then, since keys that were destroyed meanwhile are in it.
Leave the tables of keys out of every other dump of the database:
  pg_dump --exclude-table-data=deks --exclude-table-data=subkeys --exclude-table-data=key_sets`,
		Args: namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := notThere(args[0], force); err != nil {
				return err
			}
			admin, err := f.open()
			if err != nil {
				return err
			}
			last, err := writePages(args[0], func(after wire.DEKPageHead) (page wire.DEKPage, err error) {
				rewriteLine(cmd, "page %d", after.N+1)
				return page, admin.call(cmd.Context(), http.MethodPost, wire.AdminBackup, after, &page)
			})
			if err != nil {
				return err
			}
			return f.tell(cmd, last, "%s holds the data keys of %s; delete it on %s", args[0], when(last.Taken, "-"), last.Expires.Local().Format(time.DateOnly))
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace the file if it is there")
	return cmd
}

func dekRestoreCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "restore FILE",
		Short: "Put keys of a backup back that are missing; what was destroyed stays gone",
		Args:  namedArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			file, err := os.Open(args[0])
			if err != nil {
				return &exitError{exitUsage, err}
			}
			defer file.Close()
			var sum wire.Restored
			err = readPages(file, func(page wire.DEKPage) error {
				var r wire.Restored
				if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminRestore, page, &r); err != nil {
					return err
				}
				sum.Restored, sum.Present, sum.Shredded = sum.Restored+r.Restored, sum.Present+r.Present, sum.Shredded+r.Shredded
				rewriteLine(cmd, "page %d", page.N)
				return nil
			})
			if err != nil {
				return err
			}
			return f.tell(cmd, sum, "%s restored, %d were there, %d stay destroyed", plural(sum.Restored, "key"), sum.Present, sum.Shredded)
		},
	}
}
