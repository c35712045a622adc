package guide

import (
	"context"
	"encoding/json"
	"hash/fnv"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/rampart-security/rampart/network/waf"
	"github.com/rampart-security/rampart/network/waf/waftest"
)

// corpus makes values of ordinary words with fragments of attacks in random
// places. Its randomness is a hash of the seed: the same values every time.
type corpus struct {
	fragments []string
	state     uint64
}

func newCorpus(t testing.TB, seed uint64) *corpus {
	tests, err := waftest.Tests()
	if err != nil {
		t.Fatal(err)
	}
	c := &corpus{state: seed}
	for _, test := range tests {
		for _, s := range test.Stages {
			c.fragments = append(c.fragments, decoded(s.Input.URI), decoded(s.Input.Data))
		}
	}
	return c
}

func decoded(s string) string {
	if d, err := url.QueryUnescape(s); err == nil {
		s = d
	}
	if i := strings.IndexAny(s, "=:"); i >= 0 {
		s = s[i+1:]
	}
	return s
}

func (c *corpus) next(n int) int {
	h := fnv.New64a()
	h.Write([]byte{byte(c.state), byte(c.state >> 8), byte(c.state >> 16), byte(c.state >> 24), byte(c.state >> 32), byte(c.state >> 40)})
	c.state++
	x := h.Sum64()
	x ^= x >> 29
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 32
	return int(x % uint64(n))
}

var ordinary = strings.Fields(`the invoice for March select your seat union of workers and or like from table order by
 group insert coin update drop it's O'Brien "quoted" (see below) a&b 50% off C++ x=1 y>2 1,250.00 2024-01-01 10:30
 name@example.com https://example.com/a/b?c=d café naïve Zürich 東京 Kelvin ſharp data: system file ../ etc/passwd
 $100 #1 -- ; | ` + "`tick`" + ` \n {x} [0] <b> if then else while do sleep bench mark cat ls who id on click = script alert`)

// value is some words, with up to three fragments among them.
func (c *corpus) value() string {
	var out []string
	for range 1 + c.next(8) {
		out = append(out, ordinary[c.next(len(ordinary))])
		if c.next(3) == 0 {
			out = append(out, c.fragment())
		}
	}
	return strings.Join(out, [...]string{" ", "", " ", "\n", ","}[c.next(5)])
}

func (c *corpus) fragment() string {
	f := c.fragments[c.next(len(c.fragments))]
	if len(f) < 2 {
		return f
	}
	from := c.next(len(f))
	return f[from : from+1+c.next(min(len(f)-from, 24))]
}

// request puts values where a client could.
func (c *corpus) request() *waf.Request {
	r := &waf.Request{Client: netip.MustParseAddr("192.0.2.1"), Method: "POST", Target: "/v1/items", Proto: "HTTP/1.1", Host: "api.example.com",
		Header: http.Header{"Content-Type": {"application/json"}, "Content-Length": {"1"}, "User-Agent": {"client/1"}, "Accept": {"*/*"}}}
	val := c.value()
	switch c.next(8) {
	case 0:
		r.Target += "?q=" + url.QueryEscape(val)
	case 1:
		r.Target += "/" + url.PathEscape(val)
		r.Path = []waf.Arg{{Name: waf.PathPrefix + "item", Value: val}}
	case 2:
		r.Header[[...]string{"User-Agent", "Referer", "Accept", "X-Filename", "Cookie", "X-Other"}[c.next(6)]] = []string{oneLine(val)}
	case 3:
		r.Header["Content-Type"] = []string{"application/x-www-form-urlencoded"}
		r.BodyKind, r.Body = waf.FormBody, []byte(url.Values{"a": {val}, c.fragment(): {"x"}}.Encode())
	case 4:
		r.Target += "?" + oneLine(strings.ReplaceAll(val, "#", ""))
	case 5:
		r.BodyKind, r.Body = waf.JSONBody, object(map[string]any{val: 1})
	default:
		r.BodyKind, r.Body = waf.JSONBody, object(map[string]any{"a": []any{val, 12.5, nil}, "b": map[string]any{"c": c.value()}})
	}
	return r
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
}

func object(m map[string]any) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// TestGuidedOnCorpus: what the guide calls clean, the engine finds nothing
// in. 100,000 requests with RAMPART_LONG=1.
func TestGuidedOnCorpus(t *testing.T) {
	e, g := fixture()
	n := 400
	if os.Getenv("RAMPART_LONG") != "" {
		n = 100_000
	}
	c, clean := newCorpus(t, 1), 0
	for range n {
		r := c.request()
		if !g.Clean(r) {
			continue // the engine judges, guided or not
		}
		clean++
		v, err := e.Inspect(context.Background(), r)
		if err != nil {
			t.Fatal(err)
		}
		if len(v.Findings) > 0 {
			t.Errorf("clean for the guide, but the engine found %s in %s %q %q", summary(v), r.Target, r.Header, r.Body)
		}
	}
	t.Logf("%d of %d requests are clean", clean, n)
	if clean < n/10 {
		t.Error("the corpus tests nothing")
	}
}

// TestGuidedFreeText: what the rule set's tests send, whole, in a field for text
// of a JSON body, a form and a query. One payload in 41 at level 1, or all at
// every level with RAMPART_LONG=1.
func TestGuidedFreeText(t *testing.T) {
	payloads, levels := newCorpus(t, 0).fragments, 4
	if os.Getenv("RAMPART_LONG") == "" {
		levels = 1
	}
	for paranoia := 1; paranoia <= levels; paranoia++ {
		e, g := guides[paranoia]()
		sent, clean := 0, 0
		for i, s := range payloads {
			if levels == 1 && i%41 != 0 || s == "" {
				continue
			}
			for _, r := range freeText(s) {
				if sent++; !g.Clean(r) {
					continue // the engine judges, guided or not
				}
				clean++
				if v, err := e.Inspect(t.Context(), r); err != nil || len(v.Findings) > 0 || v.Refuse {
					t.Errorf("level %d: clean for the guide, but the engine found %s (%v) in %s %q", paranoia, summary(v), err, r.Target, r.Body)
				}
			}
		}
		t.Logf("level %d: %d requests, %d clean, and the engine found nothing in these", paranoia, sent, clean)
	}
}

func freeText(s string) []*waf.Request {
	json, form, query := typed(), typed(), typed()
	note(s)(json)
	form.Header["Content-Type"] = []string{"application/x-www-form-urlencoded"}
	form.BodyKind, form.Body = waf.FormBody, []byte(url.Values{"note": {s}}.Encode())
	query.Target += "?q=" + url.QueryEscape(s)
	return []*waf.Request{json, form, query}
}
