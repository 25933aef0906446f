# METADATA
# title: Scopes by route
# description: |
#   Denies a request whose token lacks a scope that its route needs, and every request that no route matches.
#   Literal routes stand in data.scopes.routes, by path and method, each with the scopes it needs: they are looked up,
#   however many there are. Patterns stand in data.scopes.patterns and are tried one by one: a method, a path whose
#   segment `*` stands for any one segment and whose last segment `**` for any number of them, and the scopes.
#   Where several match, the scopes of all of them are needed. A route that needs none is public.
package portcullis.scopes

import rego.v1

# The path as applications read it: every segment decoded, no slash at the end. The path as it was sent has many
# spellings (`%6f` for `o`), and a literal route must match them all, or a pattern beside it would grant more.
path := joined if {
	count(input.request.segments) > 0
	joined := concat("/", array.concat([""], input.request.segments))
} else := "/"

literal := data.scopes.routes[path][input.request.method]

pattern_hits := [pattern.scopes |
	some pattern in data.scopes.patterns
	pattern.method == input.request.method
	fits(split(trim_prefix(pattern.path, "/"), "/"), input.request.segments)
]

# What the request needs; undefined where no route matches.
required := literal if {
	literal
	count(pattern_hits) == 0
} else := both if {
	both := array.concat(literal, pattern_scopes)
} else := pattern_scopes if {
	count(pattern_hits) > 0
}

pattern_scopes := [scope |
	some scopes in pattern_hits
	some scope in scopes
]

missing := [scope |
	some scope in required
	not scope in input.identity.scopes
]

public if count(required) == 0

granted if {
	required
	count(missing) == 0
}

denial := {"allow": false, "reason": "no route matches this request", "status": 403} if not required

else := {"allow": false, "reason": reason, "status": 403} if {
	count(missing) > 0
	reason := substring(concat(" ", ["the token lacks", concat(", ", missing)]), 0, 200)
}

fits(pattern, segments) if {
	count(pattern) == count(segments)
	count(misfits(pattern, segments)) == 0
}

fits(pattern, segments) if {
	head := count(pattern) - 1
	pattern[head] == "**"
	count(segments) >= head
	count(misfits(array.slice(pattern, 0, head), segments)) == 0
	every segment in segments {
		ordinary(segment)
	}
}

# The parts of a pattern that their segments do not fit.
misfits(pattern, segments) := [part |
	some i, part in pattern
	not part_fits(part, segments[i])
]

part_fits(part, segment) if part == segment

part_fits("*", segment) if ordinary(segment)

# A wildcard stands for no segment that a server may read as another path.
ordinary(segment) if not segment in {"", ".", ".."}
