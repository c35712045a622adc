// Package vectors runs public test vectors against the verifier of package jwt and
// the cipher of package envelope.
// It is a module of its own, because the vectors are large and nothing but this
// test needs them.
package vectors
