package pii

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rampart-security/rampart/internal/agent"
)

func TestTags(t *testing.T) {
	for tag, want := range map[string]struct {
		role               int
		name, item, column string
	}{
		"pii=email":                         {rolePII, "email", "contact", "email"},
		"pii=email,column=mail":             {rolePII, "email", "contact", "mail"},
		"item=payment,pii=card":             {rolePII, "card", "payment", "card"},
		"row":                               {roleRow, "", "contact", "order_id"},
		"tenant,column=org":                 {roleTenant, "", "contact", "org"},
		"subject":                           {roleSubject, "", "contact", "order_id"},
		"column=city":                       {rolePlain, "", "contact", "city"},
		"pii":                               {role: -1},
		"pii=":                              {role: -1},
		"row=1":                             {role: -1},
		"row,tenant":                        {role: -1},
		"colum=city":                        {role: -1},
		"":                                  {role: -1},
		"pii=email,column=a b":              {role: -1},
		"pii=email,column=x;":               {role: -1},
		"column=Order":                      {role: -1},
		"column=" + strings.Repeat("a", 60): {role: -1},
	} {
		f, err := parseTag(tag, "OrderID", "contact")
		if want.role < 0 {
			if err == nil {
				t.Errorf("%q was accepted", tag)
			}
			continue
		}
		if err != nil || f.role != want.role || f.name != want.name || f.item != want.item || f.column != want.column {
			t.Errorf("%q: %+v, %v", tag, f, err)
		}
	}
	for name, want := range map[string]string{"ID": "id", "OrderID": "order_id", "HTTPServer": "http_server", "Email": "email", "cardNo": "card_no"} {
		if got := snake(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

func FuzzTag(f *testing.F) {
	for _, tag := range []string{"pii=email", "row", "tenant,column=org", "pii=a,item=b,column=c", "pii=,", "column=x,column=y"} {
		f.Add(tag)
	}
	f.Fuzz(func(t *testing.T, tag string) {
		got, err := parseTag(tag, "Field", "item")
		if err == nil && (!columnForm.MatchString(got.column) || got.role < rolePlain || got.role > roleSubject || got.role == rolePII && got.name == "") {
			t.Errorf("%q became %+v", tag, got)
		}
	})
}

func TestNormalise(t *testing.T) {
	for _, tc := range []struct{ how, value, want string }{
		{searchEmail, " Alice@Example.COM\n", "alice@example.com"},
		{searchPhone, "+49 (171) 555-01.23", "+491715550123"},
		{searchPhone, "0049 171 5550123", "+491715550123"},
		{searchPhone, "0171/5550123", "01715550123"},
		{searchExact, " A b ", " A b "},
	} {
		if got, err := normalise(tc.how, tc.value); err != nil || got != tc.want {
			t.Errorf("%s of %q is %q, %v; want %q", tc.how, tc.value, got, err, tc.want)
		}
	}
	for _, tc := range []struct{ how, value string }{{searchPhone, "none"}, {searchPhone, ""}, {searchPhone, "+"}, {"soundex", "x"}} {
		if got, err := normalise(tc.how, tc.value); err == nil {
			t.Errorf("%s of %q is %q", tc.how, tc.value, got)
		}
	}
}

// FuzzNormalise: what is normalised stays as it is when it is normalised again.
func FuzzNormalise(f *testing.F) {
	for _, s := range []string{"Alice@Example.com", "+49 171", "0049", "000", "\u0130", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, how := range []string{searchEmail, searchPhone, searchExact} {
			once, err := normalise(how, value)
			if err != nil || !utf8.ValidString(value) {
				continue
			}
			if twice, err := normalise(how, once); err != nil || twice != once {
				t.Errorf("%s of %q is %q, and then %q, %v", how, value, once, twice, err)
			}
		}
	})
}

// TestIndex: equal values of one column are equal, and nothing else is.
func TestIndex(t *testing.T) {
	k := keysOf(t, info(agent.StoreInfo{}))
	at := func(c Cell, value string) []byte {
		t.Helper()
		b, err := k.Index(t.Context(), c, value)
		must(t, err)
		if len(b) != indexSize {
			t.Fatalf("%d bytes", len(b))
		}
		return b
	}
	base := Cell{Item: "contact", Tenant: "acme", Table: "people", Column: "email"}
	want := at(base, "alice@example.com")
	if !bytes.Equal(want, at(base, "Alice@example.com ")) {
		t.Error("equal values have two indexes")
	}
	tenant, table, column := base, base, base
	tenant.Tenant, table.Table, column.Column = "globex", "others", "phone"
	for name, got := range map[string][]byte{
		"another value": at(base, "bob@example.com"), "another tenant": at(tenant, "alice@example.com"), "another table": at(table, "alice@example.com"),
	} {
		if bytes.Equal(want, got) {
			t.Errorf("%s has the same index", name)
		}
	}
	if bytes.Equal(at(column, "1"), at(base, "1")) {
		t.Error("another column has the same index")
	}
	if _, err := k.Index(t.Context(), Cell{Item: "contact", Tenant: "acme", Table: "people", Column: "photo"}, "x"); err == nil {
		t.Error("indexed what the file does not search")
	}
}
