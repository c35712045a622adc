package store

import "github.com/rampart-security/rampart/secrets/rotate"

// Rotations keeps how far credentials that take turns have come, and which
// versions planes still use.
type Rotations = rotate.Rows
