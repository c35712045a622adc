package spec

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
)

// turnsApart refuses two stores that let the same role of one server take turns:
// each would give it a password that the other does not know.
func (c *checker) turnsApart() {
	taken := map[string]string{} // role at a server -> store
	for _, name := range slices.Sorted(maps.Keys(c.s.Stores)) {
		st := c.s.Stores[name]
		if st.Rotate == nil {
			continue
		}
		key := join("stores", name) + ".rotate.roles"
		for _, at := range turnsOf(st) {
			if other, ok := taken[at]; ok && other != name {
				role, server, _ := strings.Cut(at, "@")
				c.bad(key, fmt.Sprintf("role %q at %s takes turns for store %q already, and each would reset the other's password", shorten(role), shorten(server), other), "give each store two roles of its own, with one owner, or use one store for both")
				break
			}
			taken[at] = name
		}
	}
}

// turnsOf are the roles of a store with the servers that know them, by the addresses
// of its admin and its own. Roles are a server's, not a database's; a pooler may
// stand before several servers.
func turnsOf(st Store) []string {
	texts := []string{st.Rotate.Admin, st.URL}
	if st.Pooler {
		texts = texts[:1]
	}
	var out []string
	for _, text := range texts {
		u, err := url.Parse(text)
		if err != nil || u.Hostname() == "" {
			continue // found elsewhere
		}
		server := net.JoinHostPort(strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), cmp.Or(u.Port(), "5432"))
		for _, role := range st.Rotate.Roles {
			if at := role + "@" + server; !slices.Contains(out, at) {
				out = append(out, at)
			}
		}
	}
	return out
}
