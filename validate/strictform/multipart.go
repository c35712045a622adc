package strictform

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"mime"
	"strconv"
	"strings"
)

// Part is one part of a multipart form.
type Part struct {
	Name     string
	IsFile   bool   // a file name is given
	Filename string // a plain name, no path
	Type     string // media type in lower case, without parameters; "" if none is given
	Data     []byte // shares memory with the body that it was read from
}

// DecodeMultipart reads a multipart/form-data body, in order. The fields of a
// browser that no file was chosen for (an empty file with an empty name) are
// left out. The error is as that of Decode.
func DecodeMultipart(contentType string, data []byte) ([]Part, error) {
	boundary, err := boundaryOf(contentType)
	if err != nil {
		return nil, refuse(err)
	}
	sections, err := split(data, boundary)
	if err != nil {
		return nil, refuse(err)
	}
	out := make([]Part, 0, len(sections))
	for _, s := range sections {
		p, err := decodePart(s)
		if err != nil {
			return nil, refuse(err)
		}
		if p.IsFile && p.Filename == "" && len(p.Data) == 0 {
			continue
		}
		if p.IsFile && !isFilename(p.Filename) {
			return nil, refuse(&Error{p.Name, "the file name must be a plain one, without a path or special characters"})
		}
		out = append(out, p)
	}
	return out, nil
}

// boundaryOf reads the boundary (RFC 2046, section 5.1.1). A second parameter, or
// one in pieces (RFC 2231), is read differently by different parsers.
func boundaryOf(contentType string) (string, *Error) {
	kind, params, err := mime.ParseMediaType(contentType)
	boundary := params["boundary"]
	if err != nil || kind != "multipart/form-data" || len(params) != 1 || strings.Contains(contentType, "*") {
		return "", &Error{Rule: "the content type must be multipart/form-data with a boundary and nothing else"}
	}
	ok := func(r rune) bool { return isPlain(r) && r != '*' || strings.ContainsRune("'()+,/:=?", r) }
	if len(boundary) < 1 || len(boundary) > 70 || strings.ContainsFunc(boundary, func(r rune) bool { return !ok(r) }) {
		return "", &Error{Rule: "the boundary must have 1 to 70 plain characters"}
	}
	return boundary, nil
}

// split cuts a body into its parts: no preamble, no epilogue, no padding, and
// no delimiter with something after it.
func split(data []byte, boundary string) ([][]byte, *Error) {
	rest, ok := bytes.CutPrefix(data, []byte("--"+boundary))
	if !ok {
		return nil, &Error{Rule: "the body must begin with the boundary"}
	}
	var out [][]byte
	delimiter := []byte("\r\n--" + boundary)
	for {
		if string(rest) == "--" || string(rest) == "--\r\n" {
			return out, nil
		}
		if rest, ok = bytes.CutPrefix(rest, []byte("\r\n")); !ok {
			return nil, &Error{Rule: "the boundary must be followed by a new line or end the form"}
		}
		if len(out) == MaxParts {
			return nil, &Error{Rule: fmt.Sprintf("more than %d parts", MaxParts)}
		}
		part, after, found := bytes.Cut(rest, delimiter)
		if !found {
			return nil, &Error{Rule: "the last boundary is missing"}
		}
		out, rest = append(out, part), after
	}
}

