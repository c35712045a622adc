package authz

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/authz"
	"github.com/rampart-security/rampart/authz/filter"
	"github.com/rampart-security/rampart/internal/agent"
	"github.com/rampart-security/rampart/sdk/db"
	"github.com/rampart-security/rampart/sdk/sdktest"
)

var orders = filter.TableOf(authz.Type{
	Table:   "orders",
	Attrs:   map[string]authz.Attr{"owner": {Kind: authz.KindString}, "note": {Kind: authz.KindString, Optional: true}},
	Columns: map[string]string{"owner": "owner_id", "tenant": "org"},
})

func answerOf(t *testing.T, d rampart.Decision, f filter.Filter) agent.FilterAnswer {
	t.Helper()
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	table, err := json.Marshal(orders)
	if err != nil {
		t.Fatal(err)
	}
	return agent.FilterAnswer{Decision: d, Filter: text, Table: table}
}

func equals(attr, value string) filter.Expr {
	return filter.Cmp{Op: filter.Eq, L: filter.Attr{Name: attr}, R: filter.Lit{Value: value}}
}

// TestFilter: the rows of the query are those that Match takes, and nothing that
// went wrong is a longer list.
func TestFilter(t *testing.T) {
	allowed := rampart.Decision{Effect: rampart.Allow}
	for name, tc := range map[string]struct {
		decision rampart.Decision
		keep     filter.Filter
		want     []string
		refused  bool
	}{
		"one's own":          {allowed, filter.Where(equals("owner", "user:alice")), []string{"1", "2"}, false},
		"with what may lack": {allowed, filter.Where(equals("note", "' OR 1=1 --")), []string{"2"}, false},
		"all":                {allowed, filter.All(), []string{"1", "2", "3"}, false},
		"none":               {allowed, filter.None(), nil, false},
		"nobody is permitted, whatever the filter says": {rampart.Decision{Code: rampart.CodeNoPermit}, filter.All(), nil, false},
		"untranslatable": {rampart.Decision{Code: rampart.CodeUntranslatable}, filter.All(), nil, true},
		"not a member":   {rampart.Decision{Code: rampart.CodeNotMember}, filter.All(), nil, true},
		"an obligation that nobody can carry out": {rampart.Decision{Effect: rampart.Allow, Obligations: []rampart.Obligation{{Type: "custom"}}}, filter.All(), nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			a := &sdktest.Agent{Filter: func(agent.FilterRequest) agent.FilterAnswer { return answerOf(t, tc.decision, tc.keep) }}
			a.Info.Stores = map[string]agent.StoreInfo{"orders_db": {Kind: "sqlite", Path: filepath.Join(t.TempDir(), "o.db"), Pool: 2}}
			svc, ctx := connected(t, a)
			l, err := Filter(ctx, svc, "orders:read", "order")
			if (err != nil) != tc.refused || err != nil && rampart.KindOf(err) != rampart.Denied {
				t.Fatalf("got %v", err)
			}
			d, err := db.Open(ctx, svc, "orders_db")
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if got := rowsOf(t, d, l); !slices.Equal(got, tc.want) {
				t.Errorf("rows %q, want %q", got, tc.want)
			}
		})
	}
}

func rowsOf(t *testing.T, d *db.DB, l List) (out []string) {
	t.Helper()
	table := []db.Step{{SQLite: `CREATE TABLE orders (id TEXT, org TEXT, owner_id TEXT, note TEXT);
		INSERT INTO orders VALUES ('1', 'acme', 'user:alice', NULL), ('2', 'acme', 'user:alice', ''' OR 1=1 --'), ('3', 'acme', 'user:bob', NULL)`}}
	if err := d.Migrate(t.Context(), table); err != nil {
		t.Fatal(err)
	}
	where, args, err := l.SQL(d.Kind(), 2)
	if err != nil {
		t.Fatal(err)
	}
	matched := []string(nil)
	err = d.View(t.Context(), func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(t.Context(), `SELECT id, owner_id, note FROM orders WHERE org = $1 AND `+where+` ORDER BY id`, append([]any{"acme"}, args...)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id, owner string
			var note *string
			if err := rows.Scan(&id, &owner, &note); err != nil {
				return err
			}
			r := rampart.Resource{ID: id, Tenant: "acme", Attrs: map[string]any{"owner": owner}}
			if note != nil {
				r.Attrs["note"] = *note
			}
			if l.Match(r) {
				matched = append(matched, id)
			}
			out = append(out, id)
		}
		return rows.Err()
	})
	if err != nil || !slices.Equal(out, matched) {
		t.Fatalf("the query has %q, of which %q match: %v", out, matched, err)
	}
	return out
}

func TestTheZeroListIsEmpty(t *testing.T) {
	if where, _, err := (List{}).SQL("sqlite", 1); err != nil || !(List{}).IsNone() || (List{}).Match(order) {
		t.Errorf("%q, %v", where, err)
	}
}

// TestListDuties: what a list asks for is done before there is a list, and its
// fields come with it.
func TestListDuties(t *testing.T) {
	d := rampart.Decision{Effect: rampart.Allow, Fields: &rampart.Fields{Mask: []string{"note"}}, Obligations: []rampart.Obligation{{ID: "p", Type: "notification"}}}
	a := &sdktest.Agent{Filter: func(q agent.FilterRequest) agent.FilterAnswer {
		if !slices.Equal(q.Supported, []string{"notification", "step-up"}) {
			t.Errorf("the sidecar is told of %q", q.Supported)
		}
		return answerOf(t, d, filter.All())
	}}
	svc, ctx := connected(t, a)
	var failure error
	told := 0
	tell := Handling("notification", func(context.Context, rampart.Obligation) error { told++; return failure })
	l, err := Filter(ctx, svc, "orders:read", "order", tell)
	if err != nil || told != 1 || l.Fields == nil || !slices.Equal(l.Fields.Mask, []string{"note"}) {
		t.Errorf("got %v, %v, told %d times", l.Fields, err, told)
	}
	failure = errors.New("no mail")
	if l, err = Filter(ctx, svc, "orders:read", "order", tell); err == nil || !l.IsNone() {
		t.Error("a list without what it asks for")
	}
}
