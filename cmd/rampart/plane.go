package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/authz/pdp"
	"github.com/rampart-security/rampart/internal/heapfloor"
	"github.com/rampart-security/rampart/internal/planelink"
	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
)

// planeFlags are what every plane but the control plane is started with.
type planeFlags struct {
	name    string
	control string
	domain  string
	roots   string
	join    string
	account string // file of a service-account token
	socket  string // of the control plane, for processes of its machine
	state   string
}

func (f *planeFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.name, "name", "", "name of the service or store in rampart.yaml")
	fl.StringVar(&f.control, "control", "", "host:port of the control plane")
	fl.StringVar(&f.domain, "trust-domain", "", "SPIFFE trust domain")
	fl.StringVar(&f.roots, "roots", "", "PEM file of the roots that vouch for the control plane")
	fl.StringVar(&f.join, "join", "", "file that holds the one-time join token; - reads one line of standard input and stops when it closes")
	fl.StringVar(&f.account, "join-kubernetes", "", "file that holds a projected service-account token for the audience rampart, instead of a join token")
	fl.StringVar(&f.socket, "join-unix", "", "socket of the control plane on this machine, instead of a join token: the kernel says who this is")
	stateFlag(cmd, &f.state)
	for _, name := range []string{"name", "control", "trust-domain", "roots"} {
		cmd.MarkFlagRequired(name)
	}
	cmd.MarkFlagsOneRequired("join", "join-kubernetes", "join-unix")
	cmd.MarkFlagsMutuallyExclusive("join-kubernetes", "join-unix")
}

// plane is what a role gets once it has joined.
type plane struct {
	state *statedir.Dir
	link  *planelink.Link
	audit *audit.Log
	log   *slog.Logger
	clock func() error // fails when this machine's clock jumped
}

// heapFloor is up to what heap, in bytes, a plane need not collect garbage (ADR 27).
// A queue throws little away.
func heapFloor(role string) uint64 {
	switch role {
	case "gateway":
		return 128 << 20
	case "sidecar", "control": // there is a sidecar for each service
		return 64 << 20
	}
	return 0
}

// runPlane joins, then runs the role beside the link until either ends. listen
// is asked for the address to publish; nil publishes none.
func (f *planeFlags) runPlane(ctx context.Context, role string, listen func() string, start func(context.Context, *plane) (func(context.Context) error, error)) error {
	log := newLogger(role + "/" + f.name)
	if err := noDump(); err != nil {
		return err
	}
	defer heapfloor.Keep(heapFloor(role), os.LookupEnv)()
	state, err := statedir.Open(f.state, statedir.Options{})
	if err != nil {
		return err
	}
	token, ctx, err := f.token(ctx)
	if err != nil {
		return err
	}
	roots, err := os.ReadFile(f.roots)
	if err != nil {
		return fmt.Errorf("roots: %w", err)
	}
	events, err := audit.Open(state.Path("audit"), role+"/"+f.name, audit.Options{Logger: log})
	if err != nil {
		return err
	}
	defer events.Close()
	link, err := planelink.Dial(ctx, planelink.Options{
		Control: f.control, Domain: f.domain, Roots: roots, Join: token, Proof: f.proof(role), Plane: role + "/" + f.name,
		Throwaway: state.Throwaway(), Logger: log, AuditHead: events.Head, ListenAddr: listen,
	})
	if err != nil {
		return err
	}
	clock := pdp.NewClock(nil, nil)
	link.OnTime(clock.Anchor)
	return serveBeside(ctx, link, func(ctx context.Context) error {
		setup, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if _, err := link.WaitSystem(setup); err != nil {
			return err
		}
		serve, err := start(ctx, &plane{state, link, events, log, clock.Err})
		if err != nil {
			return err
		}
		log.LogAttrs(ctx, slog.LevelInfo, "up")
		return serve(ctx)
	})
}

// serveBeside runs the link and the role; the end of one ends the other.
func serveBeside(ctx context.Context, link *planelink.Link, role func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	linkDone := make(chan error, 1)
	go func() { linkDone <- link.Run(ctx); cancel() }()
	err := role(ctx)
	cancel()
	return errors.Join(err, <-linkDone)
}

// proof is what lasts when a join token does not: with it the plane comes back by
// itself, however long it slept. Whom to believe it reads anew then, as the roots
// may have changed meanwhile.
func (f *planeFlags) proof(role string) *planelink.Proof {
	proof := &planelink.Proof{Roots: func() ([]byte, error) { return os.ReadFile(f.roots) }}
	switch {
	case f.account != "":
		proof.Kind = wire.ProofKubernetes
		proof.Evidence = func() (string, error) {
			b, err := os.ReadFile(f.account) // the kubelet replaces it
			return strings.TrimSpace(string(b)), err
		}
	case f.socket != "":
		kind := map[string]string{"gateway": "gateway", "queue": "store"}[role]
		proof.Kind, proof.Socket, proof.Identity = wire.ProofUnix, f.socket, cmp.Or(kind, "service")+"/"+f.name
	default:
		return nil
	}
	return proof
}

// token reads the join token. From standard input, the pipe is a lifeline too:
// when whoever started this process dies, it closes, and the plane stops.
func (f *planeFlags) token(ctx context.Context) (string, context.Context, error) {
	if f.join == "" {
		return "", ctx, nil
	}
	if f.join != "-" {
		b, err := os.ReadFile(f.join)
		return strings.TrimSpace(string(b)), ctx, err
	}
	in := bufio.NewReader(io.LimitReader(os.Stdin, 4096))
	line, err := in.ReadString('\n')
	if err != nil {
		return "", ctx, fmt.Errorf("no join token on standard input: %w", err)
	}
	return strings.TrimSpace(line), lifeline(ctx), nil
}

// lifeline returns a context that ends when standard input closes.
func lifeline(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return ctx
}
