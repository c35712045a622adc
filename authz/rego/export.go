package rego

import "github.com/rampart-security/rampart/authz"

// InputSchema is the JSON Schema of input, as encoding/json writes it: what
// policies may read. Editors and other tools can check policies by it.
func InputSchema(s *authz.Schema) any { return inputSchema(s) }
