// Command orders is the order service of the example: it prices what customers
// order and shows orders to those who may see them.
package main

import (
	"context"
	"log/slog"
	"net/http"
	"os"

	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/db"
	"github.com/rampart-security/rampart/sdk/db/relations"
	"github.com/rampart-security/rampart/sdk/httpguard"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(context.Background(), log); err != nil {
		log.Error("orders ends", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger) error {
	svc, err := sdk.Connect(ctx)
	if err != nil {
		return err
	}
	store, err := db.Open(ctx, svc, "orders_db")
	if err != nil {
		return err
	}
	defer store.Close()
	viewers, err := relations.Open(ctx, svc, store, log)
	if err != nil {
		return err
	}
	defer viewers.Close()
	h, err := newService(ctx, svc, store, viewers, log)
	if err != nil {
		return err
	}
	return sdk.Serve(ctx, h)
}

// newService prepares the schema and returns the guarded API.
func newService(ctx context.Context, svc *sdk.Service, store *db.DB, viewers *relations.Store, log *slog.Logger) (http.Handler, error) {
	orders := ledger{store, viewers}
	if err := orders.prepare(ctx); err != nil {
		return nil, err
	}
	return httpguard.New(svc).Wrap(api{svc, orders}.routes(log)), nil
}
