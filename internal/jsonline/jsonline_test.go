package jsonline

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/rampart-security/rampart"
)

// same compares got with what encoding/json makes of want.
func same(t *testing.T, want any, got []byte) {
	t.Helper()
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != "before "+string(b) {
		t.Errorf("got %s, want %s", got, b)
	}
}

func before() []byte { return []byte("before ") }

// TestEveryByte: each byte alone and between others is what encoding/json writes.
func TestEveryByte(t *testing.T) {
	for c := range 256 {
		for _, s := range []string{string([]byte{byte(c)}), "ab" + string([]byte{byte(c)}) + "cd", string([]byte{byte(c), byte(c), '"', byte(c)})} {
			same(t, s, String(before(), s))
		}
	}
}

func FuzzString(f *testing.F) {
	for _, s := range []string{"", "gateway>orders", "<a href=\"&\">\\", "\x00\x1f\x7f\t\n\r\b\f", "\xff\xfe", "caf\xc3", "größe", "\u2028\u2029", "😀", "a\xe2\x80"} {
		f.Add(s, 12)
	}
	f.Fuzz(func(t *testing.T, s string, line int) {
		same(t, s, String(before(), s))
		list := []rampart.PolicyRef{{Engine: s, ID: s, File: s, Line: line, Effect: rampart.Allow}, {ID: s}, {Line: 1}}
		same(t, list, Policies(before(), list))
		same(t, list[:0], Policies(before(), nil))
	})
}

func TestTime(t *testing.T) {
	for _, at := range []time.Time{{}, time.Unix(1, 0).UTC(), time.Unix(1<<31, 120).UTC(), time.Date(2026, 3, 1, 12, 0, 0, 5, time.FixedZone("", -3*3600-60))} {
		got, err := Time(before(), at)
		if err != nil {
			t.Fatal(err)
		}
		same(t, at, got)
	}
	for name, at := range map[string]time.Time{"a year of five digits": time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC), "an odd zone": time.Date(2026, 1, 1, 0, 0, 0, 0, time.FixedZone("", 86_400))} {
		if got, err := Time(before(), at); err == nil || string(got) != "before " {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

// TestStamp: whatever was appended before, a time is appended as by Time.
func TestStamp(t *testing.T) {
	var s Stamp
	for _, sec := range []int64{0, 0, 1 << 31, 1<<31 + 1, -1, 253402300799, 253402300800, 1 << 31, -62167219200, -62167219201, 5} {
		for _, ns := range []int64{0, 1, 10, 120, 1e6, 1e8, 999_999_999, 987_654_321} {
			at := time.Unix(sec, ns).UTC()
			for _, at := range []time.Time{at, at.In(time.FixedZone("", 3600)), at.In(time.FixedZone("WET", 0)), at} {
				want, errWant := Time(before(), at)
				got, err := s.Time(before(), at)
				if string(got) != string(want) || (err == nil) != (errWant == nil) {
					t.Errorf("got %s, %v, want %s, %v", got, err, want, errWant)
				}
			}
		}
	}
}

func BenchmarkTime(b *testing.B) {
	buf, now := make([]byte, 0, 128), time.Unix(1<<31, 123_456_789).UTC()
	b.Run("each", func(b *testing.B) {
		for b.Loop() {
			buf, _ = Time(buf[:0], now)
		}
	})
	b.Run("of one second", func(b *testing.B) {
		var s Stamp
		for b.Loop() {
			buf, _ = s.Time(buf[:0], now)
		}
	})
}

func BenchmarkString(b *testing.B) {
	buf := make([]byte, 0, 128)
	b.ReportAllocs()
	for b.Loop() {
		buf = String(buf[:0], "spiffe://shop.internal/gateway>orders/0190d1e5-7e9a-7cc1")
	}
}
