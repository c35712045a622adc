//go:build system

package system

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rampart-security/rampart/internal/wire"
)

// TestRotation replaces the root of five services while requests come at a fixed
// rate, some of them through four services in a row. No request fails, and at the
// end nothing shows or believes the old root. Leaves of 20 seconds and the issuing
// certificate rotate along the way.
//
// With RAMPART_LONG=1 there are 500 requests a second for a minute at least.
func TestRotation(t *testing.T) {
	if os.Getenv("RAMPART_LONG") == "" {
		t.Parallel()
	}
	need(t, "python3")
	rate, least := 50, 20*time.Second
	if os.Getenv("RAMPART_LONG") != "" {
		rate, least = 500, 60*time.Second
	}
	r := start(t, relaySystem(t), "--svid-ttl", "20s")
	alice := r.login("alice")
	before := r.authority()
	serials := map[string]string{}
	for _, s := range chain[1:] {
		serials[s] = r.serial(s)
	}
	edge := r.believer(alice)

	load := startSteady(t.Context(), rate, func(n int) error {
		path := "/orders/hop"
		if n%25 == 0 {
			path += "?then=payments,notifications,ledger"
		}
		return edge.get(r.base() + path)
	})
	began := time.Now()
	time.Sleep(2 * time.Second)
	must(t, "", binary, "ca", "rotate", "--wait", "--yes", "--state", r.dir)
	took := time.Since(began)
	time.Sleep(max(0, least-took))
	sent, failures := load.end()
	for _, f := range failures[:min(len(failures), 10)] {
		t.Error(f)
	}
	if len(failures) > 0 {
		t.Fatalf("%d of %d requests failed", len(failures), sent)
	}
	t.Logf("%d requests in %v, %d a second, none failed; the root was replaced in %v", sent, time.Since(began).Round(time.Second), int(float64(sent)/time.Since(began).Seconds()), took.Round(100*time.Millisecond))

	if !r.load() { // the new root
		t.Fatal("run/system.json cannot be read")
	}
	after := r.authority()
	if len(after.Roots) != 1 || after.Roots[0].KeyID == before.Roots[0].KeyID || after.Step != "" || after.Issuing.KeyID == before.Issuing.KeyID {
		t.Fatalf("the authority after the rotation: %+v", after)
	}
	for _, s := range chain[1:] {
		if r.serial(s) == serials[s] {
			t.Errorf("the sidecar of %s still shows its first certificate", s)
		}
		r.chainsTo(s, after.Roots[0].KeyID)
	}
	r.auditHolds()
}

// authority is what `rampart ca status` says.
func (r *running) authority() (st wire.CAStatus) {
	r.t.Helper()
	out := must(r.t, "", binary, "ca", "status", "--json", "--state", r.dir)
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		r.t.Fatal(err)
	}
	return st
}

// chainsTo demands that a sidecar shows a certificate below the root, which the
// system's own file of roots has alone.
func (r *running) chainsTo(service, root string) {
	r.t.Helper()
	pool, ids := r.rootsNow()
	if !slices.Equal(ids, []string{root}) {
		r.t.Errorf("ca.pem holds %v, want the new root alone", ids)
	}
	conn, err := tls.Dial("tcp", r.Sidecars[service], &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	shown := conn.ConnectionState().PeerCertificates
	if err := verified(shown, pool); err != nil {
		r.t.Errorf("%s: %v", service, err)
	}
}

func verified(shown []*x509.Certificate, roots *x509.CertPool) error {
	between := x509.NewCertPool()
	for _, c := range shown[1:] {
		between.AddCert(c)
	}
	_, err := shown[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err
}

// rootsNow reads ca.pem as it is now.
func (r *running) rootsNow() (*x509.CertPool, []string) {
	pool, ids := x509.NewCertPool(), []string{}
	b, err := os.ReadFile(filepath.Join(r.dir, "ca.pem"))
	if err != nil {
		r.t.Error(err)
		return pool, nil
	}
	for _, c := range certificates(b) {
		pool.AddCert(c)
		ids = append(ids, hex.EncodeToString(c.SubjectKeyId))
	}
	return pool, ids
}

// believer is a client that believes what ca.pem holds at each handshake, as a
// machine does on which `rampart ca trust` is kept up to date.
type believer struct{ http.Client }

func (r *running) believer(session *http.Client) *believer {
	tr := &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64, TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, // VerifyConnection verifies instead
		VerifyConnection: func(cs tls.ConnectionState) error {
			roots, _ := r.rootsNow()
			return verified(cs.PeerCertificates, roots)
		},
	}}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &believer{http.Client{Jar: session.Jar, Transport: tr, Timeout: 20 * time.Second}}
}

func (b *believer) get(url string) error {
	res, err := b.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%d %.300s", res.StatusCode, body)
	}
	var h hop
	if err := json.Unmarshal(body, &h); err != nil {
		return err
	}
	for at := &h; at != nil; at = at.Next {
		if at.Status != 0 && at.Status != http.StatusOK {
			return fmt.Errorf("%s got %d from the next", at.Service, at.Status)
		}
	}
	return nil
}

// steady is requests at a fixed rate, whether or not those before are answered.
type steady struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	sent   atomic.Int64

	mu     sync.Mutex
	failed []error
}

func startSteady(ctx context.Context, rate int, request func(n int) error) *steady {
	ctx, cancel := context.WithCancel(ctx)
	l := &steady{cancel: cancel}
	l.done.Go(func() {
		began := time.Now()
		for n := 0; ; n++ { // what a busy machine kept it from sending in time goes out at once
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(rate)))):
			}
			l.done.Go(func() {
				l.sent.Add(1)
				if err := request(n); err != nil {
					l.mu.Lock()
					defer l.mu.Unlock()
					l.failed = append(l.failed, fmt.Errorf("request %d at %s: %w", n, time.Now().Format(time.TimeOnly), err))
				}
			})
		}
	})
	return l
}

// end waits for what is under way.
func (l *steady) end() (sent int64, failures []error) {
	l.cancel()
	l.done.Wait()
	return l.sent.Load(), l.failed
}

// certificates reads a PEM file of certificates.
func certificates(text []byte) []*x509.Certificate {
	var out []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, c)
		}
	}
	return out
}
