//go:build suite

package schema

import _ "github.com/kaptinlin/jsonschema" // for its testdata, which is read from the module cache and never built
