package gateway

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/url"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/network/canonical"
	"github.com/rampart-security/rampart/spec"
	"github.com/rampart-security/rampart/validate/openapi"
)

// caps judges what the headers announce, before a byte of body is read.
type caps struct{}

func (caps) check(c *call) error {
	if err := canonical.Body(c.r, c.op != nil && c.op.Body); err != nil {
		return err
	}
	limit := int64(c.target.flow.Validate.MaxBody)
	if c.table.sys.Off("validate.max_body") {
		limit = 64 << 20
	}
	c.limit = limit
	if c.grpc {
		return c.acceptsCall() // limit is for each message
	}
	if err := limitBody(c, limit); err != nil {
		return err
	}
	if err := encoded(c); err != nil {
		return err
	}
	if c.op == nil || c.r.ContentLength == 0 || c.table.sys.Off("validate.openapi") {
		return nil
	}
	return c.op.Accepts(first(c.r.Header["Content-Type"]), c.readOptions())
}

// takeGzip notes that a body comes compressed in the one way that an operation
// may let in, before the head is judged: all other codings are refused there.
func takeGzip(c *call) {
	if v := c.r.Header["Content-Encoding"]; len(v) == 1 && v[0] == "gzip" && !isPublic(c.r.URL.Path) {
		delete(c.r.Header, "Content-Encoding")
		c.gzip = true
	}
}

// encoded admits a compressed body where the operation does.
func encoded(c *call) error {
	if !c.gzip || c.op != nil && c.op.Gzip {
		return nil
	}
	c.w.Header().Set("Accept-Encoding", "identity") // RFC 9110, section 12.5.3
	return unsupported("the body must come without content encoding")
}

// readOptions are what this flow lets pass unread.
func (c *call) readOptions() openapi.ReadOptions {
	return openapi.ReadOptions{Opaque: c.target.flow.Validate.Opaque, Loose: c.table.sys.Off("validate.json")}
}

// limitBody refuses a body that is announced too long, and ends one that turns
// out so.
func limitBody(c *call, limit int64) error {
	if c.r.ContentLength > limit {
		return tooLarge(limit)
	}
	if !c.read && c.r.ContentLength < 0 { // else it ends with its length, and that is no more
		c.r.Body = http.MaxBytesReader(c.w, c.r.Body, limit)
	}
	return nil
}

func unsupported(msg string) error {
	return &problem.Details{Status: http.StatusUnsupportedMediaType, Err: rampart.Errorf(rampart.Invalid, "validate.openapi", "%s", msg)}
}

func tooLarge(limit int64) error {
	return &problem.Details{Status: http.StatusRequestEntityTooLarge, Err: rampart.Errorf(rampart.Invalid, "validate.max_body", "the body may have at most %d bytes", limit)}
}

// body reads the caller's bytes, now that it has earned it, and settles what
// they say: the value checked is the value forwarded.
type body struct{}

func (body) check(c *call) error {
	if c.read || c.grpc {
		return nil
	}
	raw, err := readAll(c.r)
	if err != nil {
		return bodyError(err)
	}
	c.read = true
	if c.gzip {
		if raw, err = gunzip(raw, c.limit); err != nil {
			return err
		}
	}
	c.body, c.hasBody = raw, len(raw) > 0
	return nil
}

// gunzip expands a body to at most limit bytes: a bomb goes off no further than
// an honest body reaches. One member, and nothing behind it; the service gets
// the body expanded.
func gunzip(raw []byte, limit int64) ([]byte, error) {
	broken := rampart.Errorf(rampart.Invalid, "validate.max_body", "the body is not gzip as RFC 1952 has it, in one member")
	from := bytes.NewReader(raw)
	z, err := gzip.NewReader(from)
	if err != nil {
		return nil, broken
	}
	z.Multistream(false)
	out, err := io.ReadAll(io.LimitReader(z, limit+1))
	switch {
	case int64(len(out)) > limit:
		return nil, tooLarge(limit)
	case err != nil || from.Len() > 0:
		return nil, broken
	}
	return out, nil
}

// firstPiece is what a body gets before any of it has come.
const firstPiece = 4 << 10

// readAll reads the body, in one piece when its announced length is short. A longer
// one gets room as it comes: what is announced costs nothing, and no more than four
// times what was sent is held. The limit is that of the caps.
func readAll(r *http.Request) ([]byte, error) {
	if r.ContentLength < 0 {
		return io.ReadAll(r.Body)
	}
	whole := int(r.ContentLength)
	b := make([]byte, min(whole, firstPiece))
	for have := 0; ; {
		n, err := io.ReadFull(r.Body, b[have:])
		if have += n; err != nil || have == whole {
			return b[:have], err
		}
		longer := make([]byte, min(whole, 4*len(b)))
		copy(longer, b)
		b = longer
	}
}

// schema is structural validation: the OpenAPI document is the whole of what
// is accepted.
type schema struct{}

func (schema) check(c *call) error {
	if c.op == nil {
		return nil
	}
	if c.grpc {
		c.doc = openapi.Opaque(spec.OpaqueGRPC) // nobody reads it
	}
	off := c.table.sys.Off("validate.openapi") // a body has one reading all the same
	if c.hasBody {
		opt := c.readOptions()
		opt.Judge = true // the body is this call's own
		b, err := c.op.Read(first(c.r.Header["Content-Type"]), c.body, opt)
		switch {
		case err == nil:
			// What was read is what is forwarded: no second parser can find something
			// else in it.
			c.doc, c.body = b.Doc, b.Raw
			if had := c.r.Header["Content-Type"]; len(had) != 1 || had[0] != b.Type {
				c.r.Header["Content-Type"] = []string{b.Type}
			}
		case !off || controlOf(err, "") == "validate.json":
			return err
		}
	}
	if off {
		return nil
	}
	var query url.Values
	if c.r.URL.RawQuery != "" {
		query = c.r.URL.Query()
	}
	return c.op.Check(c.params, query, c.r.Header, c.doc)
}
