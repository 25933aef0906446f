package portcullis.risk_test

import rego.v1

import data.portcullis.risk

settings := {"subjects": {"bad": 95, "odd": 70}, "deny_from": 90, "high_from": 60}

asked(header, sub) := {"request": {"headers": {"x-risk-score": header}}, "identity": {"sub": sub}}

denied(given) if {
	risk.denial.status == 403 with input as given with data.risk as settings
}

level(given) := l if {
	l := risk.level with input as given with data.risk as settings
}

test_a_high_score_is_denied if {
	denied(asked("90", "s"))
	denied(asked("0", "bad"))
	not denied(asked("89", "s"))
	not denied({"request": {"headers": {}}, "identity": {"sub": "s"}})
	not denied({})
}

test_a_score_that_is_no_number_is_the_highest if {
	some header in ["", "high", "NaN", "9O"]
	denied(asked(header, "s"))
}

test_levels if {
	level(asked("59", "s")) == "low"
	level(asked("60", "s")) == "high"
	level(asked("0", "odd")) == "high"
	level({}) == "low"
}

test_the_configured_scores_are_numbers if {
	is_number(data.risk.deny_from)
	is_number(data.risk.high_from)
	every score in data.risk.subjects {
		is_number(score)
	}
}
