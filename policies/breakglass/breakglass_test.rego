package portcullis.breakglass_test

import rego.v1

import data.portcullis.breakglass

grant := {"iss": "i", "sub": "s", "from": 1000, "until": 2000, "reason": "outage 7"}

asked(time) := {"time": time, "identity": {"iss": "i", "sub": "s"}}

granted(given, changes) if {
	breakglass.granted with input as given
		with data.breakglass as {"grants": [object.union(grant, changes)], "max_seconds": 3600}
}

test_a_grant_opens_for_its_time_alone if {
	granted(asked(1000), {})
	granted(asked(1999.9), {})
	not granted(asked(999), {})
	not granted(asked(2000), {})
}

test_a_grant_is_for_one_subject_of_one_issuer if {
	not granted({"time": 1500, "identity": {"iss": "i", "sub": "t"}}, {})
	not granted({"time": 1500, "identity": {"iss": "j", "sub": "s"}}, {})
	not granted({"time": 1500}, {})
	not granted({"identity": {"iss": "i", "sub": "s"}}, {})
}

test_a_grant_that_is_too_long_or_has_no_reason_counts_for_nothing if {
	not granted(asked(1500), {"until": 9000})
	not granted(asked(1500), {"reason": ""})
}

test_the_answer_says_why_and_for_how_long if {
	breakglass.reason == "break-glass: outage 7" with input as asked(1500)
		with data.breakglass as {"grants": [grant], "max_seconds": 3600}
	breakglass.seconds_left == 500 with input as asked(1500)
		with data.breakglass as {"grants": [grant], "max_seconds": 3600}
}

# 2100-01-01: a later time is one in milliseconds.
latest := 4102444800

# A decision's reason has no control characters.
printable(text) if {
	is_string(text)
	regex.match("^[^\\x00-\\x1f\\x7f-\\x{9f}]+$", text)
}

well_formed(config) if {
	is_object(config)
	object.keys(config) == {"grants", "max_seconds"}
	is_number(config.max_seconds)
	config.max_seconds >= 0
	config.max_seconds <= 86400
	is_array(config.grants)
	every given in config.grants {
		is_object(given)
		object.keys(given) == object.keys(grant)
		is_string(given.iss)
		given.iss != ""
		is_string(given.sub)
		given.sub != ""
		is_number(given.from)
		is_number(given.until)
		given.from >= 0
		given.from < given.until
		given.until <= latest
		printable(given.reason)
	}
}

test_the_configured_grants_are_well_formed if well_formed(data.breakglass)

test_grants_of_another_form_are_refused if {
	well_formed({"grants": [grant, object.union(grant, {"reason": "Störung"})], "max_seconds": 3600})
	well_formed({"grants": [], "max_seconds": 0})
	every changes in [
		{"from": "1000"}, {"from": "1000", "until": "2000"}, {"from": "2024-11-25T08:00:00Z"}, {"from": -1}, {"until": 1000},
		{"from": 1732490000000, "until": 1732490020000}, {"until": 4102444801}, {"until": null},
		{"reason": "a\nb"}, {"reason": "a\n"}, {"reason": "a\u0085b"}, {"reason": "\u007f"}, {"reason": ""}, {"reason": ["outage"]},
		{"sub": 7}, {"sub": ""}, {"iss": null}, {"to": 2000},
	] {
		not well_formed({"grants": [object.union(grant, changes)], "max_seconds": 3600})
	}
	not well_formed({"grants": [object.remove(grant, ["until"])], "max_seconds": 3600})
	every changes in [{"max_seconds": "3600"}, {"max_seconds": -1}, {"max_seconds": 86401}, {"grants": {"s": grant}}, {"grant": []}] {
		not well_formed(object.union({"grants": [grant], "max_seconds": 3600}, changes))
	}
	not well_formed({"grants": [grant]})
}
