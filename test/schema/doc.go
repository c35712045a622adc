// Package schema runs the JSON-Schema-Test-Suite against package openapi with
// hardening off: what a schema means is not ours to change, only what it leaves
// open. It is a module of its own, because the suite is large and nothing but
// this test needs the module that brings it along.
package schema
