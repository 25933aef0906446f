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

test_the_configured_routes_are_well_formed if {
	every path, methods in data.scopes.routes {
		startswith(path, "/")
		not contains(path, "*")
		every scopes in methods {
			is_array(scopes)
		}
	}
	every pattern in data.scopes.patterns {
		is_string(pattern.method)
		startswith(pattern.path, "/")
		is_array(pattern.scopes)
	}
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
