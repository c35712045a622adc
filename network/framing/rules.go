package framing

import (
	"net/http"
	"strconv"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/internal/problem"
)

// Rule names one way in which HTTP/1 bytes are refused. The numbers are stable:
// they stand in audit events. The zero Rule refuses nothing.
type Rule uint8

// The rules, with the clause that a request breaks. Numbers that are missing are
// judged from the parsed request, by package canonical and the stages of a plane,
// since HTTP/2 can break them too.
const (
	LengthAndCoding Rule = 1  // Content-Length beside Transfer-Encoding: RFC 9112 section 6.1
	CodingOn10      Rule = 2  // Transfer-Encoding in HTTP/1.0: RFC 9112 section 6.1
	BothOn10        Rule = 3  // the same beside a Content-Length
	LengthTwice     Rule = 4  // RFC 9112 section 6.3 lets equal ones pass; we do not
	LengthZeros     Rule = 5  // Content-Length with leading zeros
	Fold            Rule = 6  // obs-fold: RFC 9112 section 5.2
	BareLF          Rule = 7  // a line of the head without CR: RFC 9112 section 2.2
	BareLFTrailer   Rule = 8  // the same where trailers end: RFC 9112 section 7.1
	ChunkExtension  Rule = 9  // RFC 9112 section 7.1.1; no use at an edge
	ChunkPadding    Rule = 10 // spaces or zeros around a chunk's size, or more than 8 digits
	Trailers        Rule = 11 // RFC 9112 section 7.1.2; no operation declares any
	Version         Rule = 12 // neither HTTP/1.0 nor HTTP/1.1: RFC 9112 section 2.3
	Absolute        Rule = 14 // absolute-form: RFC 9112 section 3.2.2
	AuthorityForm   Rule = 15 // CONNECT and "*": RFC 9112 sections 3.2.3 and 3.2.4
	Preface         Rule = 16 // PRI * HTTP/2.0 as a request: RFC 9113 section 3.4
	Host            Rule = 17 // missing, repeated, empty, or no host[:port]: RFC 9112 section 3.2
	Underscore      Rule = 18 // a name with "_", which CGI takes for "-"
	Target          Rule = 21 // bytes or escapes that are of no URI: RFC 3986 section 2
	Query           Rule = 22 // the same in the query
	RequestLine     Rule = 26 // not METHOD SP TARGET SP VERSION: RFC 9112 section 3
	EmptyLine       Rule = 27 // before a request: RFC 9112 section 2.2
	FieldLine       Rule = 28 // no name, no colon, or space before it: RFC 9112 section 5.1
	FieldValue      Rule = 29 // control characters: RFC 9110 section 5.5
	Length          Rule = 30 // Content-Length that is no number: RFC 9112 section 6.3
	Coding          Rule = 31 // Transfer-Encoding other than chunked, once: RFC 9112 section 6.1
	ChunkLine       Rule = 32 // a chunk's size that is none, or data that do not end: RFC 9112 section 7.1
	Expectation     Rule = 33 // other than 100-continue: RFC 9110 section 10.1.1
	HeadTooLong     Rule = 34 // RFC 6585 section 5
	HeadSlow        Rule = 35 // a head that was begun and does not end in time; nobody is answered
)

// known says how a rule is answered. A status of 0 is 400.
type known struct {
	text   string
	status int
}

// of returns how r is answered. Nothing of the request is in it.
func (r Rule) of() known {
	switch r {
	case LengthAndCoding:
		return known{"Content-Length and Transfer-Encoding in one request", 0}
	case CodingOn10:
		return known{"Transfer-Encoding is no part of HTTP/1.0", 0}
	case BothOn10:
		return known{"Content-Length and Transfer-Encoding in HTTP/1.0", 0}
	case LengthTwice:
		return known{"Content-Length given twice", 0}
	case LengthZeros:
		return known{"Content-Length with leading zeros", 0}
	case Fold:
		return known{"a header line begins with a space", 0}
	case BareLF:
		return known{"a line ends without CR", 0}
	case BareLFTrailer:
		return known{"the body's end has no CR", 0}
	case ChunkExtension:
		return known{"chunk extensions are not accepted", 0}
	case ChunkPadding:
		return known{"a chunk's size must be 1 to 8 hexadecimal digits without zeros or spaces around them", 0}
	case Trailers:
		return known{"trailers are not accepted", 0}
	case Version:
		return known{"only HTTP/1.1 and HTTP/2 are spoken here", http.StatusHTTPVersionNotSupported}
	case Absolute:
		return known{"the request target must be a path", 0}
	case AuthorityForm:
		return known{"method not allowed", http.StatusMethodNotAllowed}
	case Preface:
		return known{"HTTP/2 is agreed on in the TLS handshake", 0}
	}
	return r.more()
}

func (r Rule) more() known {
	switch r {
	case Host:
		return known{"one Host header of the form host[:port] is needed", 0}
	case Underscore:
		return known{"a header name with an underscore", 0}
	case Target:
		return known{"the path holds bytes or escapes that no URI has", 0}
	case Query:
		return known{"the query holds bytes or escapes that no URI has", 0}
	case RequestLine:
		return known{"the request line must be method, target and version with one space between", 0}
	case EmptyLine:
		return known{"an empty line before the request", 0}
	case FieldLine:
		return known{"a header line must be a name, a colon and a value", 0}
	case FieldValue:
		return known{"a header value holds control characters", 0}
	case Length:
		return known{"Content-Length is no number", 0}
	case Coding:
		return known{"the only transfer coding is chunked, given once", http.StatusNotImplemented}
	case ChunkLine:
		return known{"the chunks of the body are malformed", 0}
	case Expectation:
		return known{"the only expectation is 100-continue", http.StatusExpectationFailed}
	case HeadTooLong:
		return known{"the head of the request is too long", http.StatusRequestHeaderFieldsTooLarge}
	case HeadSlow:
		return known{"the head of the request did not end in time", http.StatusRequestTimeout}
	}
	return known{"malformed request", 0}
}

// String returns what the rule says, which may leave the house.
func (r Rule) String() string { return r.of().text }

// Status is that of the answer.
func (r Rule) Status() int {
	if s := r.of().status; s != 0 {
		return s
	}
	return http.StatusBadRequest
}

// Code is the rule's number as events bear it: "framing_7".
func (r Rule) Code() string { return "framing_" + strconv.Itoa(int(r)) }

// Err returns the refusal as an error of kind Invalid with control http.framing.
func (r Rule) Err() error {
	d := problem.Details{Status: r.Status()}
	if r == AuthorityForm {
		d.Allow = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
	}
	return problem.With(rampart.Errorf(rampart.Invalid, "http.framing", "%s", r), d)
}
