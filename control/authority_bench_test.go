package control

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/monitor/audit"
)

// Issue renews a certificate without a connection, for the benchmark.
func Issue(p *Plane, csr []byte) error {
	_, err := IssueIdentity(p, csr)
	return err
}

// IssueIdentity is Issue, and returns what the service orders is told.
func IssueIdentity(p *Plane, csr []byte) (out wire.Identity, err error) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/v1/renew", nil)
	id, ok := p.byPath("service/orders")
	if !ok {
		return out, errors.New("no such service")
	}
	err = p.issue(w, r, csr, id, audit.Event{Class: audit.ClassKey, Action: "svid.renew", Control: authorityControl, Peer: r.RemoteAddr})
	if err == nil {
		err = json.Unmarshal(w.Body.Bytes(), &out)
	}
	return out, err
}
