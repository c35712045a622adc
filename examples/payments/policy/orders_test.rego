# Tests of orders.rego, in today's dialect: a file is one version, a system may
# hold both.
package orders_test

import data.orders

alice := {"id": "user:alice", "role": "customer", "roles": ["customer"], "team_id": "red", "organizations": ["acme"], "managed_teams": []}

carol := {"id": "user:carol", "role": "manager", "roles": ["manager"], "team_id": "red", "organizations": ["acme"], "managed_teams": ["blue"]}

dave := {"id": "user:dave", "role": "admin", "roles": ["admin"], "organizations": ["acme"], "managed_teams": []}

order(owner, team) := {"type": "order", "id": "17", "owner": owner, "team_id": team}

ask(user, action, resource) := {"action": action, "user": user, "resource": resource}

test_owner_creates if orders.allow with input as ask(alice, "create", order("user:alice", "red"))

test_owner_reads if orders.allow with input as ask(alice, "read", order("user:alice", "red"))

test_nobody_creates_for_others if not orders.allow with input as ask(alice, "create", order("user:bob", "red"))

test_stranger_reads_nothing if not orders.allow with input as ask(alice, "read", order("user:bob", "red"))

test_manager_reads_own_team if orders.allow with input as ask(carol, "read", order("user:alice", "red"))

# The list of managed teams is payments.cedar's rule, not this one.
test_managing_is_not_membership if not orders.allow with input as ask(carol, "read", order("user:bob", "blue"))

test_membership_is_not_managing if not orders.allow with input as ask(alice, "read", order("user:bob", "red"))

test_admin_reads if orders.allow with input as ask(dave, "read", order("user:alice", "red"))

test_admin_creates_nothing if not orders.allow with input as ask(dave, "create", order("user:alice", "red"))

test_owner_may_not_delete if not orders.allow with input as ask(alice, "delete", order("user:alice", "red"))

test_other_types_are_not_ours if not orders.allow with input as ask(dave, "read", {"type": "payment", "owner": "user:dave"})

# Neither has a team: absent is not equal to absent.
test_no_team_is_no_match if {
	teamless := object.remove(carol, ["team_id"])
	not orders.allow with input as ask(teamless, "read", {"type": "order", "id": "17", "owner": "user:bob"})
}
