package gateway

import (
	"context"
	"log/slog"
	"time"

	"github.com/rampart-security/rampart/network/idempotency"
	idemvalkey "github.com/rampart-security/rampart/network/idempotency/valkey"
	"github.com/rampart-security/rampart/spec"
)

// longestCall is how long a request may go on with the configuration that it began
// under: the longest upstream.timeout, and its lease's margin.
const longestCall = 10*time.Minute + leaseMargin

// sharedKeys are the idempotency keys of gateways that share a load: a retry may meet
// any of them. While their store is away, requests with a key are refused: closed.
type sharedKeys struct {
	store *idemvalkey.Store
	guard *idempotency.Guard
}

// keysFor returns where several gateways keep keys, or nil where there is one gateway:
// its disk is nearer, and nobody else needs them.
func (m *limiters) keysFor(sys *spec.System, opt idemvalkey.Options) (*sharedKeys, error) {
	if sys.Limits.Gateways < 2 {
		return nil, nil
	}
	opt.Prefix, opt.Logger = "rampart:idem:"+sys.Info.Name+":", m.g.opt.Logger
	store, err := idemvalkey.New(opt)
	if err != nil {
		return nil, err
	}
	return &sharedKeys{store, idempotency.NewGuard(store, m.g.opt.Now)}, nil
}

// check has the log say what is wrong with the store before a request needs it.
func (k *sharedKeys) check(sys *spec.System, log *slog.Logger) {
	if k == nil || !keepsKeys(sys) {
		return
	}
	go func() {
		if err := k.store.Check(context.Background()); err != nil {
			log.LogAttrs(context.Background(), slog.LevelWarn, "requests with an idempotency key are refused: their store", slog.Any("error", err))
		}
	}()
}

func keepsKeys(sys *spec.System) bool {
	for _, f := range sys.Flows {
		if f.Idempotency != nil {
			return true
		}
	}
	return false
}

// close lets requests end that hold keys of the store.
func (k *sharedKeys) close() {
	if k != nil {
		time.AfterFunc(longestCall, func() { k.store.Close() })
	}
}

// once returns the guard of the keys of a table.
func (m *limiters) once(store *sharing) *idempotency.Guard {
	if store != nil && store.keys != nil {
		return store.keys.guard
	}
	return m.g.once
}
