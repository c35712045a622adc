package main

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
)

// everyAddr is what wire.Lift calls everybody. Nobody types it: --all asks first.
const everyAddr = "*"

func banCmd() *cobra.Command {
	var f adminFlags
	cmd := group("ban", "See which addresses the gateways turn away, and let one in again")
	cmd.Example = `  rampart ban list
  rampart ban lift 192.0.2.7
  rampart ban lift 2001:db8::/64`
	f.add(cmd)
	cmd.AddCommand(banListCmd(&f), banLiftCmd(&f))
	return cmd
}

func banListCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the bans in force, as each gateway said last",
		Long:    "list shows who is turned away, at which step of the ladder and until when. Of many bans a gateway names the 200 that end last.",
		Example: "  rampart ban list\n  rampart ban list --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			var all []wire.GatewayBans
			if err := admin.call(cmd.Context(), http.MethodGet, wire.AdminBans, nil, &all); err != nil {
				return err
			}
			t, unnamed := bansTable(all)
			if err := f.show(cmd, all, t, "nobody is banned"); err != nil || f.json || unnamed == 0 {
				return err
			}
			return f.tell(cmd, nil, "and %d more", unnamed)
		},
	}
}

func bansTable(all []wire.GatewayBans) (t table, unnamed int) {
	t.head = []string{"ADDRESS", "GATEWAY", "STEP", "UNTIL", "TURNED AWAY"}
	for _, g := range all {
		for _, b := range g.List {
			t.add(plainText(b.Addr), strings.TrimPrefix(g.Plane, "gateway/"), strconv.Itoa(b.Step), b.Until.Local().Format(time.DateTime+" MST"), strconv.FormatUint(b.Away, 10))
		}
		unnamed += max(0, g.InForce-len(g.List))
	}
	return t, unnamed
}

func banLiftCmd(f *adminFlags) *cobra.Command {
	var everybody bool
	cmd := &cobra.Command{
		Use:   "lift ADDRESS|PREFIX",
		Short: "End the bans of an address, and forget what led to them",
		Long: `lift has every gateway let an address in again, and begin its count and its ladder
anew. Of an address of IPv6 the bans of its networks (/64, /56, /48) end too. A
gateway that is away does it when it is back. What the address used of limit.ip
stays used.`,
		Example: `  rampart ban lift 192.0.2.7
  rampart ban lift 2001:db8::/64
  rampart ban lift --all --yes`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: f.completeBans,
		RunE: func(cmd *cobra.Command, args []string) error {
			if everybody == (len(args) == 1) {
				return usageError("say whose bans end: rampart ban lift ADDRESS (rampart ban list shows them), or --all")
			}
			addr := everyAddr
			if !everybody {
				if addr = args[0]; addr == everyAddr {
					return usageError("* would end the bans of every address; say so with --all")
				}
			} else if err := f.confirm(cmd, "end the bans of every address"); err != nil {
				return err
			}
			return f.lift(cmd, addr)
		},
	}
	cmd.Flags().BoolVar(&everybody, "all", false, "end the bans of every address")
	f.addYes(cmd)
	return cmd
}

func (f *adminFlags) lift(cmd *cobra.Command, addr string) error {
	admin, err := f.open()
	if err != nil {
		return err
	}
	var v wire.Lifted
	if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminBans, wire.Lift{Addr: addr}, &v); err != nil {
		return err
	}
	return f.tell(cmd, v, "%s", liftedText(addr, v))
}

// liftedText says what a lift did. That an address was not banned is mostly a slip.
func liftedText(addr string, v wire.Lifted) string {
	who, unbanned := addr, addr+" was not banned"
	if addr == everyAddr {
		who, unbanned = "everybody", "nobody was banned"
	}
	by := words(names(v.Gateways), "no gateway") + " carried it out"
	if len(v.Waiting) > 0 {
		by += "; " + words(names(v.Waiting), "") + " did not say so yet, and will when it hears of it"
	}
	if v.Unbanned {
		return unbanned + ", as the gateways said last; what might have led to it is forgotten: " + by
	}
	return "bans of " + who + " are lifted: " + by + "; what was used of limit.ip stays used"
}

// names are gateways without their kind.
func names(planes []string) []string {
	out := make([]string, len(planes))
	for i, p := range planes {
		out[i] = strings.TrimPrefix(p, "gateway/")
	}
	return out
}

// completeBans offers the addresses that are banned.
func (f *adminFlags) completeBans(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var all []wire.GatewayBans
	admin, err := f.open()
	if err == nil && len(args) == 0 {
		err = admin.call(cmd.Context(), http.MethodGet, wire.AdminBans, nil, &all)
	}
	var out []string
	if err == nil {
		for _, g := range all {
			for _, b := range g.List {
				if _, bad := netip.ParseAddr(b.Addr); bad == nil || strings.Contains(b.Addr, "/") {
					out = append(out, b.Addr)
				}
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
