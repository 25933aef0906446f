# METADATA
# title: The decision
# description: |
#   Composes the policies of this directory into the one answer that Portcullis asks for. The first that
#   speaks decides: an emergency stop, a public route, a token that is not valid, a token past its window,
#   a scope that is missing. What none of them settles is denied.
package portcullis

import rego.v1

import data.portcullis.emergency
import data.portcullis.scopes
import data.portcullis.window

# An allow is kept no longer than this many seconds, nor beyond the token's window.
longest_ttl := 60

default decision := {"allow": false, "reason": "no policy settles this request", "status": 403}

decision := emergency.denial if {
	emergency.denial
} else := {"allow": true, "ttl": longest_ttl} if {
	scopes.public
} else := {"allow": false, "reason": input.token_status, "status": 401} if {
	input.token_status != "valid"
} else := window.denial if {
	window.denial
} else := scopes.denial if {
	scopes.denial
} else := {"allow": true, "ttl": min([longest_ttl, window.seconds_left])} if {
	input.token_status == "valid"
	scopes.granted
}
