package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/statedir"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/tls/profile"
)

func upCmd() *cobra.Command {
	var u up
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start every plane and service of the file, and keep them running",
		Long: `up starts the control plane, the gateway, one sidecar per service and the services'
own run commands as separate processes, and restarts what dies. The first start
makes the state folder with a local CA, a sealed key, the database, the audit
log and demo identities; later starts reuse it. Ctrl-C stops everything.

A service is told its port in $PORT. With --free-ports that is another port than
the file's, unless the run command names the file's port itself: such a service
cannot be moved and stays where it is. The edge is then on 127.0.0.1 alone, also
where the file's listen, such as ":8443", lets other machines in.`,
		Example: `  rampart up -f examples/payments/rampart.yaml
  rampart up --state /var/lib/shop`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return u.run(cmd.Context()) },
	}
	fileFlag(cmd, &u.file)
	stateFlag(cmd, &u.stateDir)
	cmd.Flags().BoolVar(&u.throwaway, "throwaway", false, "make a state folder to be thrown away: the only kind that accepts unsafe: {disable: [...]}")
	cmd.Flags().BoolVar(&u.freePorts, "free-ports", false, "put every listener on a free port of 127.0.0.1, so that this copy can run beside another")
	httpFlag(cmd, &u.http)
	cmd.Flags().DurationVar(&u.svidTTL, "svid-ttl", 0, "life of workload certificates, instead of trust.leaf in rampart.yaml; they are renewed at half of it")
	return cmd
}

// up is one run of the whole system.
type up struct {
	file, stateDir       string
	throwaway, freePorts bool
	svidTTL              time.Duration
	http                 string // of the edge, without TLS

	sys     *spec.System
	state   *statedir.Dir
	self    string
	dir     string // of the file
	running wire.Running
	held    map[string]string // service -> folder in memory of the credentials that it holds as files
	admin   *adminClient
	kids    runner
	mu      sync.Mutex // guards running.PIDs and the file made of it
	started time.Time
}

func (u *up) run(ctx context.Context) error {
	u.started = time.Now()
	u.kids.say = func(format string, args ...any) { fmt.Fprintf(os.Stderr, "rampart: "+format+"\n", args...) }
	if err := u.prepare(); err != nil {
		return err
	}
	unlock, err := u.state.Lock()
	if err != nil {
		return &exitError{exitUsage, err}
	}
	defer unlock()
	if err := u.choosePorts(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer u.removeHeld() // last of all, when nobody writes there any more
	defer u.kids.wg.Wait()
	defer cancel()
	if err := u.makeHeld(); err != nil {
		return &exitError{exitFailed, err}
	}
	if err := u.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return &exitError{exitFailed, err}
	}
	u.banner(u.edgeTrouble(ctx))
	<-ctx.Done()
	fmt.Fprintln(os.Stderr, "\nrampart: stopping")
	return nil
}

