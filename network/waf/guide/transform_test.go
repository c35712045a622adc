package guide

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/corazawaf/coraza/v3"
)

// coraza tells what Coraza makes of a value: the rule logs what it matched, and
// it matches anything.
func corazaTransform(t testing.TB, names ...string) func(string) string {
	w, err := coraza.NewWAF(coraza.NewWAFConfig().WithDirectives(
		`SecRuleEngine DetectionOnly
SecRule ARGS:v "@unconditionalMatch" "id:1,phase:1,log,pass,t:none,t:` + strings.Join(names, ",t:") + `"`))
	if err != nil {
		t.Fatal(err)
	}
	return func(s string) string {
		tx := w.NewTransaction()
		tx.AddGetRequestArgument("v", s)
		tx.ProcessRequestHeaders()
		for _, m := range tx.MatchedRules() {
			return m.MatchedDatas()[0].Value()
		}
		t.Fatal("the oracle did not match")
		return ""
	}
}

// FuzzTransform: where the guide transforms a value, Coraza makes the same of
// it; where it calls it unchanged by alphabet, Coraza leaves it alone; and the
// result is over the alphabet that the guide foretold.
func FuzzTransform(f *testing.F) {
	fit, err := learnFit()
	if err != nil {
		f.Fatal(err)
	}
	all := transforms(fit)
	names := slices.Sorted(maps.Keys(all))
	oracle := map[string]func(string) string{}
	for _, n := range names {
		oracle[n] = corazaTransform(f, n)
	}
	for _, s := range transformSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 1000 {
			return
		}
		for _, n := range names {
			want := oracle[n](s)
			tr := all[n]
			out, same := tr.alphabet(alphabetOf(s).coarse())
			if same && want != s {
				t.Errorf("%s: guide says it leaves %q alone, Coraza makes %q of it", n, s, want)
			}
			if !alphabetOf(want).within(out) {
				t.Errorf("%s: %q leads to %q, which is not over %s", n, s, want, out)
			}
			if got, ok := tr.apply(s); ok && got != want {
				t.Errorf("%s: of %q guide makes %q, Coraza %q", n, s, got, want)
			}
		}
	})
}

var transformSeeds = []string{
	"", "plain", "Mixed CASE \u212a\u0130", "a  b\t\n\vc\u0085d\u00a0e", "\x00a\x00", "/*x*/y/*z", "a*/b<!--c--d-->e#f", "<!-", "--", "/**/",
	`a, "b";'c' ^d\ /(e`, "a ;/ (b", "../a/./b//c/", ".", "..", "/..", "a/..", `C:\x\y.txt. `, "file.txt:stream", "c:/a:b/c:d/", " ", ". .", "a /b. /c",
	"%41%zz%4", "a+b%u0041%U00e9", "%", "%u00fc%uff41%UFF21%u0", "%u12", "caf\u00e9 \u6771\U0001f600", "\xff\xfe", "&lt;&amp;&nGt;&#65;&#x41;&bogus;", `\x41\u0041\101\n`, `\u{41}\u{0ff01}\u{1}\u{}\u{1234567}\uff5e\uff5f\uff00\u00\x4\777\38\8\q\`, `\u{`, `\u`, `\`, `\\`, "a\\\xff\\\u00e9", "aGVsbG8=", "aGVs bG8", "aGVsbG8\r\nd29ybGQ", "aG-V_s", "abc",
}
