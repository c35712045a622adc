package profile

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/fairshare"
	"github.com/rampart-security/rampart/internal/socket"
)

// Bounds of a Listener.
const (
	usualPatience = 5 * time.Second
	defaultConns  = 4096
	fewPerNetwork = 32 // connections that a network may have although others have taken most
	tellsAtOnce   = 64 // refusals of connections over a bound that OnRefuse may be hearing
)

// ListenerOptions bound a Listener.
type ListenerOptions struct {
	// OnRefuse hears of every connection that did not become one: refused
	// handshakes (the error is a *rampart.Error) and connections over a bound.
	// Of NewMTLSListener it also hears of each open connection whose peer is
	// refused since. It is called from many goroutines and holds up only its own
	// connection. If nil, refusals go unheard.
	OnRefuse func(peer net.Addr, err error)
	MaxConns int // open at once; 0 means 4096
	// MaxPerIP bounds those that are open at once from one address, or one /64 of
	// IPv6; 0 means MaxConns. Of a /56 there may be four times as many, of a /48
	// sixteen times: who has one has 256 or 65,536 of /64. All of these shrink as
	// MaxConns fills, as package fairshare says: three of a /48 would hold all
	// otherwise. Not so where MaxPerIP leaves everything to one address.
	MaxPerIP int
	// Patience is how long a handshake may take, with what a hop says before it and
	// the wait for a turn; 0 means 5 s.
	Patience time.Duration
	Now      func() time.Time // of NewMTLSListener: judges dates; nil means time.Now

	// Hop reports whether a peer is a proxy in front, which brings many clients:
	// MaxPerIP does not hold for it. Nil: nobody is.
	Hop func(peer netip.Addr) bool
	// Origin is asked who is behind a hop, before the handshake and within its
	// time, and may read what the hop says there and no byte more. What it returns
	// is the RemoteAddr of the connection from then on, and counted by MaxPerIP; the
	// zero AddrPort leaves it that of the hop. An error closes the connection. Nil:
	// hops say nothing.
	Origin func(conn net.Conn) (netip.AddrPort, error)
}

// Listener hands out TLS connections whose handshake is complete, so that a
// slow or hostile client costs one of a bounded number of goroutines for at
// most 5 s, or Patience, and never holds up Accept. Few handshakes compute at once; who waits
// for its turn waits behind its own network, and whose handshakes wait for the
// client take no turn. Accept returns *tls.Conn, which lets net/http serve HTTP/2.
type Listener struct {
	inner  net.Listener
	config *tls.Config
	opt    ListenerOptions
	judge  *judge // of open connections; nil: nobody is asked who they are
	conns  conns

	ctx    context.Context // ends at Close; handshakes run under it
	cancel context.CancelFunc
	ready  chan net.Conn
	turns  *turns
	tells  chan struct{} // one per refusal that is being told beside Accept
	wg     sync.WaitGroup

	mu    sync.Mutex // guards below, and MaxConns and MaxPerIP of opt
	open  int
	perIP map[netip.Prefix]int
}

// NewListener starts accepting from inner, which it owns from here on. It
// panics if inner or config is nil.
func NewListener(inner net.Listener, config *tls.Config, opt ListenerOptions) *Listener {
	if inner == nil || config == nil {
		panic("profile: NewListener needs a listener and a configuration")
	}
	l := newListener(inner, config, opt)
	l.start()
	return l
}

func newListener(inner net.Listener, config *tls.Config, opt ListenerOptions) *Listener {
	if opt.MaxConns <= 0 {
		opt.MaxConns = defaultConns
	}
	if opt.MaxPerIP <= 0 {
		opt.MaxPerIP = opt.MaxConns
	}
	if opt.Patience <= 0 {
		opt.Patience = usualPatience
	}
	l := &Listener{
		inner:  inner,
		config: watched(config),
		opt:    opt,
		ready:  make(chan net.Conn),
		turns:  usualTurns(),
		tells:  make(chan struct{}, tellsAtOnce),
		perIP:  make(map[netip.Prefix]int),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// SetMax replaces MaxConns and MaxPerIP, for connections that come from now on.
// Both must be positive. Safe for concurrent use.
func (l *Listener) SetMax(conns, perIP int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opt.MaxConns, l.opt.MaxPerIP = conns, perIP
}

func (l *Listener) start() {
	l.wg.Go(l.acceptAll)
	if l.judge != nil {
		l.wg.Go(func() { l.conns.follow(l.ctx, l.judge.src) })
	}
}

// Accept returns the next connection whose handshake succeeded.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.ready:
		return conn, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close stops accepting, breaks off running handshakes and waits for them.
// Connections already handed out live on.
func (l *Listener) Close() error {
	l.cancel()
	err := l.inner.Close()
	l.wg.Wait()
	return err
}

// Addr returns the address of the inner listener.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

func (l *Listener) acceptAll() {
	var pause time.Duration
	for l.ctx.Err() == nil {
		conn, err := l.inner.Accept()
		if errors.Is(err, net.ErrClosed) {
			l.cancel()
			return
		}
		if err != nil { // out of file descriptors, most likely: let some close
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			l.wait(pause)
			continue
		}
		pause = 0
		l.take(conn)
	}
}

func (l *Listener) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.ctx.Done():
	}
}

