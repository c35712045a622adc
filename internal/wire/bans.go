package wire

import "time"

// AdminBans is the path of the admin socket for bans: GET -> []GatewayBans, what
// each gateway said last; POST Lift (Addr; the control plane chooses ID) -> Lifted.
const AdminBans = "/admin/bans"

// MaxBans bounds what a heartbeat says of bans, and MaxLifts what a Forget does.
const (
	MaxBans  = 200
	MaxLifts = 100
)

// Bans are who a gateway turns away.
type Bans struct {
	InForce int   `json:"in_force"`       // how many there are
	List    []Ban `json:"list,omitempty"` // those that end last, at most MaxBans
}

// Ban is the time away of one address, or of one network of IPv6.
type Ban struct {
	Addr  string    `json:"addr"`  // "192.0.2.7", "2001:db8::/64"; a wider one: "2001:db8::/56", "2001:db8::/48"
	Step  int       `json:"step"`  // of the ladder: 1 is the first ban
	Until time.Time `json:"until"` // by the gateway's clock
	Away  uint64    `json:"away"`  // how often it was turned away so far
}

// Lift ends the bans of an address, and forgets what led to them. Every gateway
// carries it out once; the network of an address counts as the address does.
type Lift struct {
	ID   string `json:"id"`   // random: a stream that begins anew repeats it, and it must not end a later ban
	Addr string `json:"addr"` // an address, or a network as Ban.Addr has it; "*": everybody
}

// GatewayBans are the bans of one gateway.
type GatewayBans struct {
	Plane string `json:"plane"` // "gateway/edge"
	Bans
	SeenSeconds float64 `json:"seen_seconds"` // age of the heartbeat that said so
}

// Lifted says what a Lift did.
type Lifted struct {
	Gateways []string `json:"gateways"`          // that carried it out
	Waiting  []string `json:"waiting,omitempty"` // that did not say so in time; they do so when they hear of it

	// Unbanned says that no gateway turned such an address away, as each said last:
	// nothing was lifted but what might have led to a ban.
	Unbanned bool `json:"unbanned,omitempty"`
}
