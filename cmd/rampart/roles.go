package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/gateway"
	"github.com/rampart-security/rampart/network/idempotency"
	"github.com/rampart-security/rampart/queue"
	"github.com/rampart-security/rampart/sidecar"
)

func gatewayCmd() *cobra.Command {
	var f planeFlags
	var listen, plain string
	cmd := &cobra.Command{
		Use:   "gateway",
		Short: "Run an edge gateway",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.runPlane(cmd.Context(), "gateway", nil, func(_ context.Context, p *plane) (func(context.Context) error, error) {
				dir := p.state.Path("data", f.name)
				if err := os.MkdirAll(dir, 0o700); err != nil {
					return nil, err
				}
				store, err := idempotency.NewFile(filepath.Join(dir, "idempotency.jsonl"))
				if err != nil {
					return nil, err
				}
				g, err := gateway.New(gateway.Options{Name: f.name, Listen: listen, HTTP: plain, Link: p.link, Audit: p.audit, Idem: store, State: p.state, Clock: p.clock, Logger: p.log})
				if err != nil {
					return nil, err
				}
				return g.Run, nil
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&listen, "listen", "", "public address, instead of the file's")
	httpFlag(cmd, &plain)
	return cmd
}

// httpFlag is the edge's listener without TLS.
func httpFlag(cmd *cobra.Command, addr *string) {
	cmd.Flags().StringVar(addr, "http", "", "address without TLS, such as :80: answers HTTP-01 challenges of a public authority, redirects the rest to https, and serves nothing")
}

func sidecarCmd() *cobra.Command {
	var f planeFlags
	var workload workloadFlags
	var inbound, outbound, upstream, held string
	cmd := &cobra.Command{
		Use:   "sidecar",
		Short: "Run the sidecar of one service",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := net.Listen("tcp", inbound)
			if err != nil {
				return fmt.Errorf("inbound: %w", err)
			}
			defer in.Close()
			out, err := listenLoopback(outbound)
			if err != nil {
				return fmt.Errorf("outbound: %w", err)
			}
			defer out.Close()
			return f.runPlane(cmd.Context(), "sidecar", func() string { return in.Addr().String() }, func(_ context.Context, p *plane) (func(context.Context) error, error) {
				socket, err := p.state.Socket(f.name)
				if err != nil {
					return nil, err
				}
				at, err := workload.path(p.state, f.name)
				if err != nil {
					return nil, err
				}
				s, err := sidecar.New(sidecar.Options{
					Service: f.name, Link: p.link, Audit: p.audit, Logger: p.log, Inbound: in, Outbound: out,
					Socket: socket, Upstream: upstream, StandIns: p.state.Path("run", "standin"), DataDir: p.state.Path("data", f.name), SecretsDir: held, State: p.state,
					Clock: p.clock, TestPolicies: testPolicies, Workload: at, WorkloadUIDs: workload.users(),
				})
				if err != nil {
					return nil, err
				}
				return s.Run, nil
			})
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&inbound, "inbound", "127.0.0.1:0", "address for mutual TLS from the gateway and other sidecars")
	fl.StringVar(&outbound, "outbound", "127.0.0.1:0", "loopback address of the service's way out")
	fl.StringVar(&upstream, "upstream", "", "http://127.0.0.1:PORT of the service")
	fl.StringVar(&held, "secrets-dir", "", "folder in memory, mode 0700, for credentials that rampart.yaml delivers by file")
	workload.add(cmd)
	cmd.MarkFlagRequired("upstream")
	return cmd
}

// listenLoopback refuses to open the way out to anyone but this machine.
func listenLoopback(addr string) (net.Listener, error) {
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, err
	}
	if !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback address", addr)
	}
	return net.ListenTCP("tcp", tcp)
}

func queueCmd() *cobra.Command {
	var f planeFlags
	var listen string
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "Run the embedded queue of one store",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			published := func() string { return listen }
			return f.runPlane(cmd.Context(), "queue", published, func(ctx context.Context, p *plane) (func(context.Context) error, error) {
				key, err := queueKey(ctx, p.link, p.state, f.name)
				if err != nil {
					return nil, fmt.Errorf("key of the queue: %w", err)
				}
				q, err := queue.New(queue.Options{Store: f.name, Link: p.link, Audit: p.audit, Logger: p.log, Listen: listen, Dir: p.state.Path("queue", f.name), Key: key})
				if err != nil {
					return nil, err
				}
				return q.Run, nil
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&listen, "listen", "", "loopback host:port")
	cmd.MarkFlagRequired("listen")
	return cmd
}
