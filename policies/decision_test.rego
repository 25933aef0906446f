package portcullis_test

import rego.v1

import data.portcullis

routes := [
	{"method": "GET", "path": "/v1/orders", "scopes": ["orders:read"]},
	{"method": "GET", "path": "/health", "scopes": []},
]

no_stop := {"everything": false, "clients": [], "subjects": [], "issuers": [], "block_tokens": false}

request(path) := {"method": "GET", "path": path, "segments": split(trim_prefix(path, "/"), "/")}

identity := {"iss": "i", "sub": "s", "client": "c", "iat": 1000, "scopes": ["orders:read"]}

asked(path, time) := {"request": request(path), "time": time, "token_status": "valid", "identity": identity}

decide(asked_input) := d if {
	d := portcullis.decision with input as asked_input
		with data.scopes.routes as routes
		with data.window as {"max_age_seconds": 3600, "max_age_seconds_by_client": {}}
		with data.emergency as no_stop
}

test_a_fresh_token_with_the_scope_is_allowed if {
	decide(asked("/v1/orders", 1010)) == {"allow": true, "ttl": 60}
}

test_an_allow_never_outlives_the_window if {
	decide(asked("/v1/orders", 4590.5)) == {"allow": true, "ttl": 9.5}
}

test_a_token_past_its_window_is_blocked if {
	d := decide(asked("/v1/orders", 4600))
	d.allow == false
	d.block == "token"
	d.status == 401
}

test_a_route_that_is_not_listed_is_denied if {
	d := decide(asked("/v1/secrets", 1010))
	d.allow == false
	d.status == 403
	not d.block
}

test_a_public_route_needs_no_token if {
	decide({"request": request("/health"), "time": 1010, "token_status": "token_missing"}).allow == true
}

test_any_other_token_status_is_the_reason if {
	some status in ["token_missing", "token_expired", "signature_invalid"]
	d := decide({"request": request("/v1/orders"), "time": 1010, "token_status": status})
	d == {"allow": false, "reason": status, "status": 401}
}

test_an_empty_input_is_denied if {
	decide({}).allow == false
}

test_an_emergency_stop_comes_first if {
	d := portcullis.decision with input as {"request": request("/health"), "time": 1010, "token_status": "token_missing"}
		with data.scopes.routes as routes
		with data.emergency as object.union(no_stop, {"everything": true})
	d.allow == false
	d.ttl == 5
}
