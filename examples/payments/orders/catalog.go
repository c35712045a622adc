package main

import "time"

// priceOf returns the price of one piece in minor units. Prices are the
// server's: no request carries one.
func priceOf(sku string) (int64, bool) {
	switch sku {
	case "MUG":
		return 1290, true
	case "TEE":
		return 2490, true
	case "CAP":
		return 1990, true
	case "POSTER":
		return 990, true
	case "BAG":
		return 4990, true
	}
	return 0, false
}

// demoOrders are what the demo's users find at their first login.
func demoOrders() []order {
	now := time.Now().UTC().Truncate(time.Millisecond)
	var out []order
	add := func(age time.Duration, org, owner, team string, items ...item) {
		at := now.Add(-age)
		o := order{ID: newID(at), Org: org, Owner: owner, Team: team, Currency: currency, Created: at, Items: items}
		for i := range o.Items {
			it := &o.Items[i]
			it.Price, _ = priceOf(it.SKU)
			o.Total += it.Price * it.Quantity
		}
		out = append(out, o)
	}
	add(26*time.Hour, "acme", "user:alice", "red", item{SKU: "MUG", Quantity: 2})
	add(3*time.Hour, "acme", "user:alice", "red", item{SKU: "TEE", Quantity: 1}, item{SKU: "CAP", Quantity: 1})
	add(5*time.Hour, "acme", "user:bob", "blue", item{SKU: "BAG", Quantity: 1})
	add(4*time.Hour, "globex", "user:erin", "green", item{SKU: "POSTER", Quantity: 3})
	return out
}
