package bundle

import "fmt"

// Code says which check a bundle failed. It is what audit events carry.
type Code string

// What is wrong with the file.
const (
	CodeFormat     Code = "bundle_format"    // not a tar archive in gzip, no manifest first, or a manifest that does not parse
	CodeUnsigned   Code = "bundle_unsigned"  // no signature
	CodeKey        Code = "bundle_key"       // signed by a key that nobody here trusts
	CodeSignature  Code = "bundle_signature" // the signature is not that of the manifest
	CodeAltered    Code = "bundle_altered"   // a file is not what the manifest says
	CodeUnlisted   Code = "bundle_unlisted"  // a file that the manifest does not list
	CodeMissing    Code = "bundle_missing"   // a file that the manifest lists is not there
	CodeDuplicate  Code = "bundle_duplicate" // two entries of one name
	CodeName       Code = "bundle_name"      // a name that leads out of the bundle, or an entry that is no plain file
	CodeSize       Code = "bundle_size"      // larger than allowed
	CodeSystem     Code = "bundle_system"    // of another system
	CodeRollback   Code = "bundle_rollback"  // older than what was active before, or another one of the same version
	CodeExpired    Code = "bundle_expired"   // past its end
	CodeNotYet     Code = "bundle_not_yet"   // dated more than five minutes ahead
	CodeStaleness  Code = "bundle_stale"     // the newest one has been out of reach for longer than max_staleness
	CodeCompile    Code = "bundle_compile"   // its policies do not load
	CodeTests      Code = "bundle_tests"     // its own tests fail
	CodeReplay     Code = "bundle_replay"    // more past decisions come out otherwise than max_changed allows
	CodeStorage    Code = "bundle_storage"   // it could not be kept on disk
	CodeNotArrived Code = "bundle_none"      // there is none
)

// Error says why a bundle was refused.
type Error struct {
	Code Code
	Err  error // for operators
}

func (e *Error) Error() string { return "bundle: " + e.Err.Error() }

// Unwrap returns what went wrong.
func (e *Error) Unwrap() error { return e.Err }

func refuse(code Code, format string, args ...any) *Error {
	return &Error{code, fmt.Errorf(format, args...)}
}
