package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// choosePorts settles every address before anything starts, so that a port in
// use is explained and not stumbled over.
func (u *up) choosePorts() error {
	u.running = wire.Running{PID: os.Getpid(), Sidecars: map[string]string{}, Out: map[string]string{}, Sockets: map[string]string{}, Queues: map[string]string{}, Upstream: map[string]string{}, StandIns: map[string]string{}}
	free := newPorts(os.Getpid())
	edge := u.sys.Services[u.sys.Gateway()].Listen
	if u.freePorts {
		edge = free.addr()
	}
	if err := portFree(edge, "the edge listens on", u.orMove("or start it again, for another port")); err != nil {
		return err
	}
	u.running.Edge = edge
	u.running.Control = free.addr()
	for name, svc := range u.sys.Services {
		if svc.Role == "gateway" {
			continue
		}
		up, err := u.upstream(name, svc, free)
		if err != nil {
			return err
		}
		u.running.Upstream[name] = up
		u.running.Sidecars[name] = free.addr()
		u.running.Out[name] = free.addr()
		if u.running.Sockets[name], err = u.state.Socket(name); err != nil {
			return err
		}
	}
	for name, st := range u.sys.Stores {
		if st.Kind == "nats" {
			u.running.Queues[name] = free.addr()
		}
	}
	if err := u.standIns(); err != nil {
		return err
	}
	return free.err
}

// narrowed says that fewer reach the edge than the file lets, if so.
func (u *up) narrowed() []string {
	listen := u.sys.Services[u.sys.Gateway()].Listen
	host, _, _ := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); !u.freePorts || ip != nil && ip.IsLoopback() {
		return nil
	}
	return []string{fmt.Sprintf("with --free-ports the edge listens on %s, for this machine alone; the file says %q, for others too", u.running.Edge, listen)}
}

// standIns notes where stand-ins of external parties listen. The file fixes
// that, for the sidecars that reach them.
func (u *up) standIns() error {
	for name, ext := range u.sys.External {
		if ext.StandIn == "" {
			continue
		}
		if len(ext.Run) > 0 {
			if err := portFree(ext.StandIn, "the stand-in for "+name+" listens on", u.orMove("the file fixes a stand-in's address, so --free-ports does not move it")); err != nil {
				return err
			}
		}
		u.running.StandIns[name] = ext.StandIn
	}
	return nil
}

// upstream is the loopback URL at which a service answers.
func (u *up) upstream(name string, svc spec.Service, free *ports) (string, error) {
	if len(svc.Run) == 0 {
		return svc.Upstream, nil // it runs already, or will
	}
	parsed, err := url.Parse(svc.Upstream)
	if err != nil {
		return "", err
	}
	if u.freePorts && !namesPort(svc.Run, parsed.Port()) {
		return "http://" + free.addr(), nil
	}
	return svc.Upstream, portFree(parsed.Host, "service "+name+" listens on", u.orMove(pinned))
}

// pinned says why --free-ports leaves a service where it is, and how it would not.
const pinned = "its run command names the port, so --free-ports does not move it; " +
	"with $PORT there instead, as in run: [sh, -c, 'exec PROGRAM --port $PORT'], Rampart chooses the port"

// orMove is what else helps where a port is taken: --free-ports, or, where that
// was given, what it does not do.
func (u *up) orMove(why string) string {
	if u.freePorts {
		return why
	}
	return "or take free ports for this copy with --free-ports (make up ARGS=--free-ports)"
}

// namesPort reports whether a command line holds the port as a number of its
// own: such a service listens there, whatever $PORT says.
func namesPort(run []string, port string) bool {
	return slices.ContainsFunc(run, func(arg string) bool {
		numbers := strings.FieldsFunc(arg, func(r rune) bool { return r < '0' || r > '9' })
		return slices.Contains(numbers, port)
	})
}

// Ports below this one are not taken for outgoing connections: a plane that is
// restarted finds its port free.
const (
	firstPort = 10240
	lastPort  = 32000
	block     = 64 // ports between the starts of two runners
)

// ports hands out loopback ports on which nothing listens, each once. Runners
// start at different places, by process id, so that two that come up together
// do not hand out the same.
type ports struct {
	next int
	err  error // of the first port that could not be had
}

func newPorts(pid int) *ports {
	return &ports{next: firstPort + pid*block%(lastPort-firstPort)}
}

func (p *ports) addr() string {
	for range lastPort - firstPort {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(p.next))
		if p.next++; p.next == lastPort {
			p.next = firstPort
		}
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	p.err = fmt.Errorf("no free port from %d to %d", firstPort, lastPort)
	return ""
}

// portFree refuses an address that is taken. hint is what else would help.
func portFree(addr, what, hint string) error {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return usageError("%s %s, which another program uses; stop that program (find it with: ss -ltnp) or change the address in the file; %s", what, addr, hint)
	}
	if errors.Is(err, syscall.EACCES) {
		return usageError("%s %s, for which this user has no permission; choose a port above 1023", what, addr)
	}
	if err != nil {
		return usageError("%s %s: %v", what, addr, err)
	}
	return l.Close()
}
