package framing

import (
	"sync"
	"time"
)

// deadline is one of the two of a connection. It is told below when somebody is about
// to wait, and at once while somebody waits, not whenever it is set: a server and its
// handlers set it ten times a request, and wait twice.
type deadline struct {
	below func(time.Time) error // sets that of the connection; safe for concurrent use

	mu      sync.Mutex // guards below this line
	at      time.Time
	untold  bool // at is newer than what is set below
	waiting int  // reads or writes under way
}

// set is SetReadDeadline, or SetWriteDeadline. That the connection is closed may only be
// found by who reads or writes next.
func (d *deadline) set(at time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at, d.untold = at, true
	if d.waiting == 0 {
		return nil
	}
	return d.tellLocked()
}

// begin is called before a read or write. After an error, which leaves it without a
// deadline, it must not begin: closed.
func (d *deadline) begin() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.tellLocked(); err != nil {
		return err
	}
	d.waiting++
	return nil
}

// end is called after a read or write that began.
func (d *deadline) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting--
}

func (d *deadline) tellLocked() error {
	if !d.untold {
		return nil
	}
	err := d.below(d.at)
	d.untold = err != nil
	return err
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.reading.set(t); err != nil {
		return err
	}
	return c.writing.set(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.reading.set(t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.writing.set(t) }

// read reads from the connection below, by the deadline.
func (c *Conn) read(p []byte) (int, error) {
	if err := c.reading.begin(); err != nil {
		return 0, err
	}
	defer c.reading.end()
	return c.Conn.Read(p)
}

// write writes to the connection below, by the deadline.
func (c *Conn) write(p []byte) (int, error) {
	if err := c.writing.begin(); err != nil {
		return 0, err
	}
	defer c.writing.end()
	return c.Conn.Write(p)
}