// prepare reads the file and opens the state folder.
func (u *up) prepare() error {
	sys, err := spec.Load(u.file)
	if err != nil {
		return err
	}
	if err := knownRules(sys); err != nil {
		return err
	}
	if err := warn(os.Stderr, sys); err != nil {
		return err
	}
	u.sys = sys
	if u.dir, err = filepath.Abs(filepath.Dir(u.file)); err != nil {
		return err
	}
	if u.self, err = os.Executable(); err != nil {
		return err
	}
	if u.state, err = statedir.Open(u.stateDir, statedir.Options{Create: true, Throwaway: u.throwaway}); err != nil {
		return &exitError{exitUsage, err}
	}
	if err := sys.AdmitUnsafe(u.state.Throwaway()); err != nil {
		return err
	}
	if off := sys.Unsafe.Disable; len(off) > 0 {
		fmt.Fprintf(os.Stderr, "UNSAFE: this throw-away system runs WITHOUT %s\n", strings.Join(off, ", "))
	}
	for _, d := range []string{"run/standin", "logs", "data", "queue", "demo"} {
		if err := os.MkdirAll(u.state.Path(d), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// start brings the system up in order: control plane, identities, queues,
// planes, services; then waits until a request would pass.
func (u *up) start(ctx context.Context) error {
	step := u.stepper()
	u.kids.keep(ctx, u.controlChild())
	socket, err := u.state.Socket("control")
	if err != nil {
		return err
	}
	u.running.Admin = socket
	u.admin = newAdminClient(socket)
	if err := u.admin.wait(ctx, u.state.Path("logs", "control.log")); err != nil {
		return err
	}
	step("control plane")
	if err := u.provision(ctx); err != nil {
		return err
	}
	step("identities")
	if err := u.tellMissing(ctx); err != nil {
		return err
	}
	for _, c := range u.externals() {
		u.kids.keep(ctx, c)
	}
	for _, c := range u.planes() {
		u.kids.keep(ctx, c)
	}
	for _, c := range u.services() {
		u.kids.keep(ctx, c)
	}
	if err := u.waitReady(ctx, step); err != nil {
		return err
	}
	u.kids.changed = func() { u.publish() }
	return u.publish()
}

func (u *up) stepper() func(string) {
	return func(what string) {
		fmt.Fprintf(os.Stderr, "  %-24s up after %s\n", what, time.Since(u.started).Round(10*time.Millisecond))
	}
}

func (u *up) logFile(name string) string { return freshLog(u.state.Path("logs"), name) }

func (u *up) controlChild() child {
	return child{name: "control", dir: ".", log: u.logFile("control"), args: []string{
		u.self, "control", "--file", u.file, "--state", u.stateDir, "--listen", u.running.Control, "--issuer", u.issuer(), "--svid-ttl", u.svidTTL.String(), "--lifeline",
	}, more: []string{"--applied"}}
}

// issuer is the public URL of the edge, which names the token service.
func (u *up) issuer() string { return "https://" + u.publicHost() + "/" }

func (u *up) publicHost() string {
	name := "localhost"
	if names := u.sys.Services[u.sys.Gateway()].Names; len(names) > 0 {
		name = names[0]
	}
	_, port, _ := net.SplitHostPort(u.running.Edge)
	if port == "443" {
		return name
	}
	return name + ":" + port
}

// planeChild starts one role that joins with a token of its own.
func (u *up) planeChild(role, name, identity string, extra ...string) child {
	args := append([]string{u.self, role, "--name", name, "--control", u.running.Control, "--trust-domain", u.sys.Info.TrustDomain,
		"--roots", u.state.Path("ca.pem"), "--join", "-", "--state", u.stateDir}, extra...)
	return child{name: role + "/" + name, dir: ".", log: u.logFile(role + "-" + name), args: args,
		stdin: func(ctx context.Context) (string, error) { return u.admin.joinToken(ctx, identity) }}
}

func (u *up) planes() []child {
	gw := u.sys.Gateway()
	out := []child{}
	for _, name := range slices.Sorted(maps.Keys(u.running.Queues)) {
		out = append(out, u.planeChild("queue", name, "store/"+name, "--listen", u.running.Queues[name]))
	}
	edge := []string{"--listen", u.running.Edge}
	if u.http != "" {
		edge = append(edge, "--http", u.http)
	}
	out = append(out, u.planeChild("gateway", gw, "gateway/"+gw, edge...))
	for _, name := range slices.Sorted(maps.Keys(u.running.Upstream)) {
		out = append(out, u.planeChild("sidecar", name, "service/"+name, "--inbound", u.running.Sidecars[name], "--outbound", u.running.Out[name], "--upstream", u.running.Upstream[name], "--secrets-dir", u.held[name]))
	}
	return out
}

func (u *up) services() []child {
	var out []child
	for _, name := range slices.Sorted(maps.Keys(u.running.Upstream)) {
		svc := u.sys.Services[name]
		if len(svc.Run) == 0 {
			continue
		}
		parsed, _ := url.Parse(u.running.Upstream[name])
		data := u.state.Path("data", name)
		os.MkdirAll(data, 0o700)
		out = append(out, child{name: name, service: true, dir: u.dir, log: u.logFile(name), args: append([]string{u.self, "exec", "--"}, svc.Run...), env: []string{
			agent.EnvService + "=" + name, agent.EnvSocket + "=" + u.running.Sockets[name], agent.EnvOut + "=http://" + u.running.Out[name],
			agent.EnvPort + "=" + parsed.Port(), agent.EnvData + "=" + data,
		}})
		if at, err := workloadSocket(u.state, name); err == nil && svc.Workload {
			last := &out[len(out)-1]
			last.env = append(last.env, agent.EnvWorkload+"=unix://"+at)
		}
		if folder := u.held[name]; folder != "" {
			last := &out[len(out)-1]
			last.env = append(last.env, agent.EnvSecrets+"="+folder)
		}
	}
	return out
}

func (u *up) externals() []child {
	var out []child
	for _, name := range slices.Sorted(maps.Keys(u.running.StandIns)) {
		ext := u.sys.External[name]
		if len(ext.Run) == 0 {
			continue
		}
		_, port, _ := net.SplitHostPort(u.running.StandIns[name])
		out = append(out, child{name: name, service: true, dir: u.dir, log: u.logFile(name), args: append([]string{u.self, "exec", "--"}, ext.Run...), env: []string{
			agent.EnvPort + "=" + port, agent.EnvStandIn + "=" + u.state.Path("run", "standin", name+".pem"),
		}})
	}
	return out
}

// publish writes run/system.json, where other commands find the system.
func (u *up) publish() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.running.PIDs = u.kids.snapshot()
	b, err := json.MarshalIndent(u.running, "", "  ")
	if err != nil {
		return err
	}
	return u.state.WriteFile("run/system.json", b, 0o600)
}

// readiness reports whether one part of the system is up. The status is the
// control plane's, asked for once a round; every call of it is on record.
type readiness func(context.Context, wire.Status) bool

// waitReady polls until the gateway answers, every sidecar has reported and
// every service that the runner started listens.
func (u *up) waitReady(ctx context.Context, step func(string)) error {
	deadline := time.Now().Add(3 * time.Minute)
	waiting := u.checks()
	for len(waiting) > 0 {
		status, err := u.admin.status(ctx)
		if err != nil {
			status = wire.Status{} // the control plane may be coming back
		}
		for _, name := range slices.Sorted(maps.Keys(waiting)) {
			if waiting[name](ctx, status) {
				step(name)
				delete(waiting, name)
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return u.notReady(slices.Sorted(maps.Keys(waiting)))
		}
		time.Sleep(pollEvery)
	}
	return nil
}

func (u *up) notReady(names []string) error {
	first := u.state.Path("logs", strings.ReplaceAll(names[0], "/", "-")+".log")
	return fmt.Errorf("%s did not come up in three minutes; the end of %s:\n%s", strings.Join(names, ", "), first, lastLines(first, 12))
}

func (u *up) checks() map[string]readiness {
	out := map[string]readiness{"gateway/" + u.sys.Gateway(): func(ctx context.Context, _ wire.Status) bool { return u.gatewayReady(ctx) }}
	for role, addrs := range map[string]map[string]string{"queue": u.running.Queues, "sidecar": u.running.Sidecars} {
		for which := range addrs {
			plane := role + "/" + which
			out[plane] = func(_ context.Context, st wire.Status) bool { return u.reported(st, plane) }
		}
	}
	for name, up := range u.running.Upstream {
		if len(u.sys.Services[name].Run) == 0 {
			continue
		}
		parsed, _ := url.Parse(up)
		out[name] = func(context.Context, wire.Status) bool { return dials(parsed.Host) }
	}
	for name, addr := range u.running.StandIns {
		if len(u.sys.External[name].Run) > 0 {
			out[name] = func(context.Context, wire.Status) bool { return dials(addr) }
		}
	}
	return out
}

func dials(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// reported looks for a heartbeat with today's configuration.
func (u *up) reported(st wire.Status, plane string) bool {
	return slices.ContainsFunc(st.Planes, func(p wire.PlaneStatus) bool {
		return p.Plane == plane && p.Digest == u.sys.Bundle().Digest && p.SeenSeconds < 5 && p.Ready
	})
}

// gatewayReady asks the edge how it is, by the certificate that the local CA gave
// it. One from elsewhere may not be there yet, and need not be for this: then the
// listener is all that is asked for.
func (u *up) gatewayReady(ctx context.Context) bool {
	if svc := u.sys.Services[u.sys.Gateway()]; svc.ACME != nil || svc.Cert != nil {
		return dials(u.running.Edge)
	}
	roots, err := rootsFile(u.state.Path("ca.pem"))
	if err != nil {
		return false
	}
	c := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		TLSClientConfig: profile.External("localhost", roots, tls.VersionTLS13), ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, u.running.Edge) // its public name may lead elsewhere
		},
	}}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.issuer()+"_rampart/health", nil)
	if err != nil {
		return false
	}
	res, err := c.Do(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	return res.StatusCode == http.StatusOK
}
