package control_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
)

// TestBans: what gateways say of bans is kept within bounds and shown; nobody else
// has any. A lift is on record, and says which gateways carried it out.
func TestBans(t *testing.T) {
	h := open(t, "")
	beat := func(as, plane string, forgot uint64, list ...wire.Ban) {
		t.Helper()
		must(t, h.call(as, http.MethodPost, wire.PathHeartbeat, wire.Heartbeat{Plane: plane, Instance: "i", Forgot: forgot, Bans: wire.Bans{InForce: len(list), List: list}}, nil))
	}
	until := h.now().Add(time.Hour).UTC()
	many := []wire.Ban{{Addr: "192.0.2.7" + strings.Repeat("x", 100), Step: 2, Until: until, Away: 9}}
	for i := range 2 * wire.MaxBans {
		many = append(many, wire.Ban{Addr: fmt.Sprintf("198.51.100.%d", i%256), Until: until})
	}
	beat("gateway/edge", "gateway/edge", 0, many...)
	beat("service/orders", "sidecar/orders", 0, many...)
	var got []wire.GatewayBans
	must(t, h.admin(http.MethodGet, wire.AdminBans, nil, &got))
	if len(got) != 1 || got[0].Plane != "gateway/edge" || got[0].InForce != len(many) || len(got[0].List) != wire.MaxBans {
		t.Fatalf("%d gateways, %+v", len(got), got)
	}
	if diff := cmp.Diff(wire.Ban{Addr: many[0].Addr[:64], Step: 2, Until: until, Away: 9}, got[0].List[0]); diff != "" {
		t.Error(diff)
	}
	for addr, ok := range map[string]bool{
		"192.0.2.7": true, "2001:db8::1": true, "2001:db8::/64": true, "2001:db8::/48": true, "*": true, "::ffff:192.0.2.7": true,
		"": false, "everybody": false, "192.0.2.0/24": false, "2001:db8::/32": false, "2001:db8::1/64": false, "fe80::1%eth0": false, "192.0.2.7/32": false,
	} {
		done := make(chan wire.Lifted, 1)
		go func() {
			var v wire.Lifted
			err := h.admin(http.MethodPost, wire.AdminBans, wire.Lift{Addr: addr}, &v)
			if ok != (err == nil) || !ok && statusOf(err) != http.StatusBadRequest {
				t.Errorf("%q: %v, want it taken: %v", addr, err, ok)
			}
			done <- v
		}()
		var v wire.Lifted
		for waits := true; waits; {
			select {
			case v = <-done:
				waits = false
			case <-time.After(100 * time.Millisecond):
				beat("gateway/edge", "gateway/edge", 1<<40)
			}
		}
		v.Unbanned = false // see TestLiftOfNobody
		if diff := cmp.Diff(wire.Lifted{Gateways: []string{"gateway/edge"}}, v); ok && diff != "" {
			t.Errorf("%q: %s", addr, diff)
		}
		if ok {
			h.wantEvent("ban.lift", audit.Allowed, "limit.ban", "")
			continue
		}
		h.wantEvent("ban.lift", audit.Refused, "limit.ban", "")
	}
}

// TestLiftOfNobody: a slip of the pen is told from a ban that ended. What a gateway
// did not name counts as banned.
func TestLiftOfNobody(t *testing.T) {
	list := func(addrs ...string) (out []wire.Ban) {
		for _, a := range addrs {
			out = append(out, wire.Ban{Addr: a})
		}
		return out
	}
	for name, tc := range map[string]struct {
		bans     wire.Bans
		lift     string
		unbanned bool
	}{
		"another address":           {wire.Bans{InForce: 1, List: list("192.0.2.7")}, "192.0.2.8", true},
		"the address":               {wire.Bans{InForce: 1, List: list("192.0.2.7")}, "192.0.2.7", false},
		"written as of IPv6":        {wire.Bans{InForce: 1, List: list("192.0.2.7")}, "::ffff:192.0.2.7", false},
		"in a network":              {wire.Bans{InForce: 1, List: list("2001:db8::/56")}, "2001:db8::1", false},
		"a network around":          {wire.Bans{InForce: 1, List: list("2001:db8::/64")}, "2001:db8::/48", false},
		"one that nobody can parse": {wire.Bans{InForce: 1, List: list("x")}, "192.0.2.7", true},
		"not all are named":         {wire.Bans{InForce: 2, List: list("192.0.2.7")}, "192.0.2.8", false},
		"everybody":                 {wire.Bans{InForce: 1, List: list("192.0.2.7")}, "*", false},
		"everybody, of none":        {wire.Bans{}, "*", true},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, "")
			// it says at once that it has carried out all that is to come
			must(t, h.call("gateway/edge", http.MethodPost, wire.PathHeartbeat, wire.Heartbeat{Plane: "gateway/edge", Instance: "i", Forgot: 1 << 40, Bans: tc.bans}, nil))
			var v wire.Lifted
			must(t, h.admin(http.MethodPost, wire.AdminBans, wire.Lift{Addr: tc.lift}, &v))
			if diff := cmp.Diff(wire.Lifted{Gateways: []string{"gateway/edge"}, Unbanned: tc.unbanned}, v); diff != "" {
				t.Error(diff)
			}
		})
	}
}
