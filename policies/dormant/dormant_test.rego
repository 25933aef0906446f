package portcullis.dormant_test

import rego.v1

import data.portcullis.dormant

usage := {"observed_since": 0, "identities": {
	"i|7": {"first": 86400, "last": 864000},
	"i|s|c": {"first": 86400, "last": 864000},
}}

token := {"iss": "i", "sub": "s", "client": "c", "jti": "7", "iat": 86400}

denial(identity, days, known) := d if {
	d := dormant.denial with input as {"time": days * 86400, "identity": identity}
		with data.portcullis.usage as known
		with data.dormant as {"max_idle_days": 90, "max_unused_days": 30}
}

test_a_token_in_use_is_let_in if {
	not denial(token, 100, usage)
}

test_a_token_that_was_not_used_for_long_is_blocked if {
	denial(token, 101, usage).block == "token"
	denial(object.remove(token, ["jti"]), 101, usage).reason == "the token was not used for too long"
}

test_a_token_that_was_never_used_is_blocked if {
	other := object.union(token, {"jti": "8"})
	not denial(other, 31, usage)
	denial(other, 32, usage).reason == "the token was never used"
}

test_what_was_not_observed_is_not_dormant if {
	other := object.union(token, {"jti": "8"})
	not denial(other, 1000, {})
	not denial(other, 1000, {"identities": {}})
	not denial(other, 1000, {"observed_since": 990 * 86400, "identities": {}})
}

test_a_token_without_an_issue_time_is_judged_by_its_use_alone if {
	denial({"iss": "i", "jti": "7"}, 101, usage)
	not denial({"iss": "i", "jti": "9"}, 1000, usage)
}

test_zero_switches_it_off if {
	not dormant.denial with input as {"time": 86400000, "identity": token}
		with data.portcullis.usage as usage
		with data.dormant as {"max_idle_days": 0, "max_unused_days": 0}
}

test_the_configured_days_are_numbers if {
	data.dormant.max_idle_days >= 0
	data.dormant.max_unused_days >= 0
}
