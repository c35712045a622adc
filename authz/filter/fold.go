package filter

// fold computes what is known, flattens chains of And and of Or, which are
// associative, and builds them again as balanced trees: PostgreSQL and SQLite
// bound the depth of an expression. It returns Const or Undefined only at the
// top, or where a side that may be undefined keeps them from vanishing.
func fold(e Expr) Expr {
	switch e := e.(type) {
	case nil:
		return Undefined{}
	case And:
		return foldChain(e, true)
	case Or:
		return foldChain(e, false)
	case Not:
		return foldNot(fold(e.X))
	case Total:
		return foldTotal(fold(e.X))
	case Bool, Cmp, In, Text:
		return foldAtom(e)
	}
	return e
}

// foldChain drops what cannot matter. unit is the value that leaves a chain as
// it is: true for And, false for Or. Behind the other value, and behind what is
// undefined, nothing is looked at.
func foldChain(e Expr, unit Const) Expr {
	var parts []Expr
	total := true
	for _, part := range chain(nil, e, bool(unit)) {
		part = fold(part)
		switch part {
		case Expr(unit):
			continue
		case Expr(!unit), Expr(Undefined{}):
			if len(parts) == 0 || total && part == Expr(!unit) {
				return part
			}
			return join(append(parts, part), bool(unit))
		}
		parts = append(parts, chain(nil, part, bool(unit))...)
		total = total && isTotal(part)
	}
	return join(parts, bool(unit))
}

// chain lists the parts of a chain of And, or of Or.
func chain(list []Expr, e Expr, and bool) []Expr {
	switch e := e.(type) {
	case And:
		if and {
			return chain(chain(list, e.L, and), e.R, and)
		}
	case Or:
		if !and {
			return chain(chain(list, e.L, and), e.R, and)
		}
	}
	return append(list, e)
}

// join builds a balanced chain of parts; none are And's true or Or's false.
func join(parts []Expr, and bool) Expr {
	switch n := len(parts); n {
	case 0:
		return Const(and)
	case 1:
		return parts[0]
	default:
		l, r := join(parts[:n/2], and), join(parts[n/2:], and)
		if and {
			return And{l, r}
		}
		return Or{l, r}
	}
}

func anyOf(parts []Expr) Expr { return join(parts, false) }
func allOf(parts []Expr) Expr { return join(parts, true) }

func foldNot(x Expr) Expr {
	switch x := x.(type) {
	case Const:
		return !x
	case Undefined:
		return x
	case Not:
		return x.X
	}
	return Not{x}
}

func foldTotal(x Expr) Expr {
	if never(x) {
		return Const(false)
	}
	if isTotal(x) {
		return x
	}
	return Total{x}
}

// never reports whether x is true for no row: a member of an empty list is
// false, or undefined.
func never(x Expr) bool {
	switch x := x.(type) {
	case Const:
		return !bool(x)
	case Undefined:
		return true
	case Total:
		return never(x.X)
	case And:
		return never(x.L) || never(x.R)
	case Or:
		return never(x.L) && never(x.R)
	case In:
		l, ok := x.List.(Lit)
		list, isList := l.Value.([]any)
		return ok && isList && len(list) == 0
	}
	return false
}

// isTotal reports whether x is never undefined, whatever the row.
func isTotal(x Expr) bool {
	switch x := x.(type) {
	case Const, Total, Has:
		return true
	case Not:
		return isTotal(x.X)
	case And:
		return isTotal(x.L) && isTotal(x.R)
	case Or:
		return isTotal(x.L) && isTotal(x.R)
	}
	return false
}

// foldAtom computes an atom that reads neither resource nor principal.
func foldAtom(e Expr) Expr {
	for _, o := range operands(e) {
		if _, ok := o.(Lit); !ok {
			return e
		}
	}
	switch eval(e, nil, nil) {
	case isTrue:
		return Const(true)
	case isFalse:
		return Const(false)
	}
	return Undefined{}
}

func operands(e Expr) []Operand {
	switch e := e.(type) {
	case Bool:
		return []Operand{e.X}
	case Cmp:
		return []Operand{e.L, e.R}
	case In:
		return []Operand{e.X, e.List}
	case Text:
		return []Operand{e.X, e.Part}
	}
	return nil
}
