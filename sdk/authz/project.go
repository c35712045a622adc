package authz

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/rampart-security/rampart"
)

// Bounds of Project.
const (
	maxProjected = 8 << 20 // bytes of what is shown from
	maxShown     = 64      // nesting
	maxNames     = 1000    // of Fields.Only and Fields.Mask each
)

// Project returns v as JSON with no more than fields lets be seen, for
// rest.Write: members that Only leaves out are gone, those under Mask are null.
// A name goes through arrays: "items.price" is the price of every item, and a
// list of objects is shown as each of them would be. nil shows all of v. Where
// fields name members of a value that has none, the value is left out (Only) or
// null (Mask); where v itself is such a value there is an error.
func Project(fields *rampart.Fields, v any) (json.RawMessage, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("authz: %w", err)
	}
	if fields == nil {
		return b, nil
	}
	var out bytes.Buffer
	if err := project(&out, bytes.NewReader(b), *fields); err != nil {
		return nil, fmt.Errorf("authz: %w", err)
	}
	return out.Bytes(), nil
}

// names is a set of dotted names as a tree.
type names struct {
	whole bool // the name ends here: all below belongs to it
	under map[string]*names
}

func treeOf(list []string) (*names, error) {
	if len(list) > maxNames {
		return nil, fmt.Errorf("more than %d names of fields", maxNames)
	}
	root := &names{}
	for _, name := range list {
		at := root
		for part := range strings.SplitSeq(name, ".") {
			if at.under == nil {
				at.under = map[string]*names{}
			}
			if at.under[part] == nil {
				at.under[part] = &names{}
			}
			at = at.under[part]
		}
		at.whole = true
	}
	return root, nil
}

// down follows a member's name; one with dots is several. A nil tree has nothing
// below, and a whole one everything.
func (n *names) down(member string) *names {
	for part := range strings.SplitSeq(member, ".") {
		if n == nil || n.whole {
			return n
		}
		n = n.under[part]
	}
	return n
}

// view says what may be seen of one value.
type view struct {
	only *names // whole: all; nil: nothing
	mask *names // whole: nothing but null; nil: no mask
}

func (v view) down(member string) view { return view{v.only.down(member), v.mask.down(member)} }

func (v view) gone() bool   { return v.only == nil }
func (v view) masked() bool { return v.mask != nil && v.mask.whole }

// simple says whether a value without members may be seen, and whether as null.
func (v view) simple() (shown, null bool) {
	return v.only != nil && v.only.whole, v.mask != nil
}

// projection copies JSON, token by token.
type projection struct {
	in  *json.Decoder
	out *bufio.Writer
}

func project(w io.Writer, r io.Reader, f rampart.Fields) error {
	v := view{only: &names{whole: true}}
	var err error
	if f.Only != nil {
		if v.only, err = treeOf(f.Only); err != nil {
			return err
		}
	}
	if len(f.Mask) > 0 {
		if v.mask, err = treeOf(f.Mask); err != nil {
			return err
		}
	}
	p := projection{in: json.NewDecoder(io.LimitReader(r, maxProjected)), out: bufio.NewWriter(w)}
	p.in.UseNumber()
	first, err := p.in.Token()
	if err != nil {
		return err
	}
	if _, compound := first.(json.Delim); !compound && (!v.only.whole || v.mask != nil) {
		return fmt.Errorf("what may be seen are fields, and the value has none")
	}
	if err := p.value(first, v, 0); err != nil {
		return err
	}
	return p.out.Flush()
}

// value copies the value that begins with first.
func (p projection) value(first json.Token, v view, depth int) error {
	if depth > maxShown {
		return fmt.Errorf("values are nested deeper than %d", maxShown)
	}
	switch first {
	case json.Delim('{'):
		return p.object(v, depth)
	case json.Delim('['):
		return p.array(v, depth)
	}
	if _, null := v.simple(); null {
		first = nil
	}
	return p.scalar(first)
}

func (p projection) scalar(t json.Token) error {
	b, err := json.Marshal(t)
	if err == nil {
		_, err = p.out.Write(b)
	}
	return err
}

func (p projection) object(v view, depth int) error {
	p.out.WriteByte('{')
	shown := 0
	for p.in.More() {
		key, err := p.in.Token()
		if err != nil {
			return err
		}
		name, _ := key.(string)
		n, err := p.element(v.down(name), shown, depth, key)
		if err != nil {
			return err
		}
		shown += n
	}
	p.out.WriteByte('}')
	_, err := p.in.Token()
	return err
}

func (p projection) array(v view, depth int) error {
	p.out.WriteByte('[')
	shown := 0
	for p.in.More() {
		n, err := p.element(v, shown, depth, nil)
		if err != nil {
			return err
		}
		shown += n
	}
	p.out.WriteByte(']')
	_, err := p.in.Token()
	return err
}

// element copies the next member (with its key) or element (without) if it may
// be seen, and returns how many it copied.
func (p projection) element(v view, before, depth int, key json.Token) (int, error) {
	first, err := p.in.Token()
	if err != nil {
		return 0, err
	}
	_, compound := first.(json.Delim)
	if shown, _ := v.simple(); v.gone() || !compound && !shown {
		return 0, p.skip(first)
	}
	if before > 0 {
		p.out.WriteByte(',')
	}
	if key != nil {
		if err := p.scalar(key); err != nil {
			return 0, err
		}
		p.out.WriteByte(':')
	}
	if v.masked() {
		p.out.WriteString("null")
		return 1, p.skip(first)
	}
	return 1, p.value(first, v, depth+1)
}

// skip reads to the end of the value that begins with first.
func (p projection) skip(first json.Token) error {
	depth := 0
	for t := first; ; {
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
		var err error
		if t, err = p.in.Token(); err != nil {
			return err
		}
	}
}
