package wire

import "time"

// Bounds of what a heartbeat says of a gateway's health.
const (
	MaxHealth     = 32 // services
	MaxHealthName = 64 // bytes of a name
)

// EdgeHealth is how a gateway fares with what stands behind it.
type EdgeHealth struct {
	Services []ServiceHealth `json:"services,omitempty"` // those that are not asked as usual, by name; at most MaxHealth
	More     int             `json:"more,omitempty"`     // of them, beyond MaxHealth
	Store    *StoreHealth    `json:"store,omitempty"`    // of limits; nil: this gateway counts for itself
}

// ServiceHealth is a service whose breaker is open, or that is at its limit.
type ServiceHealth struct {
	Name    string    `json:"name"`
	Open    time.Time `json:"open,omitzero"`      // since when the breaker is open, by the gateway's clock; zero: it is closed
	AtLimit bool      `json:"at_limit,omitempty"` // requests, perhaps only of low priority, were refused in the last ten seconds because no more may be in flight
	Limit   int       `json:"limit,omitempty"`    // how many may be, as measured
}

// StoreHealth is the store in which gateways count limits together.
type StoreHealth struct {
	Away  time.Time `json:"away,omitzero"` // since when it does not answer, by the gateway's clock; zero: it answers
	Alone bool      `json:"alone"`         // this gateway admits its share of each limit: the store is away, or back for less than three seconds
}
