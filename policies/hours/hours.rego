# METADATA
# title: Time windows
# description: |
#   Lets clients and roles in at certain hours alone. Each of data.hours.windows names clients (or roles, claim `roles`),
#   days such as "Monday", and hours from 0 to 24 in data.hours.timezone: `from` and `to`, fractions allowed. Who is in
#   no window is let in at any time; who is in several, in each of them. A window that goes over midnight is two. The
#   clock has whole seconds: `seconds_left` is one short, so that no allow is kept beyond the end.
package portcullis.hours

import rego.v1

windows := [window |
	some window in data.hours.windows
	concerns(window)
]

concerns(window) if input.identity.client in window.clients

concerns(window) if {
	some role in held
	role in window.roles
}

# The token's roles: the claim may be one role instead of a list.
held := roles if {
	roles := input.identity.claims.roles
	is_array(roles)
} else := [role] if {
	role := input.identity.claims.roles
	is_string(role)
}

now := [round(input.time * 1000) * 1000000, data.hours.timezone]

day := time.weekday(now)

hour := (clock[0] + (clock[1] / 60)) + (clock[2] / 3600) if clock := time.clock(now)

# How long those windows still last that are open.
left := [seconds |
	some window in windows
	day in window.days
	window.from <= hour
	hour < window.to
	seconds := max([0, ((window.to - hour) * 3600) - 1])
]

seconds_left := max(left) if {
	data.hours.windows != []
	count(windows) > 0
}

denial := {"allow": false, "reason": "outside the hours of this client", "status": 403} if {
	data.hours.windows != []
	count(windows) > 0
	count(left) == 0
}
