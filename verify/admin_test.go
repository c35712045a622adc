package verify

import (
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a run made is revoked, all of it, before the first of it is removed: a
// run that is cut short there leaves nothing that opens anything.
func TestCloseRemovesIdentities(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = append(got, r.Method+" "+r.URL.Path) })}
	go srv.Serve(l)
	run := &target{admin: newAdmin(socket)}
	run.atEnd("sub", (&account{name: "verify-x-1"}).subject())
	run.atEnd("client", "verify-x-shop")
	run.close()
	srv.Close()
	want := []string{"POST /admin/revoke", "POST /admin/revoke", "DELETE /admin/users/verify-x-1", "DELETE /admin/clients/verify-x-shop"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}
