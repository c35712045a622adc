// Package mfa answers "is it still the same person, by something they have?"
// with TOTP (RFC 6238), passkeys (WebAuthn) and recovery codes.
package mfa
