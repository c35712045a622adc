// Package passkey answers "does this person hold the authenticator that they
// registered?" with WebAuthn (W3C Web Authentication, level 3).
//
// Every passkey is discoverable and every ceremony demands user verification,
// so that a passkey alone is two factors: the device, and what unlocks it.
package passkey
