package control_test

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/tls/svid"
)

func (h *house) revokes(kind, id string) {
	h.t.Helper()
	h.mustAdmin(wire.AdminRevoke, wire.Revocation{Kind: kind, ID: id}, nil)
}

// marked is how each certificate on record is marked, by its serial.
func (h *house) marked() map[string]string {
	h.t.Helper()
	var list []wire.Issued
	must(h.t, h.admin(http.MethodGet, wire.AdminIssuing, nil, &list))
	out := map[string]string{}
	for _, c := range list {
		if out[c.Serial] = c.RevokedBy; (c.RevokedBy == "") != c.Revoked.IsZero() || c.Revoked.After(h.now()) {
			h.t.Errorf("%s is revoked by %q since %v", c.ID, c.RevokedBy, c.Revoked)
		}
	}
	return out
}

// listed is the serials on the lists, by the key id of who signed each, and what
// stands on none.
func (h *house) listed() (lists map[string][]string, unlisted []string) {
	h.t.Helper()
	var crl wire.CRL
	must(h.t, h.admin(http.MethodGet, wire.AdminCRL, nil, &crl))
	lists = map[string][]string{}
	for block, rest := pem.Decode([]byte(crl.PEM)); block != nil; block, rest = pem.Decode(rest) {
		list, err := x509.ParseRevocationList(block.Bytes)
		must(h.t, err)
		var serials []string
		for _, e := range list.RevokedCertificateEntries {
			serials = append(serials, e.SerialNumber.Text(16))
		}
		slices.Sort(serials)
		lists[keyID(list.AuthorityKeyId)] = serials
	}
	for _, c := range crl.Unlisted {
		unlisted = append(unlisted, c.Serial)
	}
	return lists, unlisted
}

func keyID(raw []byte) string { return svid.KeyID(&x509.Certificate{SubjectKeyId: raw}) }

func serial(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

// TestWhatIsRevokedIsListed: by serial, by the id of its holder up to the cut-off,
// and by its issuer; on the lists, and where certificates are shown.
func TestWhatIsRevokedIsListed(t *testing.T) {
	h := open(t, "")
	old, payments, mail := h.joined("service/orders"), h.joined("service/payments"), h.joined("service/mail")
	st := h.caStatus()
	issuer, root := st.Issuing.KeyID, st.Roots[0].KeyID
	h.revokes("svid", h.sys.ServiceID("orders"))
	young := h.joined("service/orders")
	h.revokes(wire.RevokedSerial, issuer+"."+serial(payments))
	h.revokes(wire.RevokedSerial, issuer+".12") // forged, and not on record
	marked := h.marked()
	for c, want := range map[*x509.Certificate]string{old: "id", young: "", payments: "serial", mail: ""} {
		if got := marked[serial(c)]; got != want {
			t.Errorf("%s of %s is marked %q, want %q", serial(c), c.URIs[0], got, want)
		}
	}
	lists, unlisted := h.listed()
	want := []string{"12", serial(old), serial(payments)}
	slices.Sort(want)
	if diff := cmp.Diff(map[string][]string{issuer: want, root: nil}, lists); diff != "" || unlisted != nil {
		t.Errorf("on no list %q, on lists: -want +got\n%s", unlisted, diff)
	}

	h.revokes(wire.RevokedIssuer, issuer)
	if got := h.marked()[serial(mail)]; got != "issuer" {
		t.Errorf("what a revoked issuer signed is marked %q", got)
	}
	block, _ := pem.Decode([]byte(st.Issuing.PEM))
	gone, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	lists, unlisted = h.listed()
	if diff := cmp.Diff(map[string][]string{h.caStatus().Issuing.KeyID: nil, root: {serial(gone)}}, lists); diff != "" || unlisted != nil {
		t.Errorf("below an issuer on its root's list %q, on lists: -want +got\n%s", unlisted, diff)
	}
}

// TestListsWhileARootIsReplaced: both issuing certificates have theirs, until the
// key of the old one is gone; what it signed is named then.
func TestListsWhileARootIsReplaced(t *testing.T) {
	h := open(t, "")
	_, csr, err := svid.NewKeyAndCSR()
	must(t, err)
	var id wire.Identity
	h.mustAdmin(wire.AdminCAWrite, wire.CAWrite{Names: []string{"localhost"}, CSR: csr}, &id) // lives for 7 days
	server, err := x509.ParseCertificate(id.Chain[0])
	must(t, err)
	issuer := h.caStatus().Issuing.KeyID
	h.revokes(wire.RevokedSerial, issuer+"."+serial(server))
	for _, to := range []string{"prepare", "publish"} {
		must(t, h.step(to))
	}
	forced := func(to string) { // servers do not say that they have followed
		must(t, h.admin(http.MethodPost, wire.AdminCA, wire.CAStep{To: to, Force: true, Reason: "test"}, nil))
	}
	forced("activate")
	lists, unlisted := h.listed()
	if len(lists) != 4 || !slices.Contains(lists[issuer], serial(server)) || unlisted != nil {
		t.Errorf("while both count: %v, on none %q", lists, unlisted)
	}
	forced("retire")
	lists, unlisted = h.listed()
	if !slices.Contains(unlisted, serial(server)) || len(lists) != 2 {
		t.Errorf("when the old root is gone: %v, on none %q", lists, unlisted)
	}
}

// TestStatusOfCertificates: a plane whose certificate has ended is not ready,
// however lately it was heard.
func TestStatusOfCertificates(t *testing.T) {
	h := open(t, "")
	for plane, left := range map[string]time.Duration{"orders": time.Hour, "payments": -time.Second} {
		hb := wire.Heartbeat{Plane: "sidecar/" + plane, Instance: "i1", Trust: wire.TrustState{Version: 1, Until: h.now().Add(left)}}
		must(t, h.call("service/"+plane, http.MethodPost, wire.PathHeartbeat, hb, nil))
	}
	must(t, h.call("service/mail", http.MethodPost, wire.PathHeartbeat, wire.Heartbeat{Plane: "sidecar/mail", Instance: "i1"}, nil))
	for _, step := range []struct {
		pass  time.Duration
		ready map[string]bool
	}{
		{0, map[string]bool{"sidecar/orders": true, "sidecar/payments": false, "sidecar/mail": false}},
		{11 * time.Second, map[string]bool{"sidecar/orders": false, "sidecar/payments": false, "sidecar/mail": false}},
	} {
		h.pass(step.pass)
		var st wire.Status
		must(t, h.admin(http.MethodGet, wire.AdminStatus, nil, &st))
		got := map[string]bool{}
		for _, p := range st.Planes {
			got[p.Plane] = p.Ready
			if (p.CertificateSeconds > 3500) != (p.Plane == "sidecar/orders") {
				t.Errorf("%s: %v s left", p.Plane, p.CertificateSeconds)
			}
		}
		if diff := cmp.Diff(step.ready, got); diff != "" {
			t.Errorf("ready after %v: -want +got\n%s", step.pass, diff)
		}
	}
}
