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

not_negative(number) if {
	is_number(number)
	number >= 0
}

well_formed(config) if {
	is_object(config)
	object.keys(config) == object.keys(settings)
	not_negative(config.deny_from)
	not_negative(config.high_from)
	is_object(config.subjects)
	every subject, score in config.subjects {
		subject != ""
		not_negative(score)
		score <= 100
	}
}

test_the_configured_scores_are_well_formed if well_formed(data.risk)

test_scores_of_another_form_are_refused if {
	well_formed(settings)
	well_formed({"subjects": {}, "deny_from": 0, "high_from": 99.5})
	every changes in [
		{"deny_from": "90"}, {"high_from": "60"}, {"deny_from": -1}, {"high_from": -1}, {"deny_from": null},
		{"subjects": ["bad"]}, {"subjects": []}, {"subjects": {"bad": "95"}}, {"subjects": {"bad": -1}}, {"subjects": {"bad": 950}},
		{"subjects": {"": 95}}, {"deny": 90},
	] {
		not well_formed(object.union(settings, changes))
	}
	not well_formed(object.remove(settings, ["high_from"]))
	not well_formed([])
}
