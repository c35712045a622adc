package profile

import (
	"crypto/tls"
	"errors"
	"io"
	"time"
)

// Bounds of the answer to who speaks plain HTTP. They hold a place among the
// connections of the peer for a second more, and no turn.
const (
	plainTime  = time.Second // for writing it, and for the peer to read it
	plainBytes = 64 << 10    // of a request that are read so that closing resets nothing
)

// plainAnswer is text and no problem document: who reads it is a person with a
// wrong URL. It names no host, since nothing of the request is believed.
const plainAnswer = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n" +
	"Connection: close\r\nContent-Length: 44\r\n\r\nThis port speaks HTTPS; write https:// here\n"

// answerPlain tells whoever began with a request of HTTP instead of TLS what he
// finds here. It is for the reader only: the handshake has failed, and is refused
// and counted as others are. The caller closes c.
func answerPlain(c *counted, err error) {
	e, ok := errors.AsType[tls.RecordHeaderError](err)
	if !ok || e.Conn == nil || !beginsHTTP(e.RecordHeader) {
		return
	}
	c.SetDeadline(time.Now().Add(plainTime))
	if _, err := io.WriteString(c.Conn, plainAnswer); err != nil {
		return
	}
	// Bytes that nobody read would make Close a reset, which may overtake the answer.
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, c.Conn, plainBytes) // whatever ends it, the connection ends
	}
}

// beginsHTTP reports whether five bytes begin a request of HTTP/1 whose answer may
// have content, which HEAD's may not.
func beginsHTTP(b [5]byte) bool {
	switch string(b[:]) {
	case "GET /", "POST ", "PUT /", "PATCH", "DELET", "OPTIO":
		return true
	}
	return false
}
