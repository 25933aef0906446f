# METADATA
# title: Dormant and never-used tokens
# description: |
#   Denies and blocks a token that was not used for data.dormant.max_idle_days, and one that was never used within
#   data.dormant.max_unused_days of its issue; 0 switches either off. With data.dormant.by_subject it goes by the uses of
#   the token's subject and client, whichever token they came with. input.usage is what this host knows of it, in Unix
#   seconds, for allowed requests; it is there where `usage.file` is set. Where no use is known, what counts is how long
#   the token has been there to be used and this host has observed: one that began yesterday blocks nobody for a year's
#   silence.
package portcullis.dormant

import rego.v1

day := 86400

used := seen if {
	data.dormant.by_subject == true
	seen := input.usage.subject
} else := seen if {
	seen := input.usage
}

denial := {"allow": false, "reason": reason, "status": 401, "block": "token"} if {
	data.dormant != {"max_idle_days": 0, "max_unused_days": 0, "by_subject": false}
	reason
}

reason := "the token was not used for too long" if {
	data.dormant.max_idle_days > 0
	input.time - used.last_used > data.dormant.max_idle_days * day
} else := "the token was never used" if {
	data.dormant.max_unused_days > 0
	not used.first_used
	input.time - unseen_since > data.dormant.max_unused_days * day
} else := "the token was not used for too long" if {
	data.dormant.max_idle_days > 0
	not used.last_used
	input.time - unseen_since > data.dormant.max_idle_days * day
}

# Since when a token of which no use is known was not used. Its last use may have been forgotten (`usage.keep`).
unseen_since := max([input.identity.iat, input.usage.observed_since])
