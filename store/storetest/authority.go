package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/store"
)

func certificate(id, serial, root string, end time.Time) store.Certificate {
	return store.Certificate{Issuer: "i1", Serial: serial, Root: root, ID: id, Kind: "renew", Issued: end.Add(-time.Hour), NotAfter: end}
}

func testIssued(t *testing.T, both func(*testing.T) (a, b store.Store)) {
	st, other := both(t)
	ctx, now := t.Context(), when()
	later := now.Add(time.Hour)
	a, b, c := certificate("spiffe://x/service/a", "01", "old", later), certificate("spiffe://x/service/b", "02", "new", later), certificate("spiffe://x/service/c", "03", "old", now)
	must(t, st.PutIssued(ctx, []store.Certificate{b, a, c}))
	if err := other.PutIssued(ctx, []store.Certificate{certificate("d", "04", "old", later), a}); !errors.Is(err, store.ErrExists) {
		t.Errorf("one serial twice: %v, want store.ErrExists", err)
	}
	for name, tc := range map[string]struct {
		root  string
		at    time.Time
		limit int
		want  []store.Certificate
	}{
		"all that live":     {"", now, 10, []store.Certificate{a, b}},
		"of one root":       {"old", now, 10, []store.Certificate{a}},
		"before one's end":  {"old", now.Add(-1), 10, []store.Certificate{a, c}},
		"no more than this": {"", now, 1, []store.Certificate{a}},
		"after all":         {"", later, 10, nil},
	} {
		got, err := other.LiveIssued(ctx, tc.root, tc.at, tc.limit)
		if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v, -want +got\n%s", name, err, diff)
		}
	}
	if n, err := other.CountIssued(ctx, now); err != nil || n != 2 {
		t.Errorf("counted %d, %v; want 2", n, err)
	}
	got, err := other.IssuedSerial(ctx, "i1", "01")
	if diff := cmp.Diff(a, got); err != nil || diff != "" {
		t.Errorf("%v, -want +got\n%s", err, diff)
	}
	if _, err := other.IssuedSerial(ctx, "i2", "01"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another issuer's serial: %v, want store.ErrNotFound", err)
	}
	must(t, st.SweepIssued(ctx, now.Add(24*time.Hour)))
	if _, err := st.IssuedSerial(ctx, "i1", "03"); err != nil {
		t.Errorf("forgotten within the day: %v", err)
	}
	must(t, st.SweepIssued(ctx, now.Add(24*time.Hour+1)))
	if _, err := st.IssuedSerial(ctx, "i1", "03"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("not forgotten after a day: %v", err)
	}
}

func testAcknowledged(t *testing.T, both func(*testing.T) (a, b store.Store)) {
	st, other := both(t)
	ctx := t.Context()
	one := store.Acknowledged{Plane: "sidecar/orders", Instance: "i1", Version: 1, Root: "old", Until: when().Add(time.Hour), Seen: when()}
	two := store.Acknowledged{Plane: "sidecar/orders", Instance: "i2", Seen: when()}
	must(t, st.PutAcknowledged(ctx, one))
	must(t, st.PutAcknowledged(ctx, two))
	one.Version, one.Root, one.Seen = 2, "new", when().Add(time.Second)
	must(t, other.PutAcknowledged(ctx, one))
	got, err := st.AllAcknowledged(ctx)
	if diff := cmp.Diff([]store.Acknowledged{one, two}, got); err != nil || diff != "" {
		t.Errorf("%v, -want +got\n%s", err, diff)
	}
	must(t, st.SweepIssued(ctx, when().Add(24*time.Hour+1)))
	got, err = other.AllAcknowledged(ctx)
	if diff := cmp.Diff([]store.Acknowledged{one}, got); err != nil || diff != "" {
		t.Errorf("after a day: %v, -want +got\n%s", err, diff)
	}
}

func testCertificateRevocations(t *testing.T, both func(*testing.T) (a, b store.Store)) {
	st, other := both(t)
	for _, kind := range []string{wire.RevokedSerial, wire.RevokedIssuer} {
		v, err := st.PutRevocation(t.Context(), wire.Revocation{Kind: kind, ID: "ab.cd", NotBefore: when(), Expires: when().Add(time.Hour)})
		must(t, err)
		got, err := other.RevocationsAfter(t.Context(), v.Seq-1, when())
		if diff := cmp.Diff([]wire.Revocation{v}, got); err != nil || diff != "" {
			t.Errorf("%s: %v, -want +got\n%s", kind, err, diff)
		}
	}
}
