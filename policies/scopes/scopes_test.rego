package portcullis.scopes_test

import rego.v1

import data.portcullis.scopes

routes := {
	"/v1/orders": {"GET": ["orders:read"], "POST": ["orders:write", "audit"]},
	"/v1/reports/secret": {"GET": ["secrets:read"]},
	"/health": {"GET": []},
}

patterns := [
	{"method": "GET", "path": "/v1/orders/*", "scopes": ["orders:read"]},
	{"method": "GET", "path": "/v1/reports/**", "scopes": ["reports:read"]},
]

asked(method, path, held) := {
	"request": {"method": method, "path": path, "segments": split(trim_prefix(path, "/"), "/")},
	"identity": {"scopes": held},
}

granted(method, path, held) if {
	scopes.granted with input as asked(method, path, held) with data.scopes as {"routes": routes, "patterns": patterns}
}

denial(method, path, held) := d if {
	d := scopes.denial with input as asked(method, path, held) with data.scopes as {"routes": routes, "patterns": patterns}
}

test_the_scope_of_the_route_is_needed if {
	granted("GET", "/v1/orders", ["orders:read"])
	not granted("GET", "/v1/orders", ["orders:write"])
	not granted("GET", "/v1/orders", [])
	denial("GET", "/v1/orders", []).reason == "the token lacks orders:read"
}

test_every_scope_of_a_route_is_needed if {
	granted("POST", "/v1/orders", ["audit", "orders:write", "more"])
	denial("POST", "/v1/orders", ["audit"]).reason == "the token lacks orders:write"
}

test_a_star_is_one_segment if {
	granted("GET", "/v1/orders/7", ["orders:read"])
	not granted("GET", "/v1/orders/7/lines", ["orders:read"])
	not granted("GET", "/v1/orders/", ["orders:read"])
	not granted("GET", "/v1/orders/..", ["orders:read"])
}

test_two_stars_are_any_tail if {
	granted("GET", "/v1/reports", ["reports:read"])
	granted("GET", "/v1/reports/2024/11", ["reports:read"])
	not granted("GET", "/v1/reports/../secrets", ["reports:read"])
	not granted("GET", "/v1", ["reports:read"])
}

test_several_matching_routes_need_all_their_scopes if {
	not granted("GET", "/v1/reports/secret", ["reports:read"])
	granted("GET", "/v1/reports/secret", ["reports:read", "secrets:read"])
}

test_what_no_route_matches_is_denied if {
	denial("DELETE", "/v1/orders", ["orders:write"]).status == 403
	denial("GET", "/other", []).reason == "no route matches this request"
}

test_a_route_without_scopes_is_public if {
	scopes.public with input as {"request": {"method": "GET", "path": "/health", "segments": ["health"]}} with data.scopes as {"routes": routes, "patterns": patterns}
	not scopes.public with input as asked("GET", "/v1/orders", []) with data.scopes as {"routes": routes, "patterns": patterns}
	not scopes.public with input as asked("GET", "/other", []) with data.scopes as {"routes": routes, "patterns": patterns}
}

# As requests have it: in capitals.
method(text) if {
	is_string(text)
	regex.match("^[A-Z][A-Z0-9_-]*$", text)
}

# As `path` is made: decoded, without a slash at the end, of segments that the daemon does not refuse.
decoded(path) if path == "/"

decoded(path) if {
	is_string(path)
	startswith(path, "/")
	not contains(path, "\\")
	not regex.match("%[0-9A-Fa-f][0-9A-Fa-f]", path)
	every segment in split(trim_prefix(path, "/"), "/") {
		not segment in {"", ".", ".."}
	}
}

# A scope may stand in the reason, which has no control characters.
scope_list(list) if {
	is_array(list)
	every scope in list {
		is_string(scope)
		regex.match("^[^\\x00-\\x1f\\x7f-\\x{9f}]+$", scope)
	}
}

# `*` is a whole segment, and `**` the last one.
stars_in_place(path) if {
	segments := split(trim_prefix(path, "/"), "/")
	last := count(segments) - 1
	every i, segment in segments {
		star_in_place(segment, i == last)
	}
}

star_in_place(segment, _) if not contains(segment, "*")

star_in_place(segment, _) if segment == "*"

star_in_place(segment, last) if {
	segment == "**"
	last
}

