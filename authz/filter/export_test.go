package filter

// Quote is quote, for tests against a database.
var Quote = quote

// InTuples is inTuples, to compare with the graph's names.
var InTuples = inTuples

// RLSCondition is what RLS puts into a policy.
func RLSCondition(t Table, f Filter) (string, error) {
	return f.render(t, postgres{table: t, literal: quoted, subject: true})
}
