package shed

import (
	"net/netip"
	"sync"
)

// Shares is a Gate of which one network, a /24 or a /64 of IPv6, holds no more
// than its share: who floods it from a few networks turns away their own
// neighbours alone. The zero Shares lets nobody in. Its methods may be called
// concurrently.
type Shares struct {
	gate *Gate
	each int

	mu   sync.Mutex // guards held
	held map[netip.Prefix]int
}

// NewShares returns Shares for limit requests at once, of which each network
// may hold so many.
func NewShares(limit, each int) *Shares {
	return &Shares{gate: New(limit), each: each, held: map[netip.Prefix]int{}}
}

// Enter lets a request of an address in or refuses it, and never waits. Every
// success must be followed by exactly one Leave of the same address. The error
// is of kind Unavailable with Retry-After.
func (s *Shares) Enter(from netip.Addr, p Priority) error {
	n := network(from)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[n] >= s.each {
		return full()
	}
	if err := s.gate.Enter(p); err != nil {
		return err
	}
	s.held[n]++
	return nil
}

// Leave ends a request that entered.
func (s *Shares) Leave(from netip.Addr) {
	n := network(from)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate.Leave()
	if s.held[n]--; s.held[n] <= 0 {
		delete(s.held, n)
	}
}

// network is what one subscriber, or one small site, sends from. No address is
// a network of its own.
func network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 64
	if a.Is4() {
		bits = 24
	}
	return netip.PrefixFrom(a, bits).Masked()
}