// take starts the handshake of conn, or closes it. It waits for nobody: the bounds
// on connections bound the goroutines too.
func (l *Listener) take(conn net.Conn) {
	addr := addrOf(conn)
	c := &counted{Conn: socket.Wrap(conn), l: l, at: network(addr)}
	c.hop = l.opt.Hop != nil && l.opt.Hop(addr)
	if err := l.admit(c, addr); err != nil {
		conn.Close()
		l.tell(conn.RemoteAddr(), err)
		return
	}
	l.wg.Go(func() { l.shake(c) })
}

// shake runs one handshake and delivers the connection.
func (l *Listener) shake(c *counted) {
	ctx, cancel := context.WithTimeout(l.ctx, l.opt.Patience)
	defer cancel()
	if err := l.behind(ctx, c); err != nil {
		c.Close()
		l.refused(c.RemoteAddr(), err)
		return
	}
	peer, config := l.watch(c)
	conn := tls.Server(c, config)
	c.shaking = ctx
	err := conn.HandshakeContext(ctx)
	c.shaken()
	if err != nil {
		answerPlain(c, err)
		c.Close()
		if l.ctx.Err() == nil {
			l.refused(c.RemoteAddr(), l.classify(err, conn.ConnectionState(), c))
		}
		return
	}
	if peer != nil && !l.keep(peer, conn, c) {
		return
	}
	select {
	case l.ready <- conn:
	case <-l.ctx.Done():
		c.Close()
	}
}

// behind learns who is behind a hop, and counts it in.
func (l *Listener) behind(ctx context.Context, c *counted) error {
	if !c.hop || l.opt.Origin == nil {
		return nil
	}
	cut := context.AfterFunc(ctx, func() { c.Conn.Close() })
	from, err := l.opt.Origin(c.Conn)
	if !cut() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil || !from.IsValid() {
		return err
	}
	c.from = net.TCPAddrFromAddrPort(from)
	return l.seat(c, from.Addr())
}

// watch returns what will remember the peer of c, and the configuration by which
// it is found out; nil and the listener's own where nobody is asked.
func (l *Listener) watch(c *counted) (*peerConn, *tls.Config) {
	if l.judge == nil {
		return nil, l.config
	}
	p := &peerConn{judge: l.judge, raw: c, heard: l.refused}
	return p, p.watching(l.config)
}

// keep remembers the peer for as long as the connection is open. An epoch may
// have begun during the handshake, when nobody could find the connection yet.
func (l *Listener) keep(p *peerConn, conn *tls.Conn, c *counted) bool {
	p.begin(conn)
	l.conns.add(p)
	c.forget(func() { l.conns.remove(p) })
	if p.recheck() != nil {
		c.Close()
		return false
	}
	return true
}

func (l *Listener) refused(peer net.Addr, err error) {
	if l.opt.OnRefuse != nil {
		l.opt.OnRefuse(peer, err)
	}
}

// tell is refused for a connection that has no goroutine. Whoever hears of it may
// wait for a disk, and those who come next must not: they wait only once so many
// refusals are untold that telling none of them would be the other choice.
func (l *Listener) tell(peer net.Addr, err error) {
	select {
	case l.tells <- struct{}{}:
		l.wg.Go(func() {
			l.refused(peer, err)
			<-l.tells
		})
	default:
		l.refused(peer, err)
	}
}

