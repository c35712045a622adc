package fairshare

import "testing"

// TestOf lets callers come one after another, each of whom takes all it can get and
// gives nothing back: the worst there is.
func TestOf(t *testing.T) {
	for name, tc := range map[string]struct {
		bound, few int64
		callers    int   // who take what they can
		first      int64 // what the first of them got
		next       int64 // what one who comes then may have, at least
	}{
		"nobody yet":                  {400_000, 64, 0, 0, 150_000},
		"one":                         {400_000, 64, 1, 100_000, 50_000},
		"four":                        {400_000, 64, 4, 100_000, 10_000},
		"a hundred":                   {400_000, 64, 100, 100_000, 60},
		"as many as few divides into": {400_000, 64, 1562, 100_000, 20},
		"four times as many":          {400_000, 64, 4 * 1562, 100_000, 1},
		"streams":                     {1024, 8, 32, 256, 4},
		"a bound below four":          {3, 8, 0, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var used, first int64
			for i := range tc.callers {
				var own int64
				for own < Of(tc.bound, used, tc.few) {
					own, used = own+1, used+1
				}
				if i == 0 {
					first = own
				}
			}
			if first != tc.first || used > tc.bound {
				t.Errorf("the first got %d, want %d; all together %d of %d", first, tc.first, used, tc.bound)
			}
			if got := Of(tc.bound, used, tc.few); got < tc.next {
				t.Errorf("the next may have %d, want at least %d; %d of %d are taken", got, tc.next, used, tc.bound)
			}
		})
	}
}

// TestOfIsBounded: nothing of what is full, and never more than is free but for few,
// of whom the caller's own bound takes care.
func TestOfIsBounded(t *testing.T) {
	for bound := int64(0); bound < 40; bound++ {
		before := int64(1 << 62)
		for used := int64(0); used <= bound+2; used++ {
			got := Of(bound, used, 1)
			if got > max(bound-used, 0) || got > before || (got == 0) != (used >= bound) {
				t.Fatalf("%d of %d are taken: %d", used, bound, got)
			}
			before = got
		}
	}
}
