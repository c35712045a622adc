# Who may touch this very order (layer 3). The service hands in the order's
# owner and team_id; the answer is yes when one rule below holds. This file is
# written in Rego's older dialect, which loads as it stands.
package orders

# A customer places orders in their own name only.
allow {
	input.action == "create"
	input.resource.type == "order"
	input.resource.owner == input.user.id
}

# An order is there for its owner to see.
allow {
	input.action == "read"
	input.resource.type == "order"
	input.resource.owner == input.user.id
}

# The manager of a team sees the orders of that team, by the one team that the
# manager is in. (payments.cedar asks by the list of teams managed instead: the
# two rules are not the same, and both are wanted.)
allow {
	input.action == "read"
	input.resource.type == "order"
	input.resource.team_id == input.user.team_id
	input.user.role == "manager"
}

# Administrators see every order of the organizations that they belong to: the
# organization is asked for at layer 2.
allow {
	input.action == "read"
	input.resource.type == "order"
	input.user.role == "admin"
}
