package waf

import (
	"context"
	"net/http"
	"testing"
)

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		e, err := New(Options{})
		if err != nil {
			b.Fatal(err)
		}
		e.Close()
	}
}

func TestFirst(t *testing.T) {
	e, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	v, err := e.Inspect(context.Background(), &Request{Method: "GET", Target: "/?q=1%27%20OR%20%271%27=%271", Host: "localhost", Header: http.Header{"User-Agent": {"x"}, "Accept": {"*/*"}}})
	t.Logf("%+v %v", v, err)
}
