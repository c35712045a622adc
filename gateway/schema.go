package gateway

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
	"github.com/rampart-security/rampart/network/canonical"
	"github.com/rampart-security/rampart/validate/strictjson"
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
	if err := limitBody(c, limit); err != nil {
		return err
	}
	if c.r.Header.Get("Content-Encoding") != "" {
		return unsupported("the body must come without content encoding")
	}
	ct, _, _ := strings.Cut(c.r.Header.Get("Content-Type"), ";")
	if c.r.ContentLength != 0 && c.target.api != nil && !strings.EqualFold(strings.TrimSpace(ct), "application/json") {
		return unsupported("the body must be application/json")
	}
	return nil
}

// limitBody refuses a body that is announced too long, and ends one that turns
// out so.
func limitBody(c *call, limit int64) error {
	if c.r.ContentLength > limit {
		return tooLarge(limit)
	}
	if !c.read {
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
	if c.read {
		return nil
	}
	raw, err := readAll(c.r)
	if err != nil {
		return bodyError(err)
	}
	c.body, c.hasBody, c.read = raw, len(raw) > 0, true
	return nil
}

// readAll reads the body, in one piece when its length is announced. The limit
// is that of the caps.
func readAll(r *http.Request) ([]byte, error) {
	if r.ContentLength < 0 {
		return io.ReadAll(r.Body)
	}
	b := make([]byte, r.ContentLength)
	_, err := io.ReadFull(r.Body, b)
	return b, err
}

// schema is structural validation: the OpenAPI document is the whole of what
// is accepted.
type schema struct{}

func (schema) check(c *call) error {
	if c.op == nil {
		return nil
	}
	var doc any
	if c.hasBody {
		v, err := decode(c)
		if err != nil {
			return err
		}
		doc = v
	}
	return c.op.Check(c.params, c.r.URL.Query(), c.r.Header, doc)
}

// decode reads the body strictly and has it forwarded as it was read, so that
// no second parser can find something else in it.
func decode(c *call) (any, error) {
	if c.table.sys.Off("validate.json") {
		var v any
		d := json.NewDecoder(bytes.NewReader(c.body))
		d.UseNumber()
		err := d.Decode(&v)
		return v, err
	}
	v, err := strictjson.Decode(c.body)
	if err != nil {
		return nil, &rampart.Error{Kind: rampart.Invalid, Control: "validate.json", Msg: err.Error()}
	}
	c.body, err = strictjson.Encode(v)
	return v, err
}
