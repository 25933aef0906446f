package portcullis.window_test

import rego.v1

import data.portcullis.window

limits := {"max_age_seconds": 3600, "max_age_seconds_by_client": {"batch": 60}}

denial(identity, time) := d if {
	d := window.denial with input as {"identity": identity, "time": time} with data.window as limits
}

test_a_token_inside_its_window_is_not_denied if {
	not denial({"iat": 1000}, 1000)
	not denial({"iat": 1000}, 4599.9)
}

test_a_token_past_its_window_is_blocked if {
	denial({"iat": 1000}, 4600).block == "token"
	denial({"iat": 1000}, 9999).block == "token"
}

test_a_client_may_have_a_window_of_its_own if {
	not denial({"iat": 1000, "client": "other"}, 1061)
	not denial({"iat": 1000, "client": "batch"}, 1059)
	denial({"iat": 1000, "client": "batch"}, 1060).block == "token"
}

test_a_token_without_an_issue_time_is_denied_but_not_blocked if {
	some identity in [{}, {"iat": "1000"}, {"iat": null}]
	d := denial(identity, 1000)
	d.allow == false
	not d.block
}

above_zero(seconds) if {
	is_number(seconds)
	seconds > 0
}

well_formed(config) if {
	is_object(config)
	object.keys(config) == object.keys(limits)
	above_zero(config.max_age_seconds)
	is_object(config.max_age_seconds_by_client)
	every client, seconds in config.max_age_seconds_by_client {
		client != ""
		above_zero(seconds)
	}
}

test_the_configured_window_is_well_formed if well_formed(data.window)

test_a_window_of_another_form_is_refused if {
	well_formed(limits)
	well_formed({"max_age_seconds": 0.5, "max_age_seconds_by_client": {}})
	every changes in [
		{"max_age_seconds": "3600"}, {"max_age_seconds": 0}, {"max_age_seconds": -1}, {"max_age_seconds": null},
		{"max_age_seconds_by_client": []}, {"max_age_seconds_by_client": [60]}, {"max_age_seconds_by_client": 60},
		{"max_age_seconds_by_client": {"batch": "60"}}, {"max_age_seconds_by_client": {"batch": 0}},
		{"max_age_seconds_by_client": {"batch": null}}, {"max_age_seconds_by_client": {"": 60}}, {"max_age": 3600},
	] {
		not well_formed(object.union(limits, changes))
	}
	not well_formed({"max_age_seconds": 3600})
	not well_formed([])
}
