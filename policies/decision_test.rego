package portcullis_test

import rego.v1

import data.portcullis

routes := {"/v1/orders": {"GET": ["orders:read"]}, "/v1/tenants/x": {"GET": []}, "/health": {"GET": []}}

no_stop := {
	"everything": false, "clients": [], "subjects": [], "issuers": [],
	"regions": [], "roles": [], "block_tokens": false,
}

no_limits := {"token": null, "user": null, "roles": {}, "high_risk": null}

request(path) := {"method": "GET", "path": path, "segments": split(trim_prefix(path, "/"), "/"), "source": "192.0.2.1", "headers": {}}

identity := {"iss": "i", "sub": "s", "client": "c", "iat": 1000, "scopes": ["orders:read"]}

asked(path, time) := {"request": request(path), "time": time, "token_status": "valid", "identity": identity}

decide(asked_input) := d if {
	d := portcullis.decision with input as asked_input
		with data.scopes as {"routes": routes, "patterns": []}
		with data.window as {"max_age_seconds": 3600, "max_age_seconds_by_client": {}}
		with data.emergency as no_stop
		with data.network as {"allowed": [], "denied": ["198.51.100.0/24"], "regions_allowed": [], "regions_denied": []}
		with data.hours as {"timezone": "UTC", "windows": [{"clients": ["night"], "roles": [], "days": ["Thursday"], "from": 22, "to": 24}]}
		with data.risk as {"subjects": {"risky": 95}, "deny_from": 90, "high_from": 60}
		with data.limits as no_limits
		with data.tenant as {"claim": "tenant", "prefix": ["v1", "tenants"]}
		with data.breakglass as {"grants": [{"iss": "i", "sub": "hero", "from": 1000, "until": 1030, "reason": "outage"}], "max_seconds": 3600}
		with data.dormant as {"max_idle_days": 0, "max_unused_days": 0}
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

test_what_nobody_can_tell_is_no_fault_of_the_token if {
	every status in ["issuer_not_ready", "keys_stale", "introspection_failed"] {
		d := decide({"request": request("/v1/orders"), "time": 1010, "token_status": status})
		d == {"allow": false, "reason": status, "status": 503}
	}
}

test_an_empty_input_is_denied if {
	decide({}).allow == false
}

test_an_emergency_stop_comes_first if {
	d := portcullis.decision with input as {"request": request("/health"), "time": 1010, "token_status": "token_missing"}
		with data.scopes as {"routes": routes, "patterns": []}
		with data.emergency as object.union(no_stop, {"everything": true})
	d.allow == false
	d.ttl == 5
}

asked_as(changes) := object.union(asked("/v1/orders", 1010), {"identity": object.union(identity, changes)})

test_each_policy_has_its_say if {
	decide(asked_as({"sub": "risky"})).reason == "the risk is too high"
	decide(asked_as({"client": "night"})).reason == "outside the hours of this client"
	decide(object.union(asked_as({}), {"request": object.union(request("/v1/orders"), {"source": "198.51.100.7"})})).reason == "the client's network is denied"
	decide(asked("/v1/tenants/other", 1010)).reason == "another tenant's resource"
}

test_break_glass_passes_over_scopes_and_is_short if {
	d := decide(asked_as({"sub": "hero", "scopes": [], "client": "night"}))
	d == {"allow": true, "ttl": 20, "reason": "break-glass: outage"}
	decide(object.union(asked("/v1/orders", 1031), {"identity": object.union(identity, {"sub": "hero", "scopes": []})})).allow == false
}

test_break_glass_does_not_pass_over_a_stop_or_a_tenant if {
	hero := object.union(identity, {"sub": "hero"})
	decide(object.union(asked("/v1/tenants/other", 1010), {"identity": hero})).allow == false
	decide(object.union(asked_as({"sub": "hero"}), {"token_status": "token_expired"})).allow == false
}

test_an_allow_carries_its_limits if {
	d := portcullis.decision with input as asked("/v1/orders", 1010)
		with data.scopes as {"routes": routes, "patterns": []}
		with data.window as {"max_age_seconds": 3600, "max_age_seconds_by_client": {}}
		with data.emergency as no_stop
		with data.limits as object.union(no_limits, {"token": {"rate": 5, "per": 1}})
	d == {"allow": true, "ttl": 60, "limit": [{"rate": 5, "per": 1, "key": "token", "token": true}]}
}
