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

test_the_configured_window_is_a_number if {
	data.window.max_age_seconds > 0
	every seconds in data.window.max_age_seconds_by_client {
		seconds > 0
	}
}
