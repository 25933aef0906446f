# METADATA
# title: The decision
# description: |
#   Composes the policies of this directory into the one answer that Portcullis asks for. The first that speaks
#   decides: an emergency stop, a public route, a token that is not valid, a token past its window or dormant, another
#   tenant's resource; then break-glass, which passes over the rest: network, hours, risk, a scope that is missing.
#   What none of them settles is denied.
package portcullis

import rego.v1

import data.portcullis.breakglass
import data.portcullis.dormant
import data.portcullis.emergency
import data.portcullis.hours
import data.portcullis.limits
import data.portcullis.network
import data.portcullis.risk
import data.portcullis.scopes
import data.portcullis.tenant
import data.portcullis.window

# An allow is kept no longer than this many seconds, nor beyond the token's window or its client's hours.
longest_ttl := 60

ttl := seconds if {
	not hours.seconds_left
	seconds := min([longest_ttl, window.seconds_left])
} else := min([longest_ttl, window.seconds_left, hours.seconds_left])

# Nobody can tell whether these tokens are good: a client that got 401 would throw its token away.
not_the_tokens_fault := {"issuer_not_ready", "keys_stale", "introspection_failed", "status_unavailable"}

default decision := {"allow": false, "reason": "no policy settles this request", "status": 403}

# On a public route nobody looks at the token, so it was not used: a dormant one is not woken there.
decision := emergency.denial if {
	emergency.denial
} else := {"allow": true, "ttl": longest_ttl, "use": false} if {
	scopes.public
} else := {"allow": false, "reason": status, "status": 503} if {
	status := input.token_status
	status != "valid"
	status in not_the_tokens_fault
} else := {"allow": false, "reason": status, "status": 401} if {
	status := input.token_status
	status != "valid"
} else := window.denial if {
	window.denial
} else := dormant.denial if {
	dormant.denial
} else := tenant.denial if {
	tenant.denial
} else := {"allow": true, "ttl": seconds, "reason": reason} if {
	breakglass.granted
	input.token_status == "valid"
	seconds := min([ttl, breakglass.seconds_left])
	reason := breakglass.reason
} else := network.denial if {
	network.denial
} else := hours.denial if {
	hours.denial
} else := risk.denial if {
	risk.denial
} else := scopes.denial if {
	scopes.denial
} else := {"allow": true, "ttl": seconds} if {
	not limits.any
	input.token_status == "valid"
	scopes.granted
	seconds := ttl
} else := {"allow": true, "ttl": seconds, "limit": all} if {
	limits.any
	input.token_status == "valid"
	scopes.granted
	seconds := ttl
	all := limits.all
}
