package relay

import "testing"

func TestHeaders(t *testing.T) {
	in := Inbound([]string{"X-Request-Source"}, []string{"Last-Event-Id", "Remote-User", "Cookie", "Rampart-Identity", "X-Forwarded-For", "Proxy", "X-Http-Method-Override", "X-Original-Url", "X-Api-Key", "Connection"})
	for name, want := range map[string]struct{ in, declarable, out bool }{
		"Accept":           {true, true, true},
		"Content-Type":     {true, true, true},
		"If-None-Match":    {true, true, true},
		"Range":            {true, true, true},
		"X-Request-Source": {true, true, true},
		"Last-Event-Id":    {true, true, true},
		"Remote-User":      {true, true, true}, // a service that asks for it gets the caller's word

		"X-Webauth-User":         {false, true, true},
		"X-Real-Ip":              {false, true, true},
		"Ssl-Client-Verify":      {false, true, true},
		"X-Client-Cert":          {false, true, true},
		"Origin":                 {false, true, true}, // the edge has judged it
		"Idempotency-Key":        {false, true, true},
		"X-Api-Key":              {false, false, true},
		"Authorization":          {false, false, false},
		"Cookie":                 {false, false, false},
		"Rampart-Identity":       {false, false, false},
		"X-Forwarded-For":        {false, false, false},
		"Forwarded":              {false, false, false},
		"Traceparent":            {false, false, false},
		"Proxy":                  {false, false, false},
		"X-Http-Method-Override": {false, false, false},
		"X-Original-Url":         {false, false, false},
		"Connection":             {false, false, true}, // Request stops it
		"Remote_user":            {false, false, true}, // no request has it: canonical.Headers refuses the underscore
	} {
		if got := in(name); got != want.in {
			t.Errorf("%s in: %v", name, got)
		}
		if got := Declarable(name); got != want.declarable {
			t.Errorf("%s declared: %v", name, got)
		}
		if got := Outbound(name); got != want.out {
			t.Errorf("%s out: %v", name, got)
		}
	}
	if Declarable("authorization") || Declarable("x y") || Declarable("") {
		t.Error("a name passes for another in disguise")
	}
}
