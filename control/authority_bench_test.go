package control

import (
	"errors"
	"net/http"
	"net/http/httptest"

	"github.com/rampart-security/rampart/monitor/audit"
)

// Issue renews a certificate without a connection, for the benchmark.
func Issue(p *Plane, csr []byte) error {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/v1/renew", nil)
	id, ok := p.byPath("service/orders")
	if !ok {
		return errors.New("no such service")
	}
	return p.issue(w, r, csr, id, audit.Event{Class: audit.ClassKey, Action: "svid.renew", Control: authorityControl, Peer: r.RemoteAddr})
}