well_formed(config) if {
	is_object(config)
	object.keys(config) == {"routes", "patterns"}
	is_object(config.routes)
	every path, methods in config.routes {
		decoded(path)
		not contains(path, "*")
		is_object(methods)
		every name, list in methods {
			method(name)
			scope_list(list)
		}
	}
	is_array(config.patterns)
	every pattern in config.patterns {
		is_object(pattern)
		object.keys(pattern) == {"method", "path", "scopes"}
		method(pattern.method)
		decoded(pattern.path)
		pattern.path != "/"
		stars_in_place(pattern.path)
		scope_list(pattern.scopes)
	}
}

test_the_configured_routes_are_well_formed if well_formed(data.scopes)

test_routes_of_another_form_are_refused if {
	well_formed({"routes": routes, "patterns": patterns})
	well_formed({"routes": {"/": {"GET": []}, "/a b": {"M-SEARCH": ["x"]}, "/100%": {"GET": []}}, "patterns": []})
	every bad in [
		{"/v1/orders/": {"GET": []}},
		{"//": {"GET": []}}, {"/v1/orders//": {"GET": []}}, {"/v1//orders": {"GET": []}}, {"/v1/../orders": {"GET": []}},
		{"v1/orders": {"GET": []}}, {"": {"GET": []}},
		{"/v1/%6frders": {"GET": []}}, {"/v1/a%2Fb": {"GET": []}}, {"/v1/*": {"GET": []}},
		{"/v1/orders": {"get": []}}, {"/v1/orders": {"Get": []}}, {"/v1/orders": {"*": []}}, {"/v1/orders": {"": []}},
		{"/v1/orders": ["GET"]}, {"/v1/orders": []}, {"/v1/orders": null},
		{"/v1/orders": {"GET": "orders:read"}}, {"/v1/orders": {"GET": null}}, {"/v1/orders": {"GET": {}}},
		{"/v1/orders": {"GET": [null]}}, {"/v1/orders": {"GET": [""]}}, {"/v1/orders": {"GET": ["a\n"]}}, [], ["/v1/orders"], null,
	] {
		not well_formed({"routes": bad, "patterns": []})
	}
}

test_patterns_of_another_form_are_refused if {
	pattern := {"method": "GET", "path": "/v1/orders/*", "scopes": ["orders:read"]}
	every path in ["/**", "/*/x", "/v1/*/lines/**", "/v1/orders"] {
		well_formed({"routes": {}, "patterns": [object.union(pattern, {"path": path})]})
	}
	every changes in [
		{"path": "/v1/orders/"}, {"path": "/v1/*/"}, {"path": "/"}, {"path": "v1/*"}, {"path": "/v1/%6frders/*"}, {"path": "/v1/re*"},
		{"path": "/v1/**/x"}, {"path": "/v1/***"}, {"path": ["v1", "*"]}, {"method": "get"}, {"method": "*"}, {"method": ["GET"]},
		{"scopes": "orders:read"}, {"scopes": [1]}, {"scopes": null}, {"scope": []},
	] {
		not well_formed({"routes": {}, "patterns": [object.union(pattern, changes)]})
	}
	not well_formed({"routes": {}, "patterns": [object.remove(pattern, ["scopes"])]})
	not well_formed({"routes": {}, "patterns": {"a": pattern}})
	not well_formed({"routes": {}})
	not well_formed({"routes": {}, "patterns": [], "pattern": []})
}

# `%73ecret` and a slash at the end name the same resource: the literal route's scope is still needed.
test_other_spellings_of_a_literal_route_need_its_scopes if {
	some path in ["/v1/reports/%73ecret", "/v1/reports/secret/"]
	asked_as := {
		"request": {"method": "GET", "path": path, "segments": ["v1", "reports", "secret"]},
		"identity": {"scopes": ["reports:read"]},
	}
	not scopes.granted with input as asked_as with data.scopes as {"routes": routes, "patterns": patterns}
	scopes.denial with input as asked_as with data.scopes as {"routes": routes, "patterns": patterns}
}

test_the_root_is_a_route if {
	root := {"request": {"method": "GET", "path": "/", "segments": []}, "identity": {"scopes": []}}
	scopes.public with input as root with data.scopes as {"routes": {"/": {"GET": []}}, "patterns": []}
}
