# METADATA
# title: Scopes by route
# description: |
#   Denies a request whose token lacks a scope that its route needs, and every request that no route matches.
#   Routes stand in data.scopes.routes: a method, a path whose segment `*` stands for any one segment and
#   whose last segment `**` for any number of them, and the scopes needed. Where several routes match, the
#   scopes of all of them are needed. A route that needs none is public.
package portcullis.scopes

import rego.v1

# The path as applications read it: every segment decoded, no slash at the end. The path as it was sent has many
# spellings (`%6f` for `o`), and a literal route must match them all, or a pattern beside it would grant more.
path := concat("/", array.concat([""], input.request.segments)) if count(input.request.segments) > 0

else := "/"

# The routes that match, found once. Most are literal: they are compared without calling a function.
literal_hits := [route |
	some route in data.scopes.routes
	route.path == path
	route.method == input.request.method
]

pattern_hits := [route |
	some route in data.scopes.routes
	contains(route.path, "*")
	route.method == input.request.method
	fits(split(trim_prefix(route.path, "/"), "/"), input.request.segments)
]

hits := array.concat(literal_hits, pattern_hits)

matched if count(hits) > 0

required := {scope | some route in hits; some scope in route.scopes}

held := {scope | some scope in input.identity.scopes}

missing := required - held

public if {
	matched
	count(required) == 0
}

granted if {
	matched
	count(missing) == 0
}

denial := {"allow": false, "reason": "no route matches this request", "status": 403} if not matched

else := {"allow": false, "reason": reason, "status": 403} if {
	count(missing) > 0
	reason := substring(concat(" ", ["the token lacks", concat(", ", missing)]), 0, 200)
}

fits(pattern, segments) if {
	count(pattern) == count(segments)
	every i, part in pattern {
		part_fits(part, segments[i])
	}
}

fits(pattern, segments) if {
	head := count(pattern) - 1
	pattern[head] == "**"
	count(segments) >= head
	every i, part in array.slice(pattern, 0, head) {
		part_fits(part, segments[i])
	}
	every segment in segments {
		ordinary(segment)
	}
}

part_fits(part, segment) if part == segment

part_fits("*", segment) if ordinary(segment)

# A wildcard stands for no segment that a server may read as another path.
ordinary(segment) if not segment in {"", ".", ".."}
