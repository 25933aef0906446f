# METADATA
# title: Break-glass
# description: |
#   Lets a subject past scopes, network, hours, risk and rate limits for a short time, in an emergency, also to routes
#   that no list has. A grant in data.breakglass.grants names `iss`, `sub`, `from` and `until` in Unix seconds, and a
#   `reason`, which the answer carries. It expires by itself; one that is to last longer than
#   data.breakglass.max_seconds counts for nothing. It opens nothing that is revoked, invalid, stopped, too old, dormant
#   or another tenant's.
package portcullis.breakglass

import rego.v1

grants := [grant |
	some grant in data.breakglass.grants
	grant.sub == input.identity.sub
	grant.iss == input.identity.iss
	grant.from <= input.time
	input.time < grant.until
	grant.until - grant.from <= data.breakglass.max_seconds
	count(grant.reason) > 0
]

granted if {
	data.breakglass.grants != []
	count(grants) > 0
}

seconds_left := max([left |
	some grant in grants
	left := grant.until - input.time
])

reason := substring(concat(" ", ["break-glass:", grants[0].reason]), 0, 200)
