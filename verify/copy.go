package verify

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"
)

// copyWithout writes a copy of the file beside it, since everything that the
// file names is relative to its folder, and so are the commands it runs. The
// copy lacks one control, says so, and has its stand-ins on free ports.
func (o FalsifyOptions) copyWithout(control string) (string, error) {
	text, err := os.ReadFile(o.File)
	if err != nil {
		return "", err
	}
	if text, err = edited(text, control); err != nil {
		return "", fmt.Errorf("%s: %w", o.File, err)
	}
	f, err := os.CreateTemp(filepath.Dir(o.File), ".rampart-falsify-*.yaml")
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// edited changes the text of a file through its tree, so that comments, order
// and quoting stay.
func edited(text []byte, control string) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("the file is no mapping")
	}
	root := doc.Content[0]
	if external := member(root, "external"); external != nil {
		for i := 1; i < len(external.Content); i += 2 {
			if err := move(external.Content[i]); err != nil {
				return nil, err
			}
		}
	}
	if services := member(root, "services"); services != nil {
		for i := 1; i < len(services.Content); i += 2 {
			// A throw-away copy proves itself to no authority, and has no others' keys.
			drop(services.Content[i], "acme", "certificate")
		}
	}
	if control != "" {
		var unsafe yaml.Node
		if err := unsafe.Encode(map[string][]string{"disable": {control}}); err != nil {
			return nil, err
		}
		root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: "unsafe"}, &unsafe)
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	if err := enc.Encode(&doc); err != nil {
		return nil, err
	}
	return out.Bytes(), enc.Close()
}

// member returns a mapping's value, nil if it has none of the name.
func member(m *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == name {
			return m.Content[i+1]
		}
	}
	return nil
}

// drop removes members of a mapping.
func drop(m *yaml.Node, names ...string) {
	for i := 0; i+1 < len(m.Content); {
		if slices.Contains(names, m.Content[i].Value) {
			m.Content = slices.Delete(m.Content, i, i+2)
			continue
		}
		i += 2
	}
}

// move puts an external party's stand-in on a free port, if we start it.
func move(external *yaml.Node) error {
	at, run := member(external, "stand_in"), member(external, "run")
	if at == nil || run == nil {
		return nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	at.Value = l.Addr().String()
	return nil
}
