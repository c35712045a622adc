package queue

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
)

// Inside connects as the queue itself, which may do all.
func Inside(q *Queue) (*nats.Conn, error) { return nats.Connect("", nats.InProcessServer(q.srv)) }

// DropRefused looks at the connections as if it were at.
func DropRefused(q *Queue, at time.Time) { q.dropRefused(q.opt.Link.Source(), at) }

// SetMaxBytes makes the streams of a queue small. Call it before Run.
func SetMaxBytes(q *Queue, n int64) { q.maxBytes = n }

// Provision declares what the file says, once, and closes the queue.
func Provision(ctx context.Context, q *Queue) error {
	defer q.srv.WaitForShutdown()
	defer q.srv.Shutdown()
	k, end, err := q.newKeeper()
	if err != nil {
		return err
	}
	defer end()
	return k.provision(ctx, q.opt.Link.State().System)
}
