package main

import (
	"log/slog"
	"net/http"
	"regexp"
	"time"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/authz"
	"github.com/rampart-security/rampart/sdk/rest"
)

const (
	currency    = "EUR"
	maxItems    = 20
	maxQuantity = 99
)

// api is openapi/orders.yaml.
type api struct {
	svc    *sdk.Service
	orders ledger
}

func (a api) routes(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /orders", rest.Handler(log, a.create))
	mux.Handle("GET /orders", rest.Handler(log, a.list))
	mux.Handle("GET /orders/{id}", rest.Handler(log, a.get))
	mux.Handle("GET /orgs/{org}/orders", rest.Handler(log, a.listOf))
	mux.Handle("PUT /orders/{id}/viewers/{viewer}", rest.Handler(log, a.share))
	mux.Handle("DELETE /orders/{id}/viewers/{viewer}", rest.Handler(log, a.unshare))
	return mux
}

func (a api) create(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Org   string `json:"org"`
		Items []struct {
			SKU      string `json:"sku"`
			Quantity int64  `json:"quantity"`
		} `json:"items"`
	}
	if err := rest.Read(r, &in); err != nil {
		return err
	}
	if len(in.Items) == 0 || len(in.Items) > maxItems {
		return invalid("an order has 1 to %d items", maxItems)
	}
	p := rampart.PrincipalFrom(r.Context())
	now := time.Now()
	o := order{ID: newID(now), Org: in.Org, Owner: p.Subject, Team: p.Team, Currency: currency, Created: now.UTC().Truncate(time.Millisecond)}
	for _, it := range in.Items {
		price, ok := priceOf(it.SKU)
		if !ok {
			return invalid("%q is not in the price list", it.SKU)
		}
		if it.Quantity < 1 || it.Quantity > maxQuantity {
			return invalid("a quantity is 1 to %d", maxQuantity)
		}
		o.Items = append(o.Items, item{it.SKU, it.Quantity, price})
		o.Total += price * it.Quantity // bounded: 20 lines of 99 of the dearest
	}
	if err := authz.Check(r.Context(), a.svc, "orders:create", o.resource()); err != nil {
		return err
	}
	if err := a.orders.add(r.Context(), o); err != nil {
		return err
	}
	return rest.Write(w, http.StatusCreated, o)
}

func (a api) get(w http.ResponseWriter, r *http.Request) error {
	o, err := a.orders.get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if err := authz.Check(r.Context(), a.svc, "orders:read", o.resource()); err != nil {
		return err
	}
	return rest.Write(w, http.StatusOK, o)
}

// list shows orders of all the caller's organizations.
func (a api) list(w http.ResponseWriter, r *http.Request) error {
	return a.show(w, r, "")
}

// listOf shows orders of the organization in the path. That the caller belongs
// to it was decided by the gateway and the sidecar (x-rampart tenant).
func (a api) listOf(w http.ResponseWriter, r *http.Request) error {
	return a.show(w, r, r.PathValue("org"), authz.Of(r.PathValue("org")))
}

// show asks which orders the caller may read, and reads no others.
func (a api) show(w http.ResponseWriter, r *http.Request, org string, opts ...authz.Option) error {
	list, err := authz.Filter(r.Context(), a.svc, "orders:read", "order", opts...)
	if err != nil {
		return err
	}
	some, err := a.orders.visible(r.Context(), list, org)
	if err != nil {
		return err
	}
	body, err := authz.Project(list.Fields, some)
	if err != nil {
		return err
	}
	return rest.Write(w, http.StatusOK, body)
}

func (a api) share(w http.ResponseWriter, r *http.Request) error {
	o, v, err := a.toShare(r)
	if err != nil {
		return err
	}
	if err := a.orders.share(r.Context(), o, rampart.PrincipalFrom(r.Context()).Subject, v, time.Now()); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a api) unshare(w http.ResponseWriter, r *http.Request) error {
	o, v, err := a.toShare(r)
	if err != nil {
		return err
	}
	if err := a.orders.unshare(r.Context(), o, v); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// toShare returns the order and the viewer in the path, when the caller may
// share it.
func (a api) toShare(r *http.Request) (order, viewer, error) {
	v := viewer{r.PathValue("viewer")}
	if !viewerName.MatchString(v.name) {
		return order{}, v, invalid("a viewer is user:NAME or team:NAME")
	}
	o, err := a.orders.get(r.Context(), r.PathValue("id"))
	if err == nil {
		err = authz.Check(r.Context(), a.svc, "orders:share", o.resource())
	}
	return o, v, err
}

var viewerName = regexp.MustCompile(`^(user|team):[a-z0-9][a-z0-9._-]{0,62}$`)

// resource is what policy/orders.rego sees of an order.
func (o order) resource() rampart.Resource {
	return rampart.Resource{
		Type: "order", ID: o.ID, Tenant: o.Org,
		Attrs: map[string]any{"owner": o.Owner, "team_id": o.Team},
	}
}

func invalid(format string, args ...any) error {
	return rest.WithStatus(http.StatusUnprocessableEntity, rampart.Errorf(rampart.Invalid, "", format, args...))
}
