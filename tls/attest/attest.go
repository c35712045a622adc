// Package attest says which plane a proof is of: a Kubernetes service account, or
// a process on the same machine as the kernel describes it. Both last, unlike a
// join token: a plane can prove itself again whenever its certificate has ended.
package attest

import (
	"context"

	"github.com/rampart-security/rampart"
)

const control = "mtls.required"

// Attested is what a proof showed.
type Attested struct {
	Name      string            // of the service, gateway or queue in rampart.yaml
	Selectors map[string]string // what was looked at, for the record
}

// Kubernetes knows the service accounts of one cluster.
type Kubernetes struct {
	// Verify returns the account, NAMESPACE/NAME, of a token that the cluster signed
	// for us; required. It makes no call to the cluster.
	Verify   func(ctx context.Context, token string) (account string, err error)
	Accounts map[string]string // account -> name
}

// Attest returns whose plane shows the token. Errors are of kind Unauthenticated
// for a token that proves nothing, and Denied for an account that is nobody's.
func (k Kubernetes) Attest(ctx context.Context, token string) (Attested, error) {
	if k.Verify == nil {
		return Attested{}, rampart.Errorf(rampart.Denied, control, "attest: no cluster may vouch for planes")
	}
	account, err := k.Verify(ctx, token)
	if err != nil {
		e := rampart.Errorf(rampart.Unauthenticated, control, "attest: the service-account token proves nothing")
		e.Err = err
		return Attested{}, e
	}
	name, ok := k.Accounts[account]
	if !ok {
		return Attested{}, rampart.Errorf(rampart.Denied, control, "attest: service account %.320q is no plane of this system", account)
	}
	return Attested{name, map[string]string{"account": account}}, nil
}

// Process is what a plane's process must be. UID is the boundary; Exe and SHA256
// find mistakes, as any process of that user can become that program: see Peer.
type Process struct {
	UID    uint32
	Exe    string // absolute path of its program
	SHA256 string // of that file, lower-case hex; "": any content
}

// Unix knows the processes of this machine that are planes.
type Unix struct {
	Processes map[string]Process // by name
}

// Attest reports whether the process at the other end of a socket is the plane
// that it says it is. Errors are of kind Denied; Unavailable when the kernel did
// not say.
func (u Unix) Attest(peer *Peer, name string) (Attested, error) {
	want, ok := u.Processes[name]
	if !ok {
		return Attested{}, rampart.Errorf(rampart.Denied, control, "attest: no process may be %.100q", name)
	}
	if peer == nil {
		return Attested{}, rampart.Errorf(rampart.Unauthenticated, control, "attest: only the control plane's own socket tells who is at its other end")
	}
	if peer.UID != want.UID {
		return Attested{}, rampart.Errorf(rampart.Denied, control, "attest: user %d may not be %.100q", peer.UID, name)
	}
	program, err := peer.Program()
	if err != nil {
		return Attested{}, err
	}
	if program.Exe != want.Exe || want.SHA256 != "" && program.SHA256 != want.SHA256 {
		return Attested{}, rampart.Errorf(rampart.Denied, control, "attest: program %.200q with SHA-256 %s may not be %.100q", program.Exe, program.SHA256, name)
	}
	return Attested{name, program.selectors(peer)}, nil
}
