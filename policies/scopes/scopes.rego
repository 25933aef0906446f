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
# The path as applications read it: every segment decoded, no slash at the end. The path as it was sent has many
# spellings (`%6f` for `o`), and a literal route must match them all, or a pattern beside it would grant more.
joined := concat("/", input.request.segments)

# What the request needs; undefined where no route matches.
required := scopes if {
	hits := array.concat(literal_hits, pattern_hits)
	hits != []
	scopes := [scope | some hit in hits; some scope in hit]
}

literal_hits := [scopes |
	path := concat("", ["/", joined])
	scopes := data.scopes.routes[path][input.request.method]
]

pattern_hits := [pattern.scopes |
	some pattern in data.scopes.patterns
	pattern.method == input.request.method
	shape := trim_prefix(pattern.path, "/")
	# The parts before the first wildcard: few patterns are worth a closer look.
	startswith(concat("", [joined, "/"]), split(shape, "*")[0])
	fits(split(shape, "/"), input.request.segments)
]

missing := [scope |
	some scope in required
	not scope in held
]

default held := []

held := input.identity.scopes

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
	same(pattern, segments)
}

fits(pattern, segments) if {
	head := count(pattern) - 1
	pattern[head] == "**"
	count(segments) >= head
	same(array.slice(pattern, 0, head), segments)
	every segment in segments {
		ordinary(segment)
	}
}

# No part of the pattern but its wildcards differs from its segment, and these stand for ordinary ones.
same(pattern, segments) if {
	count([i | some i, part in pattern; part != segments[i]; part != "*"]) == 0
	count([i | some i, part in pattern; part == "*"; not ordinary(segments[i])]) == 0
}

# A wildcard stands for no segment that a server may read as another path.
ordinary(segment) if not segment in {"", ".", ".."}
