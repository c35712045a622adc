// Package jwks answers "which keys does that outside issuer sign with, as of
// now?" It fetches the key sets of issuers that its caller declared, and only
// theirs, so that a key withdrawn by its issuer is not trusted longer than five
// minutes, and nobody who sends tokens can make us fetch more than now and then.
package jwks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authn/jwt"
)

// Bounds on fetching.
const (
	freshFor  = 5 * time.Minute  // a set this old is fetched anew before it is used again
	refreshAt = 4 * time.Minute  // and at this age in the background
	staleFor  = 24 * time.Hour   // while fetching fails, the last set holds this long
	cooldown  = 10 * time.Second // between two fetches for one reason, per issuer
	timeout   = 5 * time.Second  // of one fetch
	maxBody   = 256 << 10        // bytes
	maxURL    = 2048             // bytes

	control = "authn.jwt"
)

// Issuer is an outside issuer that tokens may come from.
type Issuer struct {
	Name       string          // its iss, byte for byte
	URL        string          // its jwks_uri: https, taken from the file or from metadata of the issuer
	Algorithms []jwt.Algorithm // what its tokens may be signed with; see jwt.ParseForeignKeySet
}

// Options configure a Client.
type Options struct {
	Issuers []Issuer         // all there are
	HTTP    *http.Client     // required: goes through the egress guard; redirects are not followed
	Log     *slog.Logger     // required
	Now     func() time.Time // nil: time.Now
}

// Client holds the key sets of the issuers. Safe for concurrent use.
type Client struct {
	http    *http.Client
	log     *slog.Logger
	now     func() time.Time
	issuers map[string]*keys
}

// New returns a client; it fetches nothing yet. It panics when a required
// option is missing, and returns an error for an issuer that cannot be.
func New(opt Options) (*Client, error) {
	if opt.HTTP == nil || opt.Log == nil {
		panic("jwks: New needs an HTTP client and a log")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	guarded := *opt.HTTP
	guarded.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &Client{http: &guarded, log: opt.Log, now: opt.Now, issuers: make(map[string]*keys, len(opt.Issuers))}
	for _, issuer := range opt.Issuers {
		if err := issuer.validate(); err != nil {
			return nil, err
		}
		if c.issuers[issuer.Name] != nil {
			return nil, fmt.Errorf("jwks: issuer %q is declared twice", issuer.Name)
		}
		c.issuers[issuer.Name] = &keys{Issuer: issuer}
	}
	return c, nil
}

func (i Issuer) validate() error {
	u, err := url.Parse(i.URL)
	switch {
	case i.Name == "":
		return errors.New("jwks: issuer needs a name")
	case err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || len(i.URL) > maxURL:
		return fmt.Errorf("jwks: key set of issuer %q must be at an https URL", i.Name)
	case len(i.Algorithms) == 0:
		return fmt.Errorf("jwks: issuer %q needs algorithms", i.Name)
	}
	return nil
}

// Source returns the keys of one issuer for a verifier of its tokens. An
// issuer that is not declared has none.
func (c *Client) Source(issuer string) jwt.KeySource {
	return func(ctx context.Context, kid string) (*jwt.KeySet, error) { return c.Keys(ctx, issuer, kid) }
}

// Keys returns the key set of issuer, fetched anew when it is over 5 min old,
// and when it has no kid, for that may be a new key; each at most once per 10 s.
// It waits for a fetch 5 s at most. Without a set of the last 24 h the answer is
// rampart.Unavailable.
func (c *Client) Keys(ctx context.Context, issuer, kid string) (*jwt.KeySet, error) {
	k := c.issuers[issuer]
	if k == nil {
		return nil, rampart.Errorf(rampart.Unauthenticated, control, "jwks: issuer is not declared")
	}
	now := c.now()
	k.mu.Lock()
	done := c.fetchLocked(ctx, k, k.reasonLocked(now, kid), now)
	k.mu.Unlock()
	if done != nil {
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.set == nil || now.Sub(k.fetched) > staleFor {
		return nil, rampart.Errorf(rampart.Unavailable, control, "jwks: keys of the issuer are not available")
	}
	return k.set, nil
}

// Run refreshes the key sets before they are too old, so that no request has
// to wait. It returns when ctx ends.
func (c *Client) Run(ctx context.Context) {
	tick := time.NewTicker(cooldown)
	defer tick.Stop()
	for {
		c.Refresh(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Refresh fetches every key set that is 4 min old, or not there yet, and waits
// until it has.
func (c *Client) Refresh(ctx context.Context) {
	for _, k := range c.issuers {
		now := c.now()
		k.mu.Lock()
		var done <-chan struct{}
		if k.set == nil || now.Sub(k.fetched) >= refreshAt {
			done = c.fetchLocked(ctx, k, &k.scheduled, now)
		}
		k.mu.Unlock()
		if done != nil {
			<-done
		}
	}
}

// keys is what is known of one issuer's keys.
type keys struct {
	Issuer

	mu      sync.Mutex
	set     *jwt.KeySet   // nil before the first fetch that worked
	fetched time.Time     // when set was
	flight  chan struct{} // closed when the fetch under way ends; nil: none is

	// When a fetch was last begun, by its reason. What strangers can cause has
	// its own budget, or a flood of unknown kids would keep a rotation from us.
	scheduled, unknown time.Time
}

// reasonLocked returns the budget that a fetch would be on; nil: none is due.
func (k *keys) reasonLocked(now time.Time, kid string) *time.Time {
	switch {
	case k.set == nil || now.Sub(k.fetched) >= freshFor:
		return &k.scheduled
	case !k.set.Has(kid):
		return &k.unknown
	}
	return nil
}

// fetchLocked begins a fetch if the budget allows, or joins the one under way.
// It returns what is closed at its end; nil: there is nothing to wait for.
func (c *Client) fetchLocked(ctx context.Context, k *keys, budget *time.Time, now time.Time) <-chan struct{} {
	if budget == nil {
		return nil
	}
	if k.flight != nil {
		return k.flight
	}
	if !budget.IsZero() && now.Sub(*budget) < cooldown {
		return nil
	}
	*budget = now
	done := make(chan struct{})
	k.flight = done
	// Others wait for the same fetch: it must not die with the one request that
	// happened to begin it.
	go c.fetch(context.WithoutCancel(ctx), k, done)
	return done
}

// fetch replaces the key set; a failure keeps the old one.
func (c *Client) fetch(ctx context.Context, k *keys, done chan<- struct{}) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	begun := c.now()
	set, err := c.get(ctx, k.Issuer)
	if err != nil {
		c.log.LogAttrs(ctx, slog.LevelWarn, "keys of an issuer could not be fetched",
			slog.String("issuer", k.Name), slog.Any("err", err))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.set, k.fetched = set, begun
	}
	k.flight = nil
	close(done)
}

func (c *Client) get(ctx context.Context, issuer Issuer) (*jwt.KeySet, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, issuer.URL, nil)
	if err != nil {
		return nil, fmt.Errorf("jwks: %v", err)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("jwks: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("jwks: status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("jwks: read: %v", err)
	}
	return jwt.ParseForeignKeySet(body, issuer.Algorithms...)
}
