package waf

import (
	"bytes"
	"net/http"
	"net/netip"
	"strings"
)

// BodyKind is what the body is, as the stage settled it before the rules.
type BodyKind uint8

// The zero BodyKind is no body at all. Opaque is what nobody parses: an upload
// or an undeclared type; rules see its raw bytes.
const (
	NoBody BodyKind = iota
	JSONBody
	FormBody
	MultipartBody
	OpaqueBody
)

// PathPrefix begins the name of a path parameter, as json. begins that of a
// member of the body. The names are the document's, not the client's: bare,
// some of them (id, who) would be commands to the rules.
const PathPrefix = "path."

// Arg is a value with its name. Rules find it among ARGS.
type Arg struct{ Name, Value string }

// File is one part of a multipart body that has a file name.
type File struct {
	Field, Name, ContentType string
}

// Request is what the rules look at: the values that will be forwarded, and no
// others. An Engine reads it and keeps nothing of it.
type Request struct {
	Client netip.Addr

	Method string
	Target string // canonical path and raw query, as forwarded
	Proto  string // HTTP/1.1, HTTP/2.0; empty: HTTP/1.1
	Host   string

	// Header is what the rules may see. The stage leaves out credentials that
	// were verified, so that no rule, score or event can come to hold them.
	Header http.Header

	Path []Arg // the parameters of the path, decoded; their names begin with PathPrefix

	// Body is as forwarded; nil without. The rules read it, not what another
	// parser made of it: what that overlooked would escape them.
	Body     []byte
	BodyKind BodyKind
	Files    []File // of a multipart body; a guide reads them

	// Route is the operation to which exclusions are bound: "METHOD /path" with
	// the path as the document writes it. Empty: no exclusion applies.
	Route string
}

// misnamed reports a body that Coraza takes for XML and that is none. Coraza reads it
// without a complaint and finds nothing in it, while a service that goes by what
// comes may find JSON, or a form. A body that the stage takes for one of these is
// read as such, whatever its type is called: see mediaType.
func (r *Request) misnamed() bool {
	kind := strings.ToLower(r.Header.Get("Content-Type"))
	if len(r.Header["Content-Type"]) == 1 {
		kind = strings.ToLower(mediaType(r.BodyKind, kind))
	}
	xml := strings.HasPrefix(kind, "text/xml") || strings.HasPrefix(kind, "application/xml") || strings.HasPrefix(kind, "application/soap+xml")
	return xml && len(r.Body) > 0 && !bytes.HasPrefix(bytes.TrimLeft(r.Body, " \t\r\n"), []byte("<"))
}
