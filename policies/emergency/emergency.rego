# METADATA
# title: Emergency stop
# description: |
#   Denies everything, or what comes from a client, subject, issuer, region (the header `x-client-region`, which
#   `decide.headers` must let through and the gateway must set; an empty one is none) or role (claim `roles`), while
#   data.emergency says so. Its denials are kept for five seconds, so that lifting the stop is soon felt. Where
#   data.emergency.block_tokens asks for it, the kernel refuses the token too: for those five seconds, anew at each
#   question, and no longer than this policy set is in force.
package portcullis.emergency

import rego.v1

stopped := "all requests are stopped" if data.emergency.everything == true

else := "this client is stopped" if input.identity.client in data.emergency.clients

else := "this subject is stopped" if input.identity.sub in data.emergency.subjects

else := "this issuer is stopped" if input.identity.iss in data.emergency.issuers

else := "this region is stopped" if region_stopped

else := "this role is stopped" if role_stopped

region := name if {
	name := trim_space(input.request.headers["x-client-region"])
	name != ""
}

region_stopped if {
	count(data.emergency.regions) > 0
	region in data.emergency.regions
}

# Where regions are stopped, a request of no known region may be of one of them.
region_stopped if {
	count(data.emergency.regions) > 0
	not region
}

role_stopped if {
	count(data.emergency.roles) > 0
	some role in held
	role in data.emergency.roles
}

# The token's roles: the claim may be one role instead of a list.
held := roles if {
	roles := input.identity.claims.roles
	is_array(roles)
} else := [role] if {
	role := input.identity.claims.roles
	is_string(role)
}

block := "token" if {
	data.emergency.block_tokens == true
	input.token_status == "valid"
} else := "none"

denial := {"allow": false, "reason": stopped, "status": 503, "block": block, "ttl": 5} if {
	# What most requests meet: nothing is stopped.
	data.emergency != {
		"everything": false, "clients": [], "subjects": [], "issuers": [], "regions": [], "roles": [],
		"block_tokens": false,
	}
	stopped
}
