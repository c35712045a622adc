// Command payments is the payment service of the example: it charges orders
// through the processor, books each charge once, and tells the queue.
package main

import (
	"context"
	"log/slog"
	"net/http"
	"os"

	"github.com/rampart-security/rampart/sdk"
	"github.com/rampart-security/rampart/sdk/client"
	"github.com/rampart-security/rampart/sdk/db"
	"github.com/rampart-security/rampart/sdk/httpguard"
	"github.com/rampart-security/rampart/sdk/pii"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(context.Background(), log); err != nil {
		log.Error("payments ends", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger) error {
	svc, err := sdk.Connect(ctx)
	if err != nil {
		return err
	}
	store, err := db.Open(ctx, svc, "payments_db")
	if err != nil {
		return err
	}
	defer store.Close()
	s, err := newService(ctx, svc, store, log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.work(ctx)
	}()
	err = sdk.Serve(ctx, s.handler())
	cancel()
	<-done
	return err
}

// service holds the parts of this process.
type service struct {
	svc    *sdk.Service
	log    *slog.Logger
	out    *client.Client
	ledger *ledger
	outbox *outbox
	cards  processor
}

// newService prepares the schema; nothing runs yet.
func newService(ctx context.Context, svc *sdk.Service, store *db.DB, log *slog.Logger) (*service, error) {
	keys := pii.New(svc)
	out := client.New(svc)
	o := &outbox{db: store, out: out, log: log, wake: make(chan struct{}, 1)}
	rows, err := pii.Bind[payment](keys, item, table)
	if err != nil {
		return nil, err
	}
	l := &ledger{svc: svc, db: store, keys: keys, rows: rows, outbox: o}
	if err := l.prepare(ctx); err != nil {
		return nil, err
	}
	return &service{svc: svc, log: log, out: out, ledger: l, outbox: o, cards: newProcessor(out)}, nil
}

func (s *service) handler() http.Handler {
	return httpguard.New(s.svc).Wrap(s.routes())
}
