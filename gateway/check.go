package gateway

import "github.com/rampart-security/rampart/spec"

// Check compiles the services behind the gateway of a file and refuses two that
// claim one operation, as the gateway itself would, which then keeps the file that
// it has.
func Check(sys *spec.System) error {
	var list []*target
	for _, f := range sys.FlowsFrom(sys.Gateway()) {
		tg, err := newTarget(sys, f)
		if err != nil {
			return err
		}
		list = append(list, tg)
	}
	return disjoint(list)
}
