package pii

import (
	"context"
	"errors"
	"strings"

	"github.com/rampart-security/rampart"
	"github.com/rampart-security/rampart/data/envelope"
)

// Ways to normalise a value before it is searched by equality: spec.Data.Search.
const (
	searchEmail = "email"
	searchPhone = "phone"
	searchExact = "exact"
)

const (
	indexLabel  = "blind-index"
	indexSize   = 16 // bytes
	maxVersions = 8  // of search keys that a lookup tries
)

// Index returns the blind index of a value: 16 bytes that are equal for equal
// values of one tenant, table and column, and say nothing else to who has no key.
// It goes into a column beside the sealed one; rampart.yaml declares with search
// that c.Column may be searched, and how its values are normalised. Row and
// Subject of c do not count.
//
// An index shows which rows are equal, and how many. After a person was shredded
// clear it in that person's rows: Rekey does.
func (k *Keys) Index(ctx context.Context, c Cell, value string) ([]byte, error) {
	return k.index(ctx, c, c.Column, value)
}

// Lookup returns all indexes under which a value may stand, newest key first:
// after a rekey rows have old ones until Rekey has been at them. Search with
// WHERE column IN (...).
func (k *Keys) Lookup(ctx context.Context, c Cell, value string) ([][]byte, error) {
	return k.lookup(ctx, c, c.Column, value)
}

func (k *Keys) index(ctx context.Context, c Cell, field, value string) ([]byte, error) {
	text, err := k.normalised(c.Item, field, value)
	if err != nil {
		return nil, err
	}
	key, err := k.derived(ctx, derivedName{c.Item, c.Tenant, indexOf(c), 0})
	if err != nil {
		return nil, err
	}
	return cut(key, text), nil
}

func (k *Keys) lookup(ctx context.Context, c Cell, field, value string) ([][]byte, error) {
	text, err := k.normalised(c.Item, field, value)
	if err != nil {
		return nil, err
	}
	newest, err := k.derived(ctx, derivedName{c.Item, c.Tenant, indexOf(c), 0})
	if err != nil {
		return nil, err
	}
	out := [][]byte{cut(newest, text)}
	for v := newest.version - 1; v > 0 && len(out) < maxVersions; v-- {
		key, err := k.derived(ctx, derivedName{c.Item, c.Tenant, indexOf(c), v})
		if rampart.KindOf(err) == rampart.NotFound {
			break
		}
		if err != nil {
			return nil, err
		}
		out = append(out, cut(key, text))
	}
	return out, nil
}

// indexOf labels the key of one column. Lengths keep the two apart.
func indexOf(c Cell) string {
	return indexLabel + string(envelope.Lengths(c.Table, c.Column))
}

func cut(key derivedKey, text string) []byte {
	return envelope.MAC(key.key, []byte(text))[:indexSize]
}

// normalised is the form of a value that its index is of.
func (k *Keys) normalised(item, field, value string) (string, error) {
	how, ok := k.svc.Info().Search[item][field]
	if !ok {
		return "", rampart.Errorf(rampart.Internal, sealing, "pii: rampart.yaml does not say that %s of %s is searched; add search: { %s: exact }", field, item, field)
	}
	return normalise(how, value)
}

func normalise(how, value string) (string, error) {
	switch how {
	case searchEmail:
		return strings.ToLower(strings.TrimSpace(value)), nil
	case searchPhone:
		return phone(value)
	case searchExact:
		return value, nil
	}
	return "", rampart.Errorf(rampart.Internal, sealing, "pii: this version does not know how to normalise for %q", how)
}

var errNoPhone = errors.New("no digits")

// phone keeps the digits, and a plus in front of them; 00 is one. National and
// international forms stay different: store what ITU-T E.164 says.
func phone(value string) (string, error) {
	var b strings.Builder
	for _, r := range value {
		if r == '+' && b.Len() == 0 || r >= '0' && r <= '9' {
			b.WriteRune(r)
		}
	}
	text := b.String()
	if rest, ok := strings.CutPrefix(text, "00"); ok {
		text = "+" + rest
	}
	if strings.Trim(text, "+") == "" {
		return "", &rampart.Error{Kind: rampart.Invalid, Control: sealing, Msg: "this is no phone number", Err: errNoPhone}
	}
	return text, nil
}
