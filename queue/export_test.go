package queue

import (
	"time"

	"github.com/nats-io/nats.go"
)

// Inside connects as the queue itself, which may do all.
func Inside(q *Queue) (*nats.Conn, error) { return nats.Connect("", nats.InProcessServer(q.srv)) }

// DropRefused looks at the connections as if it were at.
func DropRefused(q *Queue, at time.Time) { q.dropRefused(q.opt.Link.Source(), at) }

// SetMaxBytes makes the streams of a queue small. Call it before Run.
func SetMaxBytes(q *Queue, n int64) { q.maxBytes = n }
