package main

import (
	"path/filepath"
	"testing"

	"github.com/rampart-security/rampart/secrets/lint"
)

// TestThisRepository: what this project asks of others holds here.
func TestThisRepository(t *testing.T) {
	r, err := lint.Scan(t.Context(), filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		t.Errorf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.Title)
	}
	if r.Files < 500 {
		t.Errorf("only %d files were read", r.Files)
	}
}
