// Package broker names what a queue and its clients must call alike.
package broker

import (
	"encoding/hex"
	"strings"
)

// Stream names the stream of a queue.
func Stream(store string) string { return strings.ToUpper(store) }

// DeadStream names the stream of its dead letters.
func DeadStream(store string) string { return Stream(store) + "_DEAD" }

// Consumer names the durable consumer of the flow that brings a topic from a
// queue to a service. It does without the flow's id, which may hold what a
// broker takes for syntax.
func Consumer(service, topic string) string { return plainName(service) + "-" + plainName(topic) }

// plainName writes all but letters and digits as "_" and two hex digits, so
// that different names stay different and none has a dot, star or slash.
func plainName(s string) string {
	var out strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			out.WriteByte(c)
		default:
			out.WriteString("_" + hex.EncodeToString([]byte{c}))
		}
	}
	return out.String()
}

// InboxPrefix is where answers to this identity arrive.
func InboxPrefix(id string) string { return "_INBOX_" + id[strings.LastIndexByte(id, '/')+1:] }
