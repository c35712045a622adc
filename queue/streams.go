package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rampart-security/rampart/internal/broker"
	"github.com/rampart-security/rampart/monitor/audit"
	"github.com/rampart-security/rampart/spec"
)

// checkEvery is how long a stream or consumer may be missing, or a dead letter
// be nearly full, before somebody is told.
const checkEvery = 2 * time.Second

// keeper makes the streams and consumers of the file and looks after them, over
// a connection inside the process.
type keeper struct {
	q    *Queue
	js   jetstream.JetStream
	sys  *spec.System // last provisioned
	full bool         // the dead letter was nearly full at the last look
}

func (q *Queue) newKeeper() (k *keeper, end func(), err error) {
	nc, err := nats.Connect("", nats.InProcessServer(q.srv))
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return &keeper{q: q, js: js}, nc.Close, nil
}

// watch looks after everything until ctx ends.
func (k *keeper) watch(ctx context.Context) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := k.check(ctx); err != nil && ctx.Err() == nil {
			k.q.opt.Logger.LogAttrs(ctx, slog.LevelError, "queue", slog.Any("error", err))
		}
	}
}

// first provisions the file at the start, for as long as a broker may take to
// read what it has on disk.
func (k *keeper) first(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	again := time.NewTicker(checkEvery / 4)
	defer again.Stop()
	for {
		err := k.provision(ctx, k.q.opt.Link.State().System)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-again.C:
		}
	}
}

// check provisions a new file, or again what is missing of the current one.
func (k *keeper) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	sys := k.q.opt.Link.State().System
	if sys != k.sys {
		k.q.dropStale(sys)
		return k.provision(ctx, sys)
	}
	missing, err := k.missing(ctx)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		k.tell(ctx, "provision what was missing", missing)
		if err := k.provision(ctx, sys); err != nil {
			return err
		}
	}
	return k.watchDead(ctx)
}

// provision declares what the file says. What exists stays, with its messages.
func (k *keeper) provision(ctx context.Context, sys *spec.System) error {
	store := k.q.opt.Store
	for _, cfg := range k.streams(sys) {
		if _, err := k.js.CreateOrUpdateStream(ctx, cfg); err != nil {
			return fmt.Errorf("stream %s: %w", cfg.Name, k.q.explained(err))
		}
	}
	for _, f := range sys.FlowsFrom(store) {
		_, err := k.js.CreateOrUpdateConsumer(ctx, broker.Stream(store), jetstream.ConsumerConfig{
			Durable: broker.Consumer(f.To, f.Topic), FilterSubject: f.Topic, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: 256,
		})
		if err != nil {
			return fmt.Errorf("consumer of flow %s: %w", f.ID, err)
		}
	}
	k.sys = sys
	return nil
}

// explained says what the broker's refusal for want of storage means: it sets
// the full size of each stream aside, so that no message that it takes finds the
// disk full, and at its start gives all of them three quarters of what is free.
func (q *Queue) explained(err error) error {
	refused, ok := errors.AsType[*jetstream.APIError](err)
	if !ok || refused.ErrorCode != jetstream.ErrorCode(server.JSStorageResourcesExceededErr) {
		return err
	}
	free := "too little"
	var disk syscall.Statfs_t
	if syscall.Statfs(q.opt.Dir, &disk) == nil {
		free = strconv.FormatUint(uint64(disk.Bavail)*uint64(disk.Bsize)>>20, 10) + " MiB"
	}
	need := 2 * q.maxBytes >> 20 // the topics' stream and the dead letters'
	return fmt.Errorf("the disk of %s is too full: %s is free, and the queue needs %d MiB, to set %d MiB aside for messages; make room, or put the state folder on a larger disk with --state: %w",
		q.opt.Dir, free, need/3*4, need, err)
}

// streams are those of the topics and of the dead letters. A full queue takes
// no more messages, so that producers notice. A full dead letter forgets the
// oldest: if it took none, one poisoned message would block all behind it.
func (k *keeper) streams(sys *spec.System) []jetstream.StreamConfig {
	topics := topicsOf(sys, k.q.opt.Store)
	if len(topics) == 0 {
		return nil
	}
	main := jetstream.StreamConfig{Storage: jetstream.FileStorage, MaxBytes: k.q.maxBytes, MaxAge: maxAge}
	dead := main
	main.Name, main.Subjects, main.Discard = broker.Stream(k.q.opt.Store), topics, jetstream.DiscardNew
	dead.Name, dead.Subjects, dead.Discard = broker.DeadStream(k.q.opt.Store), deadLetters(sys, k.q.opt.Store), jetstream.DiscardOld
	return []jetstream.StreamConfig{main, dead}
}

func topicsOf(sys *spec.System, store string) []string {
	var out []string
	for _, f := range sys.FlowsTo(store) {
		if !slices.Contains(out, f.Topic) {
			out = append(out, f.Topic)
		}
	}
	return out
}

func deadLetters(sys *spec.System, store string) []string {
	var out []string
	for _, topic := range topicsOf(sys, store) {
		if d := sys.DeadLetter(store, topic); !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out
}

// missing names the streams and consumers of the file that are not there.
func (k *keeper) missing(ctx context.Context) ([]string, error) {
	var out []string
	for _, cfg := range k.streams(k.sys) {
		_, err := k.js.Stream(ctx, cfg.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			out = append(out, "stream "+cfg.Name)
		} else if err != nil {
			return nil, fmt.Errorf("stream %s: %w", cfg.Name, err)
		}
	}
	for _, f := range k.sys.FlowsFrom(k.q.opt.Store) {
		_, err := k.js.Consumer(ctx, broker.Stream(k.q.opt.Store), broker.Consumer(f.To, f.Topic))
		if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
			out = append(out, "consumer "+broker.Consumer(f.To, f.Topic))
		} else if err != nil {
			return nil, fmt.Errorf("consumer of flow %s: %w", f.ID, err)
		}
	}
	return out, nil
}

func (k *keeper) tell(ctx context.Context, action string, things []string) {
	for _, what := range things {
		k.q.opt.Logger.LogAttrs(ctx, slog.LevelError, action, slog.String("what", what))
		k.q.record(audit.Event{Class: audit.ClassMessage, Action: action, Outcome: audit.Failed, Resource: what})
	}
}

// watchDead tells once when the dead letter passes 90 % of its size.
func (k *keeper) watchDead(ctx context.Context) error {
	if len(k.streams(k.sys)) == 0 {
		return nil
	}
	s, err := k.js.Stream(ctx, broker.DeadStream(k.q.opt.Store))
	if err != nil {
		return fmt.Errorf("dead letter: %w", err)
	}
	state := s.CachedInfo().State
	full := state.Bytes > uint64(k.q.maxBytes)/10*9
	if full && !k.full {
		k.q.opt.Logger.LogAttrs(ctx, slog.LevelError, "the dead letter is nearly full", slog.Uint64("messages", state.Msgs))
		k.q.record(audit.Event{Class: audit.ClassMessage, Action: "dead letter nearly full", Outcome: audit.Failed, Resource: broker.DeadStream(k.q.opt.Store),
			Detail: map[string]string{"messages": strconv.FormatUint(state.Msgs, 10), "bytes": strconv.FormatUint(state.Bytes, 10)}})
	}
	k.full = full
	return nil
}
