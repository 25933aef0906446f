package portcullis.limits_test

import rego.v1

import data.portcullis.limits

none := {"token": null, "user": null, "roles": {}, "high_risk": null}

ten := {"rate": 10, "per": 1}

asked := {"identity": {"iss": "i", "sub": "s", "client": "c", "claims": {"roles": ["a", "b"]}}}

risky := object.union(asked, {"request": {"headers": {"x-risk-score": "75"}}})

all(given, changes) := l if {
	l := limits.all with input as given
		with data.limits as object.union(none, changes)
		with data.risk as {"subjects": {}, "deny_from": 90, "high_from": 60}
}

any(changes) if {
	limits.any with data.limits as object.union(none, changes)
}

test_there_are_none_by_default if {
	all(asked, {}) == []
	not any({})
}

test_limits_by_token_and_user if {
	all(asked, {"token": ten}) == [{"rate": 10, "per": 1, "key": "token", "token": true}]
	all(asked, {"user": ten}) == [{"rate": 10, "per": 1, "key": "user:i|s|c"}]
	any({"token": ten})
}

test_each_limited_role_counts if {
	roles := {"a": ten, "b": {"rate": 1, "per": 60, "burst": 5}, "c": ten}
	count(all(asked, {"roles": roles})) == 2
	all(asked, {"roles": {"b": ten}})[0].key == "role:b:i|s|c"
	any({"roles": roles})
}

test_high_risk_is_limited_further if {
	all(asked, {"high_risk": ten}) == []
	all(risky, {"high_risk": ten})[0].key == "risk:i|s|c"
}

test_an_identity_without_a_subject_is_limited_too if {
	all({"identity": {"iss": "i"}}, {"user": ten})[0].key == "user:i||"
}

well_formed(limit) if limit == null

well_formed(limit) if {
	limit.rate >= 1
	limit.per > 0
	object.get(limit, "burst", 1) >= 1
}

test_the_configured_limits_are_well_formed if {
	well_formed(data.limits.token)
	well_formed(data.limits.user)
	well_formed(data.limits.high_risk)
	every limit in data.limits.roles {
		well_formed(limit)
	}
}
