package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/control"
	"github.com/rampart-security/rampart/internal/heapfloor"
	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
)

func controlCmd() *cobra.Command {
	var file, stateDir, listen, issuer string
	var ttl time.Duration
	var tied, again bool
	var stores storeFlags
	cmd := &cobra.Command{
		Use:   "control",
		Short: "Run the control plane",
		Long:  "control holds every long-term key: identity, token service, CA, secrets. It never faces the internet.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if tied {
				ctx = lifeline(ctx)
			}
			return runControl(ctx, file, stateDir, stores, again, control.Options{Listen: listen, Issuer: issuer, SVIDTTL: ttl, Replica: stores.replica})
		},
	}
	fileFlag(cmd, &file)
	stateFlag(cmd, &stateDir)
	stores.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&listen, "listen", "127.0.0.1:8444", "address for planes, mutual TLS")
	fl.StringVar(&issuer, "issuer", "https://localhost:8443/", "public URL of the edge")
	fl.DurationVar(&ttl, "svid-ttl", 0, "life of workload certificates, instead of trust.leaf in rampart.yaml")
	fl.BoolVar(&again, "applied", false, "start with what was applied last to this state folder, whatever --file says by now; with --file where nothing was")
	fl.BoolVar(&tied, "lifeline", false, "stop when standard input closes")
	return cmd
}

func runControl(ctx context.Context, file, stateDir string, stores storeFlags, again bool, opt control.Options) error {
	log := newLogger("control")
	if err := noDump(); err != nil {
		return err
	}
	defer heapfloor.Keep(heapFloor("control"), os.LookupEnv)()
	state, err := statedir.Open(stateDir, statedir.Options{})
	if err != nil {
		return err
	}
	sys, file, err := startWith(state, file, again)
	if err != nil {
		return err
	}
	if opt.Permissions, err = permissions(sys); err != nil {
		return err
	}
	events, err := audit.Open(state.Path("audit"), opt.LogName(), audit.Options{Logger: log})
	if err != nil {
		return err
	}
	defer events.Close()
	db, err := stores.open(ctx, state, log)
	if err != nil {
		return err
	}
	defer db.Close()
	opt.System, opt.State, opt.Store, opt.Audit, opt.AuditHead, opt.Logger = sys, state, db, events, events.Head, log
	opt.TestPolicies, opt.Examine, opt.File = testPolicies, examined, file
	p, err := control.New(opt)
	if err != nil {
		return err
	}
	log.LogAttrs(ctx, slog.LevelInfo, "up", slog.String("listen", opt.Listen))
	return p.Run(ctx)
}

// startWith is what the control plane enforces first, and where it was read. One
// that is started again takes what was in force: the file may have been edited
// since, and is not applied by an accident.
func startWith(state *statedir.Dir, file string, again bool) (*spec.System, string, error) {
	if again {
		sys, from, err := control.ReadApplied(state)
		if err == nil || rampart.KindOf(err) != rampart.NotFound {
			return sys, from, err
		}
	}
	sys, err := spec.Load(file)
	if err != nil {
		return nil, "", err
	}
	if err := knownRules(sys); err != nil {
		return nil, "", err
	}
	from, err := filepath.Abs(file)
	return sys, from, err
}
