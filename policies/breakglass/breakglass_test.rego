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

test_the_configured_grants_are_well_formed if {
	data.breakglass.max_seconds <= 86400
	every given in data.breakglass.grants {
		is_string(given.iss)
		is_string(given.sub)
		given.from < given.until
		count(given.reason) > 0
	}
}
