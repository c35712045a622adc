package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestChildrenSeeLittle starts real processes that print what they see.
func TestChildrenSeeLittle(t *testing.T) {
	for _, name := range []string{"AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "RAMPART_ANYTHING", "LD_PRELOADED", "HTTPS_PROXY", "GOPRIVATE_KEY", "LC", "TZ", "LC_ALL", "GOFLAGS", "GOGCX", "SSL_CERT_FILE"} {
		t.Setenv(name, "operator")
	}
	t.Setenv("GOMAXPROCS", "2=operator")
	for _, tc := range []struct {
		service bool
		want    []string // of the names set above, and what the runner sets
	}{
		{false, []string{"GOMAXPROCS=2=operator", "PORT=1", "SSL_CERT_FILE=operator", "TZ=operator"}},
		{true, []string{"GOFLAGS=operator", "GOMAXPROCS=2=operator", "LC_ALL=operator", "PORT=1", "SSL_CERT_FILE=operator", "TZ=operator"}},
	} {
		log := filepath.Join(t.TempDir(), "log")
		r := runner{}
		r.once(context.Background(), child{name: "env", args: []string{"env"}, dir: ".", log: log, service: tc.service, env: []string{"PORT=1"}})
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Fields(string(b))
		slices.Sort(got)
		foreign := func(v string) bool { return !strings.HasSuffix(v, "=operator") && v != "PORT=1" }
		if path := slices.ContainsFunc(got, func(v string) bool { return strings.HasPrefix(v, "PATH=") }); path != tc.service {
			t.Errorf("service %t: PATH is passed on: %t", tc.service, path)
		}
		if diff := cmp.Diff(tc.want, slices.DeleteFunc(got, foreign)); diff != "" {
			t.Errorf("service %t: -want +got\n%s", tc.service, diff)
		}
	}
}
