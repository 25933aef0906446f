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

test_a_use_that_was_forgotten_is_as_long_ago_as_was_observed if {
	idle := {"max_idle_days": 90, "max_unused_days": 0, "by_subject": false}
	forgotten := {"observed_since": 86400 * 100, "subject": {}}
	given := {"identity": token, "usage": forgotten}
	dormant.denial.block == "token" with input as object.union(given, {"time": 191 * 86400}) with data.dormant as idle
	dormant.denial.reason == "the token was not used for too long" with input as object.union(given, {"time": 191 * 86400})
		with data.dormant as idle
	not dormant.denial with input as object.union(given, {"time": 190 * 86400}) with data.dormant as idle

	# It is younger than what was observed.
	young := object.union(given, {"identity": {"iat": 86400 * 150}})
	not dormant.denial with input as object.union(young, {"time": 240 * 86400}) with data.dormant as idle
	dormant.denial.status == 401 with input as object.union(young, {"time": 241 * 86400}) with data.dormant as idle

	# The subject's uses are forgotten by themselves.
	by_subject := object.union(idle, {"by_subject": true})
	used := {"identity": token, "usage": object.union(forgotten, {"subject": {"first_used": 86400, "last_used": 86400 * 150}})}
	not dormant.denial with input as object.union(used, {"time": 191 * 86400}) with data.dormant as by_subject
	dormant.denial.status == 401 with input as object.union(given, {"time": 191 * 86400}) with data.dormant as by_subject
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

days(number) if {
	is_number(number)
	number >= 0
}

well_formed(config) if {
	is_object(config)
	object.keys(config) == object.keys(limits)
	days(config.max_idle_days)
	days(config.max_unused_days)
	is_boolean(config.by_subject)
}

test_the_configured_days_are_well_formed if well_formed(data.dormant)

test_days_of_another_form_are_refused if {
	well_formed(limits)
	well_formed({"max_idle_days": 0, "max_unused_days": 0.5, "by_subject": true})
	every changes in [
		{"max_idle_days": "90"}, {"max_unused_days": "30"}, {"max_idle_days": -1}, {"max_unused_days": -0.5},
		{"max_idle_days": null}, {"max_unused_days": [30]}, {"by_subject": "true"}, {"by_subject": 1}, {"max_idle": 90},
	] {
		not well_formed(object.union(limits, changes))
	}
	not well_formed(object.remove(limits, ["by_subject"]))
	not well_formed([])
}
