# METADATA
# title: Dormant and never-used tokens
# description: |
#   Denies and blocks a token that was not used for data.dormant.max_idle_days, and one that was never used within
#   data.dormant.max_unused_days of its issue; 0 switches either off. It needs to know when tokens were used:
#   data.portcullis.usage is {"observed_since": s, "identities": {name: {"first": s, "last": s}}}, in Unix seconds, for
#   allowed requests, where the name is `iss|jti`, or `iss|sub|client` for tokens without a `jti`. What is not known is
#   never dormant: a host that began to observe yesterday blocks nobody for a year's silence.
package portcullis.dormant

import rego.v1

day := 86400

name := joined if {
	joined := concat("|", [input.identity.iss, input.identity.jti])
} else := concat("|", [input.identity.iss, object.get(input.identity, "sub", ""), object.get(input.identity, "client", "")])

used := data.portcullis.usage.identities[name]

denial := {"allow": false, "reason": "the token was not used for too long", "status": 401, "block": "token"} if {
	data.dormant.max_idle_days > 0
	input.time - used.last > data.dormant.max_idle_days * day
} else := {"allow": false, "reason": "the token was never used", "status": 401, "block": "token"} if {
	data.dormant.max_unused_days > 0
	not used
	since := max([input.identity.iat, data.portcullis.usage.observed_since])
	input.time - since > data.dormant.max_unused_days * day
}
