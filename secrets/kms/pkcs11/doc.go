// Package pkcs11 is a key encryption key in a hardware security module, or
// whatever else has a PKCS #11 library. It needs cgo and the build tag pkcs11;
// without them Open says so.
package pkcs11

// control is the id of this control in rampart.yaml and in errors.
const control = "secret.manager"

// Options name a key. All are required.
type Options struct {
	Module  string // absolute path of the library
	Token   string // label of the token
	Key     string // label of the key: AES with 256 bits, sensitive, never to be extracted
	PINFile string // absolute path of a file with the user's PIN, readable by this user alone
}
