package portcullis.dormant_test

import rego.v1

import data.portcullis.dormant

# Observed since day 0; used from day 1 to day 10, the subject until day 50.
usage := {
	"observed_since": 0, "first_used": 86400, "last_used": 864000,
	"subject": {"first_used": 86400, "last_used": 4320000},
}

never := {"observed_since": 0, "subject": {}}

token := {"iss": "i", "sub": "s", "client": "c", "jti": "7", "iat": 86400}

limits := {"max_idle_days": 90, "max_unused_days": 30, "by_subject": false}

denial(identity, days, known) := d if {
	d := dormant.denial with input as {"time": days * 86400, "identity": identity, "usage": known}
		with data.dormant as limits
}

test_a_token_in_use_is_let_in if {
	not denial(token, 100, usage)
}

test_a_token_that_was_not_used_for_long_is_blocked if {
	denial(token, 101, usage).block == "token"
	denial(token, 101, usage).reason == "the token was not used for too long"
}

test_uses_of_the_subject_count_where_they_are_asked_for if {
	by_subject := object.union(limits, {"by_subject": true})
	not dormant.denial with input as {"time": 101 * 86400, "identity": token, "usage": usage}
		with data.dormant as by_subject
	dormant.denial with input as {"time": 141 * 86400, "identity": token, "usage": usage}
		with data.dormant as by_subject
	dormant.denial.reason == "the token was never used" with input as {"time": 141 * 86400, "identity": token, "usage": never}
		with data.dormant as by_subject
}

test_a_token_that_was_never_used_is_blocked if {
	not denial(token, 31, never)
	denial(token, 32, never).reason == "the token was never used"
}

test_what_was_not_observed_is_not_dormant if {
	not denial(token, 1000, {"observed_since": 990 * 86400, "subject": {}})
	not dormant.denial with input as {"time": 86400000, "identity": token} with data.dormant as limits
}

test_a_token_without_an_issue_time_is_judged_by_its_use_alone if {
	denial({"iss": "i", "jti": "7"}, 101, usage)
	not denial({"iss": "i", "jti": "9"}, 1000, never)
}

test_zero_switches_it_off if {
	not dormant.denial with input as {"time": 86400000, "identity": token, "usage": never}
		with data.dormant as {"max_idle_days": 0, "max_unused_days": 0, "by_subject": false}
	not dormant.denial with input as {"time": 86400000, "identity": token, "usage": usage}
		with data.dormant as {"max_idle_days": 0, "max_unused_days": 0, "by_subject": false}
}

test_the_configured_days_are_numbers if {
	data.dormant.max_idle_days >= 0
	data.dormant.max_unused_days >= 0
	is_boolean(data.dormant.by_subject)
}