func decodePart(section []byte) (p Part, err *Error) {
	head, _, ok := bytes.Cut(section[:min(len(section), maxPartHeader)], []byte("\r\n\r\n"))
	if !ok {
		return p, &Error{Rule: fmt.Sprintf("the headers of a part must end within %d bytes", maxPartHeader)}
	}
	p.Data = section[len(head)+len("\r\n\r\n"):]
	for line := range strings.SplitSeq(string(head), "\r\n") {
		name, value, ok := strings.Cut(line, ": ")
		switch {
		case !ok || !isText(value) || strings.ContainsFunc(line, isControl):
			err = &Error{p.Name, "a malformed part header"}
		case strings.EqualFold(name, "Content-Disposition") && p.Name == "":
			err = p.disposition(value)
		case strings.EqualFold(name, "Content-Type") && p.Type == "":
			err = p.contentType(value)
		default:
			err = &Error{p.Name, "a part header that is not allowed, or twice"}
		}
		if err != nil {
			return p, err
		}
	}
	if p.Name == "" {
		return p, &Error{Rule: "a part without a name"}
	}
	return p, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// disposition reads form-data; name="..."; filename="...", the one form that RFC
// 7578, section 4.2, has, with quotes and without escapes in them.
func (p *Part) disposition(value string) *Error {
	rest, ok := strings.CutPrefix(value, "form-data; name=")
	if !ok {
		return &Error{Rule: `a part must be form-data; name="NAME"`}
	}
	if p.Name, rest, ok = quoted(rest); !ok || p.Name == "" || len(p.Name) > MaxName {
		return &Error{Rule: "a part's name must be in quotes, without escapes"}
	}
	if rest == "" {
		return nil
	}
	if rest, ok = strings.CutPrefix(rest, "; filename="); !ok {
		return &Error{p.Name, "a part has a name and a file name, and no other parameter"}
	}
	if p.Filename, rest, ok = quoted(rest); !ok || rest != "" {
		return &Error{p.Name, "the file name must be in quotes, without escapes"}
	}
	p.IsFile = true
	return nil
}

// quoted reads a text in quotes from the beginning of s.
func quoted(s string) (text, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		return "", s, false
	}
	text, rest, ok = strings.Cut(s[1:], `"`)
	return text, rest, ok && !strings.Contains(text, `\`)
}

// isFilename accepts what no file system takes for a path, a device, a stream or
// a hidden file, and no shell or page for an order.
func isFilename(s string) bool {
	return s != "" && len(s) <= MaxName && isText(s) && s[0] != '.' && s[len(s)-1] != '.' && strings.TrimSpace(s) == s &&
		!strings.ContainsAny(s, FilenameExcludes) && !strings.ContainsFunc(s, isControl)
}

// FilenameExcludes are the printable characters that no file name has.
const FilenameExcludes = `/\:*?"<>|%&;'$` + "`"

// contentType reads a media type without parameters, but for the character set.
func (p *Part) contentType(value string) *Error {
	kind, params, err := mime.ParseMediaType(value)
	charset, named := params["charset"]
	if err != nil || len(params) > 1 || len(params) == 1 && !named || named && !strings.EqualFold(charset, "utf-8") || strings.Contains(value, "*") {
		return &Error{p.Name, "the part's content type must be a media type, in UTF-8 if it is text"}
	}
	p.Type = kind
	return nil
}

// EncodeMultipart writes parts as DecodeMultipart reads them. The boundary is
// derived from the parts and stands in none of them, whoever wrote them.
func EncodeMultipart(parts []Part) (contentType string, body []byte) {
	boundary := newBoundary(parts)
	size := 0
	for _, p := range parts {
		size += len(p.Data) + len(p.Name) + len(p.Filename) + len(p.Type) + 200
	}
	b := make([]byte, 0, size)
	for _, p := range parts {
		b = append(b, "--"+boundary+"\r\nContent-Disposition: form-data; name=\""+p.Name+`"`...)
		if p.IsFile {
			b = append(b, `; filename="`+p.Filename+`"`...)
		}
		if p.Type != "" {
			b = append(b, "\r\nContent-Type: "+p.Type...)
		}
		b = append(b, "\r\n\r\n"...)
		b = append(b, p.Data...)
		b = append(b, "\r\n"...)
	}
	return "multipart/form-data; boundary=" + boundary, append(b, "--"+boundary+"--\r\n"...)
}

func newBoundary(parts []Part) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p.Data)
	}
	sum := h.Sum(nil)
	for n := 0; ; n++ {
		again := sha256.Sum256(strconv.AppendInt(sum, int64(n), 10))
		boundary := hex.EncodeToString(again[:16])
		if !anyContains(parts, []byte(boundary)) {
			return boundary
		}
	}
}

func anyContains(parts []Part, text []byte) bool {
	for _, p := range parts {
		if bytes.Contains(p.Data, text) {
			return true
		}
	}
	return false
}
