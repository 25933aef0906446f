# METADATA
# title: Fixed window
# description: |
#   Denies a token issued longer ago than data.window.max_age_seconds (or than its client's entry in
#   data.window.max_age_seconds_by_client), however long it says it lives, and blocks it in the kernel: it
#   can never become good again. A token that does not say when it was issued is denied.
package portcullis.window

import rego.v1

seconds_left := left if {
	own := data.window.max_age_seconds_by_client[input.identity.client]
	left := (input.identity.iat + own) - input.time
} else := (input.identity.iat + data.window.max_age_seconds) - input.time

dated if is_number(input.identity.iat)

denial := {"allow": false, "reason": "the token does not say when it was issued", "status": 401} if {
	not dated
}

else := {"allow": false, "reason": "the token is past its window", "status": 401, "block": "token"} if {
	seconds_left <= 0
}
