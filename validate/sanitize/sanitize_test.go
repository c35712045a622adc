package sanitize

import (
	"strings"
	"sync"
	"testing"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"two mugs, a gift":                           "two mugs, a gift",
		"<b>bold</b> move":                           "bold move",
		"a<script>alert(1)</script>b":                "ab",
		`<img src=x onerror="alert(1)">`:             "",
		"<!-- hidden -->x<style>p{}</style>":         "x",
		"1 < 2 & 3":                                  "1 &lt; 2 &amp; 3",
		"<scr<script>ipt>alert(1)</scr</script>ipt>": "ipt&gt;alert(1)ipt&gt;", // text, not markup
		"&lt;script&gt;alert(1)&lt;/script&gt;":      "&lt;script&gt;alert(1)&lt;/script&gt;",
		"caf\u00e9 😀":                                "café 😀",
	} {
		if got := Text(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestTextConcurrently(t *testing.T) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got := Text("<i>x</i>"); got != "x" {
				t.Errorf("got %q", got)
			}
		})
	}
	wg.Wait()
}

// FuzzText: no tag survives, and a second pass changes nothing.
func FuzzText(f *testing.F) {
	f.Add("<b>x</b>")
	f.Add("&#60;script>")
	f.Add("<svg/onload=alert(1)>&amp;lt;")
	f.Fuzz(func(t *testing.T, s string) {
		got := Text(s)
		if strings.ContainsAny(got, "<>") {
			t.Fatalf("%q: markup left in %q", s, got)
		}
		if again := Text(got); again != got {
			t.Fatalf("%q: %q, then %q", s, got, again)
		}
	})
}

func TestRich(t *testing.T) {
	for in, want := range map[string]string{
		`<p>Two <b>mugs</b></p><ul><li>a</li></ul>`:                        `<p>Two <b>mugs</b></p><ul><li>a</li></ul>`,
		`<p onclick="x()" style="color:red" class="a">hi</p>`:              `<p>hi</p>`,
		`<script>alert(1)</script>hi<style>*{}</style>`:                    `hi`,
		`<img src=x onerror=alert(1)><iframe src="//evil"></iframe>hi`:     `hi`,
		`<a href="javascript:alert(1)">x</a>`:                              `x`,
		`<a href="data:text/html,x">x</a><a href="/admin">y</a>`:           `xy`,
		`<svg><a href="https://a.example"><rect/></a></svg>`:               `<a href="https://a.example" rel="nofollow noreferrer noopener" target="_blank"></a>`,
		`<a href="https://a.example" rel="opener" target="_top">x</a>`:     `<a href="https://a.example" rel="nofollow noreferrer noopener" target="_blank">x</a>`,
		`<math><mtext><table><mglyph><style><img src=x onerror=x></style>`: ``,
		`1 < 2 & 3`: `1 &lt; 2 &amp; 3`,
	} {
		got := Rich(in)
		if got != want {
			t.Errorf("%s\ngot  %s\nwant %s", in, got, want)
		}
		if again := Rich(got); again != got {
			t.Errorf("%s: cleaned again: %s", got, again)
		}
	}
}
