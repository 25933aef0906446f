# METADATA
# title: Rate limits
# description: |
#   Limits requests by token (data.limits.token), by user (data.limits.user), by each role of the user's (claim `roles`,
#   data.limits.roles; one that the token names twice counts once) and where the risk is high (data.limits.high_risk). A
#   limit is `rate` requests in `per` seconds, `burst` of them at once (as many as `rate` where that is absent); null is
#   none. A decision has at most eight, and so the data may have no more. All that apply are asked of every request,
#   whether its verdict was cached or not.
package portcullis.limits

import rego.v1

import data.portcullis.risk

any if data.limits != {"token": null, "user": null, "roles": {}, "high_risk": null}

user := concat("|", [input.identity.iss, object.get(input.identity, "sub", ""), object.get(input.identity, "client", "")])

by_token := [limit |
	data.limits.token != null
	limit := object.union(data.limits.token, {"key": "token", "token": true})
]

by_user := [limit |
	data.limits.user != null
	limit := object.union(data.limits.user, {"key": concat(":", ["user", user])})
]

by_risk := [limit |
	data.limits.high_risk != null
	risk.level == "high"
	limit := object.union(data.limits.high_risk, {"key": concat(":", ["risk", user])})
]

# The token's roles: the claim may be one role instead of a list.
held := roles if {
	roles := input.identity.claims.roles
	is_array(roles)
} else := [role] if {
	role := input.identity.claims.roles
	is_string(role)
}

by_role := [limit |
	some role in {name | some name in held}
	limit := object.union(data.limits.roles[role], {"key": concat(":", ["role", role, user])})
]

all := array.concat(array.concat(by_token, by_user), array.concat(by_role, by_risk))
