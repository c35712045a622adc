// Package h2spec runs the conformance suite of the same name against the edge of
// a running gateway, beside net/http as it is. It is a module of its own, so that
// the suite is never linked into Rampart.
package h2spec
