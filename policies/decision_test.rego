package portcullis_test

import rego.v1

routes := {"/v1/orders": {"GET": ["orders:read"]}, "/v1/tenants/x": {"GET": []}, "/health": {"GET": []}}

no_stop := {
	"everything": false, "clients": [], "subjects": [], "issuers": [],
	"regions": [], "roles": [], "block_tokens": false,
}

no_limits := {"token": null, "user": null, "roles": {}, "high_risk": null}

request(path) := {"method": "GET", "path": path, "segments": split(trim_prefix(path, "/"), "/"), "source": "192.0.2.1", "headers": {}}

identity := {"iss": "i", "sub": "s", "client": "c", "iat": 1000, "scopes": ["orders:read"]}

asked(path, time) := {"request": request(path), "time": time, "token_status": "valid", "identity": identity}

# All documents that the decision reads: a test of it must not depend on the set's own data. `data.portcullis` is written
# out, for with an import of it all rules below are evaluated each time, tests too.
documents := {
	"scopes": {"routes": routes, "patterns": []},
	"window": {"max_age_seconds": 3600, "max_age_seconds_by_client": {}},
	"emergency": no_stop,
	"network": {
		"allowed": [], "denied": ["198.51.100.0/24"], "countries_allowed": [], "countries_denied": [],
		"regions_allowed": [], "regions_denied": [],
	},
	"hours": {"timezone": "UTC", "windows": [{"clients": ["night"], "roles": [], "days": ["Thursday"], "from": 22, "to": 24}]},
	"risk": {"subjects": {"risky": 95}, "deny_from": 90, "high_from": 60},
	"limits": no_limits,
	"tenant": {"claim": "tenant", "prefix": ["v1", "tenants"]},
	"breakglass": {"grants": [{"iss": "i", "sub": "hero", "from": 1000, "until": 1030, "reason": "outage"}], "max_seconds": 3600},
	"dormant": {"max_idle_days": 0, "max_unused_days": 0, "by_subject": false},
}

decide(asked_input) := decide_with(asked_input, {})

decide_with(asked_input, changes) := d if {
	own := object.union(documents, changes)
	d := data.portcullis.decision with input as asked_input
		with data.scopes as own.scopes
		with data.window as own.window
		with data.emergency as own.emergency
		with data.network as own.network
		with data.hours as own.hours
		with data.risk as own.risk
		with data.limits as own.limits
		with data.tenant as own.tenant
		with data.breakglass as own.breakglass
		with data.dormant as own.dormant
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

test_a_public_route_is_no_use_of_the_token_that_is_shown_there if {
	decide(asked("/health", 1010)) == {"allow": true, "ttl": 60, "use": false}
	not "use" in object.keys(decide(asked("/v1/orders", 1010)))
}

test_any_other_token_status_is_the_reason if {
	some status in ["token_missing", "token_expired", "signature_invalid"]
	d := decide({"request": request("/v1/orders"), "time": 1010, "token_status": status})
	d == {"allow": false, "reason": status, "status": 401}
}

test_what_nobody_can_tell_is_no_fault_of_the_token if {
	every status in ["issuer_not_ready", "keys_stale", "introspection_failed", "status_unavailable"] {
		d := decide({"request": request("/v1/orders"), "time": 1010, "token_status": status})
		d == {"allow": false, "reason": status, "status": 503}
	}
}

test_an_empty_input_is_denied if {
	decide({}).allow == false
}

test_an_emergency_stop_comes_first if {
	given := {"request": request("/health"), "time": 1010, "token_status": "token_missing"}
	d := decide_with(given, {"emergency": {"everything": true}})
	d.allow == false
	d.ttl == 5
}

asked_as(changes) := object.union(asked("/v1/orders", 1010), {"identity": object.union(identity, changes)})

test_each_policy_has_its_say if {
	decide(asked_as({"sub": "risky"})).reason == "the risk is too high"
	decide(asked_as({"client": "night"})).reason == "outside the hours of this client"
	decide(object.union(asked_as({}), {"request": object.union(request("/v1/orders"), {"source": "198.51.100.7"})})).reason == "the client's network is denied"
	decide(asked("/v1/tenants/other", 1010)).reason == "another tenant's resource"
	decide_with(asked_as({}), {"network": {"countries_allowed": ["DE"]}}).reason == "the client's country is not known"
	decide_with(
		object.union(asked_as({}), {"usage": {"observed_since": 0, "subject": {}}, "time": 1000 + (200 * 86400)}),
		{"window": {"max_age_seconds": 1e9}, "dormant": {"max_idle_days": 90}},
	).block == "token"
}

test_an_allow_ends_before_its_hours_do if {
	# Thursday, 1970-01-01, a quarter of a second before half past.
	hours := {"windows": [{"clients": ["c"], "roles": [], "days": ["Thursday"], "from": 0, "to": 0.5}]}
	decide_with(asked("/v1/orders", 1770), {"hours": hours}).ttl <= 30
	last := decide_with(asked("/v1/orders", 1799.75), {"hours": hours})
	last.allow == true
	last.ttl <= 0.25
	decide_with(asked("/v1/orders", 1800), {"hours": hours}).allow == false
}

test_break_glass_passes_over_scopes_and_is_short if {
	d := decide(asked_as({"sub": "hero", "scopes": [], "client": "night"}))
	d == {"allow": true, "ttl": 20, "reason": "break-glass: outage"}
	decide(object.union(asked("/v1/orders", 1031), {"identity": object.union(identity, {"sub": "hero", "scopes": []})})).allow == false
}

test_break_glass_passes_over_limits_and_to_routes_that_no_list_has if {
	hero := object.union(asked("/admin/restart", 1010), {"identity": object.union(identity, {"sub": "hero"})})
	d := decide_with(hero, {"limits": {"token": {"rate": 5, "per": 1}}})
	d == {"allow": true, "ttl": 20, "reason": "break-glass: outage"}
}

test_break_glass_does_not_pass_over_a_stop_or_a_tenant if {
	hero := object.union(identity, {"sub": "hero"})
	decide(object.union(asked("/v1/tenants/other", 1010), {"identity": hero})).allow == false
	decide(object.union(asked_as({"sub": "hero"}), {"token_status": "token_expired"})).allow == false
}

test_an_allow_carries_its_limits if {
	d := decide_with(asked("/v1/orders", 1010), {"limits": {"token": {"rate": 5, "per": 1}}})
	d == {"allow": true, "ttl": 60, "limit": [{"rate": 5, "per": 1, "key": "token", "token": true}]}
}