// admit counts a connection in, within the bounds. One from a hop has its place
// among those of its address when that is known.
func (l *Listener) admit(c *counted, addr netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.opt.MaxConns {
		return rampart.Errorf(rampart.Unavailable, "limit.ip", "tls: more than %d connections are open", l.opt.MaxConns)
	}
	if !c.hop {
		if err := l.seatLocked(c, addr); err != nil {
			return err
		}
	}
	l.open++
	return nil
}

func (l *Listener) seat(c *counted, addr netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seatLocked(c, addr)
}

// seatLocked counts c among those of its address and of the networks around it.
// Each may have four times as many as the one within, and none more than its share.
func (l *Listener) seatLocked(c *counted, addr netip.Addr) error {
	at := network(addr)
	most, share := l.opt.MaxPerIP, l.opt.MaxConns
	if most < share {
		share = int(fairshare.Of(int64(l.opt.MaxConns), int64(l.open), fewPerNetwork))
	}
	for _, bits := range widths(at) {
		if l.perIP[around(at, bits)] >= min(most, share) {
			return rampart.Errorf(rampart.Limited, "limit.ip", "tls: more than %d connections are open from one address", min(most, share))
		}
		most *= 4
	}
	c.seated, c.at = true, at
	for _, bits := range widths(at) {
		l.perIP[around(at, bits)]++
	}
	return nil
}

func (l *Listener) leave(c *counted) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if !c.seated {
		return
	}
	for _, bits := range widths(c.at) {
		p := around(c.at, bits)
		if l.perIP[p]--; l.perIP[p] == 0 {
			delete(l.perIP, p)
		}
	}
}

// network is what is counted as one: an address of IPv4, and 64 bits of IPv6,
// which a single host owns at least.
func network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		return a
	}
	return around(a, 64).Addr()
}

// widths are the networks that a connection counts for, in bits. Providers give a
// site 56 bits of IPv6 or 48.
func widths(a netip.Addr) []int {
	if !a.Is6() {
		return []int{32}
	}
	return []int{64, 56, 48}
}

// around is the network of so many bits that a is in; of no address none.
func around(a netip.Addr, bits int) netip.Prefix {
	return netip.PrefixFrom(a, bits).Masked()
}

// addrOf returns the client's address, or the zero Addr on other networks
// than TCP, where all clients count as one.
func addrOf(conn net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// watched returns config with callbacks that note how far a handshake came:
// the standard library's own refusals, sent with the right alerts, cannot be
// told apart by type. It never answers with another configuration, for that
// would share ticket keys.
//
// A handshake has its first turn once the whole ClientHello is there, before
// anything that costs. It has none while a certificate is looked for, which may
// wait for a disk or for the control plane.
func watched(config *tls.Config) *tls.Config {
	config = config.Clone()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if c, ok := hello.Conn.(*counted); ok {
			c.hello.Store(true)
			c.modern.Store(slices.Contains(hello.SupportedVersions, tls.VersionTLS13))
			return nil, c.compute()
		}
		return nil, nil
	}
	get := config.GetCertificate
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, ok := hello.Conn.(*counted)
		if ok {
			c.agreed.Store(true)
		}
		if get == nil {
			return nil, nil // falls back to config.Certificates
		}
		if !ok {
			return get(hello)
		}
		c.pause()
		cert, err := get(hello)
		if again := c.compute(); err == nil {
			err = again
		}
		return cert, err
	}
	return config
}

// classify gives a failed handshake its control. Failures that are no refusal
// of ours (the client went away, or refused us) name none.
func (l *Listener) classify(err error, cs tls.ConnectionState, c *counted) error {
	if e, ok := errors.AsType[*rampart.Error](err); ok {
		return e
	}
	e := rampart.Errorf(rampart.Unauthenticated, "", "tls: handshake failed")
	e.Err = err
	_, plain := errors.AsType[tls.RecordHeaderError](err)
	_, network := errors.AsType[net.Error](err)
	gone := network || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	switch {
	case plain:
		e.Control, e.Msg = controlVersion, "tls: the peer does not speak TLS"
	case c.hello.Load() && !c.modern.Load():
		e.Control, e.Msg = controlVersion, "tls: the peer does not offer TLS 1.3"
	case !gone && c.agreed.Load() && l.config.ClientAuth == tls.RequireAnyClientCert && len(cs.PeerCertificates) == 0:
		e.Control, e.Msg = controlMTLS, "tls: the peer shows no certificate"
	}
	return e
}
