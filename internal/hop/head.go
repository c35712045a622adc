package hop

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"strings"
)

const (
	fewFields = 12 // of an answer, whose values have room beside it
	maxFields = 64 // more are net/http's to read
)

// answer is what one exchange leaves behind: all of it in one piece of memory.
type answer struct {
	http.Response
	body   body
	whole  Whole
	values [fewFields]string
}

// plain reads the head of an answer that lies in the buffer, whole, and as nearly
// all are: HTTP/1.1, a final status, names and values of which there is one reading,
// and a body of a length that is given once, or none. Of anything else it takes
// nothing and returns false; that is for net/http, whose reading of what plain reads
// is the same (FuzzHead).
func (a *answer) plain(head []byte, r *http.Request) bool {
	text := string(head)
	line, fields, _ := strings.Cut(text, "\r\n")
	if !a.status(line) || r.Method == http.MethodHead {
		return false
	}
	n := strings.Count(fields, "\r\n")
	if n > maxFields {
		return false
	}
	values := a.values[:]
	if n > len(values) {
		values = make([]string, n)
	}
	a.Header = make(http.Header, n)
	for fields != "" {
		line, fields, _ = strings.Cut(fields, "\r\n")
		name, value, ok := field(line)
		if !ok || !isOrdinary(name) {
			return false
		}
		if had := a.Header[name]; had != nil {
			a.Header[name] = append(had, value)
			continue
		}
		values[0] = value
		a.Header[name], values = values[:1:1], values[1:]
	}
	a.Request = r
	return a.length()
}

// status reads the first line.
func (a *answer) status(line string) bool {
	const proto = "HTTP/1.1"
	if len(line) < len("HTTP/1.1 200") || line[:len(proto)+1] != proto+" " || !isValue(line) {
		return false
	}
	s := line[len(proto)+1:]
	if s[0] < '2' || s[0] > '9' || !isDigits(s[:3]) || len(s) > 3 && s[3] != ' ' {
		return false
	}
	a.Proto, a.ProtoMajor, a.ProtoMinor, a.Status = line[:len(proto)], 1, 1, s
	a.StatusCode = int(s[0]-'0')*100 + int(s[1]-'0')*10 + int(s[2]-'0')
	return true
}

// length settles where the body ends: nowhere but where one Content-Length says.
func (a *answer) length() bool {
	given := a.Header["Content-Length"]
	if a.StatusCode == http.StatusNoContent || a.StatusCode == http.StatusNotModified {
		return given == nil
	}
	if len(given) != 1 || len(given[0]) == 0 || len(given[0]) > 15 || !isDigits(given[0]) {
		return false
	}
	for _, c := range []byte(given[0]) {
		a.ContentLength = a.ContentLength*10 + int64(c-'0')
	}
	return true
}

// isOrdinary reports fields that say nothing of the connection or the framing but
// the length, and that net/http does not edit.
func isOrdinary(name string) bool {
	switch name {
	case "Connection", "Transfer-Encoding", "Trailer", "Pragma":
		return false
	}
	return true
}

// field reads one line, of which there is one reading only.
func field(line string) (name, value string, ok bool) {
	i := strings.IndexByte(line, ':')
	if i <= 0 {
		return "", "", false
	}
	name, ok = canonical(line[:i])
	value = strings.Trim(line[i+1:], " \t")
	return name, value, ok && isValue(value)
}

// canonical is the name as http.Header has it: that itself, as a rule.
func canonical(name string) (string, bool) {
	upper, as := true, true
	for _, c := range []byte(name) {
		switch {
		case 'A' <= c && c <= 'Z':
			as = as && upper
		case 'a' <= c && c <= 'z':
			as = as && !upper
		case '0' <= c && c <= '9' || c == '-':
		default:
			return "", false
		}
		upper = c == '-'
	}
	if as {
		return name, true
	}
	return textproto.CanonicalMIMEHeaderKey(name), true
}

// isValue reports whether s has no byte that could end a line, or that no value has.
func isValue(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func isDigits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// read reads one head, interim ones as well, and with it what has come of the body if
// that is all of it: nobody waits for the connection then any more. body is nil where
// nothing is left to read.
func (c *conn) read(r *http.Request) (res *http.Response, left *body, err error) {
	if _, err := c.in.Peek(1); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, nil, err
	}
	come, _ := c.in.Peek(c.in.Buffered())
	if end := bytes.Index(come, []byte("\r\n\r\n")); end > 0 {
		a := new(answer)
		if a.plain(come[:end+2], r) {
			return &a.Response, c.take(a, come[end+4:], end+4), nil
		}
	}
	res, err = http.ReadResponse(c.in, r)
	if err != nil || res.Body == http.NoBody {
		return res, nil, err
	}
	return res, &body{from: res.Body}, nil
}

// take takes the head off the buffer, and the body if it is there.
func (c *conn) take(a *answer, behind []byte, head int) (left *body) {
	a.Body = http.NoBody
	switch n := int(a.ContentLength); {
	case n > len(behind):
		a.body.left = a.ContentLength
		left = &a.body
	case n > 0:
		a.whole.rest = bytes.Clone(behind[:n])
		a.Body = &a.whole
		head += n
	}
	_, _ = c.in.Discard(head) // all of it is buffered
	return left
}
