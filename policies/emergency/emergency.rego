# METADATA
# title: Emergency stop
# description: |
#   Denies everything, or what comes from a client, subject or issuer, while data.emergency says so. Its
#   denials are kept for five seconds, so that lifting the stop is soon felt. Tokens are blocked in the
#   kernel only where data.emergency.block_tokens asks for it, for a block outlives the stop.
package portcullis.emergency

import rego.v1

stopped := "all requests are stopped" if data.emergency.everything == true

else := "this client is stopped" if input.identity.client in data.emergency.clients

else := "this subject is stopped" if input.identity.sub in data.emergency.subjects

else := "this issuer is stopped" if input.identity.iss in data.emergency.issuers

block := "token" if {
	data.emergency.block_tokens == true
	input.token_status == "valid"
} else := "none"

denial := {"allow": false, "reason": stopped, "status": 503, "block": block, "ttl": 5}
