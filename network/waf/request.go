package waf

import (
	"net/http"
	"net/netip"
)

// Where names the part of a request that an argument stands in.
type Where uint8

// The parts, in the words of Coraza's collections: Query is ARGS_GET, Form and
// JSON are ARGS_POST, the others have collections of their own. Path has none:
// rules see path parameters as part of the target.
const (
	Query Where = iota + 1
	Form
	JSON
	Path
	Cookie
	Header
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

// FieldID is the place of a field in the facts that the operation's schema
// gives about it. Zero is unknown: nothing is proved about such a field.
type FieldID int

// Arg is one value that the request carries.
type Arg struct {
	Where Where
	Name  string // decoded; JSON leaves as json.a.b.0, the names that Coraza gives them
	Value string // decoded; of JSON scalars the text that Coraza sees
	Field FieldID
}

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

	// Args holds every argument of query, form and JSON body; Path the
	// parameters of the path. A guide reads them. The engine reads Target and
	// Body instead, so that nothing a guide overlooks escapes the rules.
	Args []Arg
	Path []Arg

	Body     []byte // as forwarded; nil without
	BodyKind BodyKind
	Files    []File // of a multipart body

	// Route is the operation to which exclusions are bound: "METHOD /path" with
	// the path as the document writes it. Empty: no exclusion applies.
	Route string
}
