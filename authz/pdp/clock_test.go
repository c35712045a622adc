package pdp

import (
	"strings"
	"testing"
	"time"
)

// TestClock plays both clocks: each row moves the wall clock and the monotonic
// one, and then may hear the control plane.
func TestClock(t *testing.T) {
	const none = -1 << 62
	start := time.Unix(1_000_000, 0)
	for name, steps := range map[string][]struct {
		wall, mono time.Duration // each moves on by this
		server     time.Duration // of the control plane ahead of the wall clock; none: nothing is heard
		jumped     bool
	}{
		"in step":            {{time.Hour, time.Hour, none, false}, {time.Hour, time.Hour, 0, false}},
		"a little drift":     {{time.Hour + 9*time.Second, time.Hour, none, false}, {9 * time.Second, 0, none, true}},
		"drift, vouched for": {{9 * time.Second, 0, 0, false}, {9 * time.Second, 0, 0, false}, {9 * time.Second, 0, none, false}},
		"forward":            {{time.Hour, time.Minute, none, true}, {time.Minute, time.Minute, none, true}},
		"back":               {{-time.Minute, time.Second, none, true}},
		"asleep":             {{8 * time.Hour, 0, none, true}, {time.Second, time.Second, 2 * time.Second, false}},
		"wrong, and told so": {{time.Hour, 0, -time.Hour, true}, {-time.Hour, 0, 0, false}},
		"mended in silence":  {{time.Hour, 0, none, true}, {-time.Hour, 0, none, true}, {time.Second, time.Second, 0, false}},
		"their clock jumped": {{time.Minute, time.Minute, time.Hour, false}, {time.Minute, time.Minute, 0, false}},
		"again":              {{time.Hour, 0, 0, false}, {time.Hour, 0, none, true}},
	} {
		wall, mono := start, time.Duration(0)
		c := NewClock(func() time.Time { return wall }, func() time.Duration { return mono })
		if c.Err() != nil {
			t.Errorf("%s: %v before anything happened", name, c.Err())
		}
		for i, s := range steps {
			wall, mono = wall.Add(s.wall), mono+s.mono
			if s.server != none {
				c.Anchor(wall.Add(s.server))
			}
			err := c.Err()
			if (err != nil) != s.jumped || err != nil && !strings.Contains(err.Error(), "jumped by") {
				t.Errorf("%s, step %d: %v", name, i+1, err)
			}
		}
	}
}

func TestClockOfThisMachine(t *testing.T) {
	c := NewClock(nil, nil)
	c.Anchor(time.Now())
	if err := c.Err(); err != nil {
		t.Error(err)
	}
}
