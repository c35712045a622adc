// Package conformance holds relation graphs against the assertions that OpenFGA
// ships for its own server. There is nothing to import.
package conformance
