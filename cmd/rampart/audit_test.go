package main

import (
	"strings"
	"testing"
	"time"

	"github.com/rampart-security/rampart/monitor/audit"
)

// A line has what an operator needs to act on it: the rules and fields to write
// an exclusion, the address that was banned, and nothing that breaks the line.
func TestPrintEvent(t *testing.T) {
	for name, tc := range map[string]struct {
		event audit.Event
		want  string
	}{
		"a finding of the WAF": {
			audit.Event{Action: "POST /notes", Subject: "user:ann", Peer: "192.0.2.1:9", Control: "waf.rules", Detail: map[string]string{"rules": "942190 in body:/text", "score": "5 of 5"}},
			"user:ann waf.rules rules 942190 in body:/text score 5 of 5",
		},
		"a ban": {
			audit.Event{Action: "ban.begin", Peer: "192.0.2.1", Control: "limit.ban", Detail: map[string]string{"seconds": "60", "step": "1"}},
			"ban.begin 192.0.2.1 limit.ban seconds 60",
		},
		"a field with an escape sequence": {
			audit.Event{Subject: "user:ann", Detail: map[string]string{"fields": "/body/\x1b[2J"}},
			`user:ann fields /body/\x1b[2J`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			tc.event.Time = time.Unix(0, 0)
			if err := printEvent(&b, tc.event, false); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(strings.Fields(b.String()), " "); !strings.HasSuffix(got, tc.want) {
				t.Errorf("got %q, want it to end with %q", got, tc.want)
			}
		})
	}
}
