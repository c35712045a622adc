package openapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestJudgedWhereRead: a body that is judged where it is read is forwarded, refused and
// told of as one that is judged afterwards.
func TestJudgedWhereRead(t *testing.T) {
	op, params, err := compile(t, edgeDoc).Route("POST", "/orders")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(kind, body string, judge bool) (raw string, judged bool, err error) {
		b, err := op.Read(kind, []byte(body), ReadOptions{Judge: judge})
		if err == nil {
			err = op.Check(params, nil, http.Header{"Content-Type": {b.Type}}, b.Doc)
		}
		_, judged = b.Doc.(checked)
		return string(b.Raw), judged, err
	}
	for name, tc := range map[string]struct {
		kind, body string
		judged     bool
	}{
		"as it is sent":       {"application/json", edgeBody, true},
		"with a charset":      {"application/json; charset=UTF-8", edgeBody, true},
		"spaces":              {"application/json", strings.NewReplacer(`,"`, " ,\n\"", `":`, `" : `).Replace(edgeBody), true},
		"out of the order":    {"application/json", `{"order_id":"3f0c1c1a-7d0e-4e0c-9d55-0f6c1c0b6a11","amount":1}`, true},
		"lines in it":         {"application/json", `{"order_id":"3f0c1c1a-7d0e-4e0c-9d55-0f6c1c0b6a11","amount":1,"note":"\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n"}`, true},
		"a field more":        {"application/json", strings.Replace(edgeBody, `"amount"`, `"x":1,"amount"`, 1), false},
		"a field less":        {"application/json", `{"amount":1}`, false},
		"of another type":     {"application/json", strings.Replace(edgeBody, "1299", `"1299"`, 1), false},
		"no such day":         {"application/json", strings.Replace(edgeBody, "2026-11-29", "2026-02-30", 1), false},
		"a leap day":          {"application/json", strings.Replace(edgeBody, "2026-11-29", "2024-02-29", 1), true},
		"a word not among":    {"application/json", strings.Replace(edgeBody, "EUR", "XXX", 1), false},
		"twice the name":      {"application/json", `{"amount":1,"amount":2}`, false},
		"null":                {"application/json", `null`, false},
		"no JSON":             {"application/json", `{`, false},
		"another media type":  {"text/plain", edgeBody, false},
		"nothing is required": {"application/json", `{}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			raw, judged, err := ask(tc.kind, tc.body, true)
			want, _, wantErr := ask(tc.kind, tc.body, false)
			if diff := cmp.Diff(fmt.Sprintf("%s %+v", want, wantErr), fmt.Sprintf("%s %+v", raw, err)); diff != "" {
				t.Errorf("(-afterwards +where it is read):\n%s", diff)
			}
			if judged != tc.judged {
				t.Errorf("judged where it is read: %t, want %t", judged, tc.judged)
			}
		})
	}
}

// TestJudgedForOneType: what was judged by one content type's schema is nothing to
// another's.
func TestJudgedForOneType(t *testing.T) {
	op, params, err := compile(t, edgeDoc).Route("POST", "/orders")
	if err != nil {
		t.Fatal(err)
	}
	if err := op.Check(params, nil, http.Header{"Content-Type": {"application/json"}}, checked{&media{}}); err == nil {
		t.Error("a body that another schema judged passes")
	}
}
