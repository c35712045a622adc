package waf_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/rampart-security/rampart/network/waf"
)

func engine(t *testing.T, o waf.Options) *waf.Engine {
	t.Helper()
	pool := &waf.Pool{}
	t.Cleanup(pool.Close)
	e, err := pool.Engine(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// What cannot be looked at whole is refused, whatever the threshold.
func TestNeverInPart(t *testing.T) {
	e := engine(t, waf.Options{Threshold: 100, MaxBody: 64 << 10})
	var query, members strings.Builder
	for i := range 1001 {
		fmt.Fprintf(&query, "&a%d=1", i)
		fmt.Fprintf(&members, `,"a%d":1`, i)
	}
	deep := strings.Repeat("[", 80) + strings.Repeat("]", 80)
	for name, tt := range map[string]struct {
		target, kind, body string
		rule, status       int
	}{
		"1,000 arguments in the query":  {"/?" + strings.TrimSuffix(query.String()[1:], "&a1000=1"), "", "", 0, 0},
		"1,001 arguments in the query":  {"/?" + query.String()[1:], "", "", 190001, 403},
		"1,001 times one name":          {"/?" + strings.Repeat("a=1&", 1000) + "a=1", "", "", 190001, 403},
		"1,001 members":                 {"/", "application/json", "{" + members.String()[1:] + "}", 190001, 403},
		"1,001 fields of a form":        {"/", "application/x-www-form-urlencoded", query.String()[1:], 190001, 403},
		"a body over the limit":         {"/", "application/json", `"` + strings.Repeat("a", 64<<10) + `"`, 190002, 413},
		"a body at the limit":           {"/", "application/json", `"` + strings.Repeat("a", 64<<10-2) + `"`, 0, 0},
		"JSON that ends early":          {"/", "application/json", `{"a":`, 200002, 403},
		"JSON that is nested too deep":  {"/", "application/json", deep, 200002, 403},
		"JSON that is called XML":       {"/", "application/xml", `{"q":"1\u0027 or 1=1"}`, 200002, 403},
		"a form that is called XML":     {"/", "text/xml; charset=utf-8", "q=%3Cscript%3E", 200002, 403},
		"XML":                           {"/", "application/xml", " <a>b</a>", 0, 0},
		"multipart without a boundary":  {"/", "multipart/form-data", "--x\r\n\r\n", 200002, 403},
		"multipart that ends in a part": {"/", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nv", 200003, 403},
	} {
		t.Run(name, func(t *testing.T) {
			r := &waf.Request{Method: "POST", Target: tt.target, Host: "h", Body: []byte(tt.body), Header: http.Header{"User-Agent": {"x"}, "Accept": {"*/*"}, "Content-Length": {"9"}}}
			if tt.kind != "" {
				r.Header.Set("Content-Type", tt.kind)
			}
			v, err := e.Inspect(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if v.Refuse != (tt.rule != 0) || v.Status != tt.status || tt.rule != 0 && !has(v, tt.rule) {
				t.Errorf("got %+v, want rule %d and status %d", v, tt.rule, tt.status)
			}
		})
	}
}

func has(v waf.Verdict, rule int) bool {
	for _, f := range v.Findings {
		if f.Rule == rule {
			return true
		}
	}
	return false
}

// ^ and $ of a rule are the ends of the value. Taken for ends of lines, as
// Coraza takes them unless it is built with a tag, one good line would make a
// negated rule content.
func TestPatternsMeanWholeValues(t *testing.T) {
	e := engine(t, waf.Options{})
	r := &waf.Request{Method: "POST", Target: "/", Host: "h", Header: http.Header{
		"User-Agent": {"x"}, "Accept": {"*/*"}, "Content-Length": {"7\nx"}, "Content-Type": {"application/json"},
	}}
	if v, err := e.Inspect(t.Context(), r); err != nil || !has(v, 920160) {
		t.Errorf("a Content-Length of two lines: %+v %v, want rule 920160", v, err)
	}
	for _, s := range e.Rules().Sources {
		if n := strings.Count(s.Text, `@rx `) - strings.Count(s.Text, `@rx (?-m)`); n > 0 && s.Name != "settings" {
			t.Errorf("%s: %d patterns are read line by line", s.Name, n)
		}
	}
}

// Threshold and level are what the file says.
func TestThresholdAndParanoia(t *testing.T) {
	r := &waf.Request{Method: "GET", Target: "/?q=1'%20or%201=1%20--%20x", Host: "h", Header: http.Header{"User-Agent": {"x"}, "Accept": {"*/*"}}}
	pool := &waf.Pool{}
	defer pool.Close()
	last := 0
	for level := 1; level <= 4; level++ {
		e, err := pool.Engine(waf.Options{Paranoia: level, Threshold: 6})
		if err != nil {
			t.Fatal(err)
		}
		v, err := e.Inspect(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if v.Score < last || v.Refuse != (v.Score >= 6) {
			t.Errorf("level %d: score %d after %d, refused %t", level, v.Score, last, v.Refuse)
		}
		last = v.Score
	}
	if last <= 5 {
		t.Errorf("level 4 has found no more than level 1: %d", last)
	}
}

// A request that is over before it was looked at is not inspected.
func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if v, err := engine(t, waf.Options{}).Inspect(ctx, &waf.Request{Method: "GET", Target: "/"}); err == nil {
		t.Errorf("got %+v, want an error", v)
	}
}

// The engine writes nothing: what it finds holds values of requests.
func TestSilent(t *testing.T) {
	out, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = out, out
	e := engine(t, waf.Options{Paranoia: 4})
	_, err = e.Inspect(t.Context(), &waf.Request{Method: "GET", Target: "/?q=%00<script>" + sql, Host: "h"})
	os.Stdout, os.Stderr = stdout, stderr
	if err != nil {
		t.Fatal(err)
	}
	if info, err := out.Stat(); err != nil || info.Size() > 0 {
		t.Errorf("%d bytes were written, %v", info.Size(), err)
	}
}

// One engine serves many requests at a time, and what one sends is no other's.
func TestConcurrent(t *testing.T) {
	e := engine(t, waf.Options{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				r := &waf.Request{Method: "GET", Target: "/?q=fine", Host: "h", Header: http.Header{"User-Agent": {"x"}, "Accept": {"*/*"}}}
				if i%2 == 0 {
					r.Target = "/?q=%3Cscript%3Ealert(1)%3C/script%3E"
				}
				if v, err := e.Inspect(t.Context(), r); err != nil || v.Refuse != (i%2 == 0) {
					t.Errorf("%s: %+v %v", r.Target, v, err)
				}
			}
		})
	}
	wg.Wait()
}
