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

test_a_role_that_the_token_names_twice_counts_once if {
	twice := {"identity": {"iss": "i", "sub": "s", "client": "c", "claims": {"roles": ["b", "a", "b", "b"]}}}
	given := all(twice, {"roles": {"a": ten, "b": ten}})
	[limit.key | some limit in given] == ["role:a:i|s|c", "role:b:i|s|c"]
}

test_high_risk_is_limited_further if {
	all(asked, {"high_risk": ten}) == []
	all(risky, {"high_risk": ten})[0].key == "risk:i|s|c"
}

test_an_identity_without_a_subject_is_limited_too if {
	all({"identity": {"iss": "i"}}, {"user": ten})[0].key == "user:i||"
}

# What the daemon takes for a limit; the policy adds its key.
requests(number) if {
	is_number(number)
	number == floor(number)
	number >= 1
	number <= 1000000
}

limit_formed(limit) if {
	is_object(limit)
	every name, _ in limit {
		name in {"rate", "per", "burst"}
	}
	requests(limit.rate)
	requests(object.get(limit, "burst", 1))
	is_number(limit.per)
	limit.per >= 0.001
	limit.per <= 86400
}

limit_or_none(limit) if limit == null

limit_or_none(limit) if limit_formed(limit)

well_formed(config) if {
	is_object(config)
	object.keys(config) == object.keys(none)
	limit_or_none(config.token)
	limit_or_none(config.user)
	limit_or_none(config.high_risk)
	is_object(config.roles)
	every role, limit in config.roles {
		role != ""
		limit_formed(limit)
	}

	# A decision has eight limits at most, and a token may have every role.
	single := [limit | some limit in [config.token, config.user, config.high_risk]; limit != null]
	count(single) + count(config.roles) <= 8
}

test_the_configured_limits_are_well_formed if well_formed(data.limits)

roles(last) := {role: ten | some number in numbers.range(1, last); role := sprintf("r%d", [number])}

test_limits_of_another_form_are_refused if {
	well_formed(none)
	well_formed({"token": ten, "user": object.union(ten, {"burst": 1000000}), "roles": {"a": ten}, "high_risk": {"rate": 1, "per": 0.001}})
	every changes in [
		{"rate": "10"}, {"rate": 1.5}, {"rate": 0}, {"rate": -1}, {"rate": 1000001}, {"rate": null},
		{"per": "1"}, {"per": 0}, {"per": 0.0005}, {"per": 86401}, {"per": -1}, {"per": null},
		{"burst": "5"}, {"burst": 0}, {"burst": 2.5}, {"burst": 1000001}, {"burst": null}, {"bust": 5}, {"key": "k"},
	] {
		limit := object.union(ten, changes)
		every given in [{"token": limit}, {"user": limit}, {"high_risk": limit}, {"roles": {"a": limit}}] {
			not well_formed(object.union(none, given))
		}
	}
	every given in [
		{"token": {"rate": 10}}, {"token": {"per": 1}}, {"user": []}, {"user": 10}, {"high_risk": false},
		{"roles": []}, {"roles": [ten]}, {"roles": null}, {"roles": {"a": null}}, {"roles": {"": ten}}, {"role": {}},
	] {
		not well_formed(object.union(none, given))
	}
	not well_formed(object.remove(none, ["roles"]))
}

test_no_more_limits_than_a_decision_may_have if {
	well_formed(object.union(none, {"roles": roles(8)}))
	not well_formed(object.union(none, {"roles": roles(9)}))
	well_formed(object.union(none, {"roles": roles(7), "user": ten}))
	not well_formed(object.union(none, {"roles": roles(7), "user": ten, "high_risk": ten}))
}
