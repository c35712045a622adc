package filter

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rampart-security/rampart/authz"
)

// Bounds of a filter. Validate, the renderers and both directions of JSON
// enforce them.
const (
	MaxDepth = 64     // conditions within conditions; chains of And or of Or count once
	MaxNodes = 10_000 // conditions
	MaxList  = 10_000 // members of one list
	maxItems = 10 * MaxList
)

// maxExact is the magnitude up to which float64 tells all decimals with four
// digits apart.
const maxExact = float64(1<<53) / 1e4

// size is what is left of the bounds.
type size struct{ nodes, items int }

// checkBounds reports what of e is too large, or a literal that is none.
func checkBounds(e Expr) error {
	s := size{nodes: MaxNodes, items: maxItems}
	return s.check(e, MaxDepth)
}

func (s *size) check(e Expr, depth int) error {
	if s.nodes--; s.nodes < 0 {
		return fmt.Errorf("a filter holds at most %d conditions", MaxNodes)
	}
	if depth == 0 {
		return fmt.Errorf("a filter is at most %d conditions deep", MaxDepth)
	}
	switch e := e.(type) {
	case Not:
		return s.check(e.X, depth-1)
	case Total:
		return s.check(e.X, depth-1)
	case And:
		return s.checkChain(chain(nil, e, true), depth)
	case Or:
		return s.checkChain(chain(nil, e, false), depth)
	}
	for _, o := range operands(e) {
		if err := s.checkOperand(o); err != nil {
			return err
		}
	}
	return nil
}

func (s *size) checkChain(parts []Expr, depth int) error {
	for _, p := range parts {
		if err := s.check(p, depth-1); err != nil {
			return err
		}
	}
	return nil
}

func (s *size) checkOperand(o Operand) error {
	lit, ok := o.(Lit)
	if !ok {
		return nil
	}
	list, ok := lit.Value.([]any)
	if !ok {
		return checkLiteral(lit.Value)
	}
	if s.items -= len(list); s.items < 0 || len(list) > MaxList {
		return fmt.Errorf("a list of a filter holds at most %d values", MaxList)
	}
	for _, v := range list {
		if err := checkLiteral(v); err != nil {
			return err
		}
	}
	return nil
}

func checkLiteral(v any) error {
	switch v := v.(type) {
	case bool, int64:
		return nil
	case string:
		if !utf8.ValidString(v) || len(v) > authz.MaxText {
			return errors.New("a text is not UTF-8 or too long")
		}
		return nil
	case float64:
		if !isDecimal(v) {
			return fmt.Errorf("%v is not a decimal of at most four digits below %.0f", v, maxExact)
		}
		return nil
	}
	return fmt.Errorf("a %T is no value of a filter", v)
}

func isDecimal(f float64) bool {
	if math.IsNaN(f) || math.Abs(f) >= maxExact {
		return false
	}
	_, digits, _ := strings.Cut(formatDecimal(f), ".")
	return len(digits) <= 4
}

func formatDecimal(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
