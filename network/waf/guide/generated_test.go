package guide

import (
	"encoding/base64"
	"fmt"
	"html"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/rampart-security/rampart/network/waf"
)

// disguises are what attackers write a text in, so that who decodes too little or
// too much reads another.
var disguises = []func(*corpus, string) string{
	func(_ *corpus, s string) string { return s },
	func(_ *corpus, s string) string { return url.QueryEscape(s) },
	func(_ *corpus, s string) string { return url.QueryEscape(url.QueryEscape(s)) },
	func(c *corpus, s string) string { return c.each(s, "%%u%04x", 2) },
	func(c *corpus, s string) string { return c.each(s, "%%%02X", 3) },
	func(c *corpus, s string) string { return c.each(s, "&#x%x;", 2) },
	func(c *corpus, s string) string { return c.each(s, "&#%d", 3) },
	func(c *corpus, s string) string { return c.each(s, `\u%04x`, 2) },
	func(c *corpus, s string) string { return c.each(s, `\x%02x`, 2) },
	func(_ *corpus, s string) string { return html.EscapeString(s) },
	func(_ *corpus, s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	func(c *corpus, s string) string { return c.runes(s, wideForm, 2) },
	func(c *corpus, s string) string { return c.runes(s, foldForm, 2) },
	func(c *corpus, s string) string { return c.runes(s, swapCase, 2) },
	func(c *corpus, s string) string {
		return c.between(s, "\x00", "/**/", "\\", "^", "'", `"`, "\t", "\u200b")
	},
	func(_ *corpus, s string) string { return overlong.Replace(s) },
	func(c *corpus, s string) string {
		return strings.ReplaceAll(s, " ", c.one("\t", "\v", "\u00a0", "\xa0", "\u0085", "\u2003", "+", "/**/", "%20", "\n", "${IFS}"))
	},
	func(c *corpus, s string) string {
		return s + c.one("\r\n", "\x00", ";", "#", "--", "%00", "%", "\\", "&", "]]>", "\xff", "}", "\x7f")
	},
	func(c *corpus, s string) string {
		return c.one("\ufeff", "\r\n", ";", "%0d%0a", " ", "\\", "&", "\xc0") + s
	},
}

// overlong spells characters in more bytes than UTF-8 allows.
var overlong = strings.NewReplacer("<", "\xc0\xbc", ">", "\xc0\xbe", "'", "\xc0\xa7", "/", "\xc0\xaf", ".", "\xe0\x80\xae", "(", "\xc0\xa8")

func (c *corpus) one(list ...string) string { return list[c.next(len(list))] }

// each writes one rune in n by format.
func (c *corpus) each(s, format string, n int) string {
	return c.runes(s, nil, 1, func(r rune) string {
		if c.next(n) == 0 {
			return fmt.Sprintf(format, r)
		}
		return string(r)
	})
}

// runes puts one rune in n into another form; with write, all are written by it.
func (c *corpus) runes(s string, form func(rune) rune, n int, write ...func(rune) string) string {
	var out strings.Builder
	for _, r := range s {
		switch {
		case len(write) > 0:
			out.WriteString(write[0](r))
		case c.next(n) == 0:
			out.WriteRune(form(r))
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}

func (c *corpus) between(s string, list ...string) string {
	mark := c.one(list...)
	return c.runes(s, nil, 1, func(r rune) string {
		if c.next(4) == 0 {
			return string(r) + mark
		}
		return string(r)
	})
}

func wideForm(r rune) rune {
	if r > ' ' && r < 0x7f {
		return r + 0xfee0
	}
	return r
}

func foldForm(r rune) rune {
	switch r {
	case 's', 'S':
		return '\u017f'
	case 'k', 'K':
		return '\u212a'
	case 'i', 'I':
		return '\u0130'
	}
	return r
}

func swapCase(r rune) rune {
	if unicode.IsLower(r) {
		return unicode.ToUpper(r)
	}
	return unicode.ToLower(r)
}

// free is what a field for text may hold: prose, with a disguised piece of an
// attack in one of three.
func (c *corpus) free() string {
	s := prose[c.next(len(prose))]
	if c.next(3) > 0 {
		return s
	}
	piece := c.fragment()
	for range 1 + c.next(2) {
		piece = disguises[c.next(len(disguises))](c, piece)
	}
	at := c.next(len(s) + 1)
	return [...]string{piece, s[:at] + piece + s[at:], piece + " " + s, s + piece}[c.next(4)]
}

// typed values of schemas, big and odd ones among them.
func (c *corpus) typed() string {
	switch c.next(9) {
	case 0:
		return strconv.Itoa(c.next(1 << 40))
	case 1:
		return c.one("0", "-0", "1e400", "-1.5E+30", "0.1e-7", "123456789012345678901234567890", "1E2", "-12.50", "9007199254740993")
	case 2:
		return c.one("true", "false", "null")
	case 3:
		return fmt.Sprintf(`"%08x-d9cb-469f-a165-%012x"`, c.next(1<<31), c.next(1<<40))
	case 4:
		return c.one(`"2026-11-29T10:30:00Z"`, `"2026-11-29"`, `"EUR"`, `"P3D"`, `"192.0.2.1"`, `"DE89370400440532013000"`)
	case 5:
		return `"` + c.one("anna", "o.brien", "x+y", "select-all", "union") + `@example.` + c.one("com", "org", "de") + `"`
	case 6:
		return `"https://www.example.` + c.one("com/a?b=c&d=e", "org/~anna#top", "de:8443/x;y=1") + `"`
	}
	return c.quoted(c.free())
}

// quoted is s as a JSON string, its bytes left as they are where JSON lets them.
func (c *corpus) quoted(s string) string {
	out := []byte{'"'}
	for i := 0; i < len(s); i++ {
		switch b := s[i]; {
		case b == '"' || b == '\\':
			out = append(out, '\\', b)
		case b < ' ' || b < 0x7f && c.next(40) == 0:
			out = fmt.Appendf(out, `\u%04x`, b)
		case b == '/' && c.next(4) == 0:
			out = append(out, '\\', '/')
		default:
			out = append(out, b)
		}
	}
	return string(append(out, '"'))
}

func (c *corpus) key() string {
	if c.next(40) == 0 {
		return c.free()
	}
	return c.one("id", "amount", "note", "Note", "to", "from", "currency", "tags", "a.b", "a", "b", "x-y", "x_y", "first name", "größe", "0", "", "key[]", "$ref",
		"@type", "__proto__", "sessionid", "order", "like", "file", "url", "redirect", "username", "password", "json", "html", "q")
}

// json is a value of depth at most.
func (c *corpus) json(depth int) string {
	var parts []string
	switch c.next(6) {
	case 0, 1:
		if depth > 0 {
			for range c.next(5) {
				parts = append(parts, c.quoted(c.key())+":"+c.json(depth-1))
			}
			return "{" + strings.Join(parts, ",") + "}"
		}
	case 2:
		if depth > 0 {
			for range c.next(4) {
				parts = append(parts, c.json(depth-1))
			}
			return "[" + strings.Join(parts, ", ") + "]"
		}
	}
	return c.typed()
}

func (c *corpus) bodyJSON() string {
	if c.next(30) == 0 {
		n := 1 + c.next(62)
		return strings.Repeat(`{"a":[`, n/2) + c.typed() + strings.Repeat("]}", n/2)
	}
	if c.next(20) == 0 {
		return c.json(3) + c.one("", " ", "\n", "x", "{}", "\x00", ",")
	}
	var parts []string
	for range 1 + c.next(5) {
		parts = append(parts, c.quoted(c.key())+":"+c.json(2))
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func (c *corpus) pairs() string {
	var parts []string
	for range 1 + c.next(5) {
		val := strings.Trim(c.typed(), `"`)
		switch c.next(6) {
		case 0:
			parts = append(parts, url.QueryEscape(c.key()))
		case 1:
			parts = append(parts, c.key()+"="+strings.NewReplacer(" ", "+", "#", "", "&", "%26").Replace(oneLine(val)))
		default:
			parts = append(parts, url.QueryEscape(c.key())+"="+url.QueryEscape(val))
		}
	}
	return strings.Join(parts, "&")
}

var fields = []string{"User-Agent", "Referer", "Cookie", "Accept", "Accept-Language", "Accept-Encoding", "Accept-Charset", "X-Http-Method-Override", "X-Method-Override",
	"X-Forwarded-For", "X-Forwarded-Host", "X-Original-Url", "X-Filename", "X-Requested-With", "Origin", "Range", "Request-Range", "If-None-Match", "Content-Encoding", "Connection",
	"Proxy", "Lock-Token", "Transfer-Encoding", "Cache-Control", "Sec-Ch-Ua", "Sec-Fetch-User", "X-Note", "Te", "Expect", "Idempotency-Key", "Content-Length", "Traceparent"}

func (c *corpus) field() (name, value string) {
	name = fields[c.next(len(fields))]
	switch c.next(4) {
	case 0:
		return name, oneLine(c.free())
	case 1:
		return name, oneLine(strings.Trim(c.typed(), `"`))
	}
	return name, c.one("*/*", "gzip, deflate, br", "en-GB,en;q=0.9,de;q=0.8", "application/json;q=0.9", "bytes=0-499", "bytes=9-1,2-3", "no-cache", "PUT", "a=1; b=2", "c=1; c=2",
		"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36", "sqlmap/1.8", "https://www.example.com/a?b=c", `"33a64df5"`, "keep-alive, close", "100", "")
}

// sent is a request that a schema may let through.
func (c *corpus) sent() *waf.Request {
	r := &waf.Request{Client: netip.MustParseAddr("192.0.2.1"), Method: "POST", Target: "/v1/items", Host: c.one("api.example.com", "api", "192.0.2.7:8443", "api.example.com:8443"),
		Proto:  c.one("HTTP/1.1", "HTTP/1.1", "HTTP/2.0", "HTTP/1.0"),
		Header: http.Header{"Content-Length": {"99"}, "User-Agent": {"client/1"}, "Accept": {"*/*"}}}
	switch c.next(5) {
	case 0:
		r.BodyKind, r.Body = waf.FormBody, []byte(c.pairs())
		r.Header["Content-Type"] = []string{c.one("application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=utf-8", "Application/X-WWW-Form-Urlencoded")}
	case 1:
		r.Method = c.one("GET", "GET", "DELETE", "HEAD", "OPTIONS")
		delete(r.Header, "Content-Length")
	default:
		r.Method = c.one("POST", "POST", "PUT", "PATCH")
		r.BodyKind, r.Body = waf.JSONBody, []byte(c.bodyJSON())
		r.Header["Content-Type"] = []string{c.one("application/json", "application/json", "application/json; charset=utf-8", "application/vnd.api+json", "application/xml+json",
			"application/merge-patch+json", "APPLICATION/JSON", "application/json;charset=utf-7", "application/problem+json; x=y")}
	}
	c.where(r)
	return r
}

// where adds to the path, the query and the header.
func (c *corpus) where(r *waf.Request) {
	if c.next(3) == 0 {
		val := strings.Trim(c.typed(), `"`)
		r.Target += "/" + url.PathEscape(val)
		r.Path = []waf.Arg{{Name: waf.PathPrefix + "item", Value: val}}
	}
	if c.next(3) == 0 {
		r.Target += "?" + c.pairs()
	}
	for range c.next(3) {
		name, value := c.field()
		r.Header[name] = append(r.Header[name], value)
		if c.next(6) > 0 {
			r.Header[name] = []string{value}
		}
	}
}

// TestGenerated: at every level, what the guide calls clean the engine finds
// nothing in and does not refuse. RAMPART_LONG=1: 100,000 requests at each level.
func TestGenerated(t *testing.T) {
	n := 600
	if os.Getenv("RAMPART_LONG") != "" {
		n = 100_000
	}
	for paranoia := 1; paranoia <= 4; paranoia++ {
		t.Run(fmt.Sprint("level ", paranoia), func(t *testing.T) {
			t.Parallel()
			e, g := guides[paranoia]()
			c, clean := newCorpus(t, uint64(paranoia)<<32), 0
			for i := range n {
				if i > 0 && i%10_000 == 0 {
					t.Logf("%d requests, %d clean, no difference", i, clean)
				}
				r := c.sent()
				if !g.Clean(r) {
					continue // the engine judges, guided or not
				}
				clean++
				v, err := e.Inspect(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				if len(v.Findings) > 0 || v.Refuse {
					t.Fatalf("clean for the guide, but the engine found %s in %s %s %s %q %q %q", summary(v), r.Method, r.Target, r.Proto, r.Header, r.Path, r.Body)
				}
			}
			t.Logf("%d requests, %d clean, and the engine found nothing in these", n, clean)
			if clean < n/20 {
				t.Error("the requests test nothing")
			}
		})
	}
}
