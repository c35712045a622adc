package spec

import (
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// Bounds of the scalar types. They keep arithmetic far from overflow.
const (
	maxDuration = 3650 * 24 * time.Hour
	maxRate     = 1_000_000_000
	maxSize     = 1 << 30
)

// dateLayout is how accept.until is written.
const dateLayout = "2006-01-02"

var (
	durationForm = regexp.MustCompile(`^([1-9][0-9]{0,8})(s|m|h|d)$`)
	briefForm    = regexp.MustCompile(`^([1-9][0-9]{0,4})ms$`)
	rateForm     = regexp.MustCompile(`^([1-9][0-9]{0,9})/(s|m|h|d)$`)
	sizeForm     = regexp.MustCompile(`^([1-9][0-9]{0,9})(KiB|MiB)?$`)
)

var unitLength = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}

// ParseDuration reads 90s, 5m, 24h or 30d: one positive number and one unit,
// at most 3650d.
func ParseDuration(text string) (Duration, error) {
	m := durationForm.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("want a duration such as 90s, 5m, 24h or 30d, from 1s to 3650d")
	}
	n, _ := strconv.ParseInt(m[1], 10, 64) // at most nine digits
	if n > int64(maxDuration/unitLength[m[2]]) {
		return 0, fmt.Errorf("a duration is from 1s to 3650d")
	}
	return Duration(n) * Duration(unitLength[m[2]]), nil
}

// parseBrief reads what ParseDuration does, and 100ms.
func parseBrief(text string) (Duration, error) {
	if m := briefForm.FindStringSubmatch(text); m != nil {
		n, _ := strconv.ParseInt(m[1], 10, 64) // at most five digits
		return Duration(n) * Duration(time.Millisecond), nil
	}
	d, err := ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("want a duration such as 100ms or 2s, from 1ms to 3650d")
	}
	return d, nil
}

// String writes d as ParseDuration reads it, in the largest unit that fits,
// days from two days on.
func (d Duration) String() string {
	switch n := time.Duration(d); {
	case n%time.Millisecond == 0 && n%time.Second != 0:
		return strconv.FormatInt(int64(n/time.Millisecond), 10) + "ms"
	case n%time.Second != 0 || n == 0:
		return n.String()
	case n%(24*time.Hour) == 0 && n >= 48*time.Hour:
		return strconv.FormatInt(int64(n/(24*time.Hour)), 10) + "d"
	case n%time.Hour == 0:
		return strconv.FormatInt(int64(n/time.Hour), 10) + "h"
	case n%time.Minute == 0:
		return strconv.FormatInt(int64(n/time.Minute), 10) + "m"
	default:
		return strconv.FormatInt(int64(n/time.Second), 10) + "s"
	}
}

// ParseRate reads N/s, N/m, N/h or N/d with N from 1 to a thousand million.
func ParseRate(text string) (Rate, error) {
	m := rateForm.FindStringSubmatch(text)
	if m == nil {
		return Rate{}, fmt.Errorf("want a rate such as 10/s, 60/m, 1000/h or 10000/d, from 1 to 1000000000")
	}
	n, _ := strconv.Atoi(m[1]) // at most ten digits
	if n > maxRate {
		return Rate{}, fmt.Errorf("a rate is at most %d", maxRate)
	}
	return Rate{N: n, Per: unitLength[m[2]]}, nil
}

// String writes r as ParseRate reads it, and "" for the zero Rate.
func (r Rate) String() string {
	switch r.Per {
	case time.Second:
		return strconv.Itoa(r.N) + "/s"
	case time.Minute:
		return strconv.Itoa(r.N) + "/m"
	case time.Hour:
		return strconv.Itoa(r.N) + "/h"
	case 24 * time.Hour:
		return strconv.Itoa(r.N) + "/d"
	}
	if r == (Rate{}) {
		return ""
	}
	return fmt.Sprintf("%d/%s", r.N, r.Per)
}

// ParseSize reads a number of bytes: 512, 64KiB or 1MiB, at most 1 GiB.
func ParseSize(text string) (Size, error) {
	m := sizeForm.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("want a size such as 512, 64KiB or 1MiB, from 1 to 1024MiB")
	}
	n, _ := strconv.ParseInt(m[1], 10, 64) // at most ten digits
	switch m[2] {
	case "KiB":
		n <<= 10
	case "MiB":
		n <<= 20
	}
	if n > maxSize {
		return 0, fmt.Errorf("a size is at most 1024MiB")
	}
	return Size(n), nil
}

// String writes s as ParseSize reads it, in the largest unit that fits.
func (s Size) String() string {
	switch n := int64(s); {
	case n >= 1<<20 && n%(1<<20) == 0:
		return strconv.FormatInt(n>>20, 10) + "MiB"
	case n >= 1<<10 && n%(1<<10) == 0:
		return strconv.FormatInt(n>>10, 10) + "KiB"
	default:
		return strconv.FormatInt(n, 10)
	}
}
