package portcullis.hours_test

import rego.v1

import data.portcullis.hours

settings := {"timezone": "Europe/Berlin", "windows": [
	{"clients": ["batch"], "roles": [], "days": ["Monday", "Tuesday"], "from": 8, "to": 18.5},
	{"clients": [], "roles": ["night"], "days": ["Monday"], "from": 22, "to": 24},
]}

# Monday, 2024-11-25, at an hour of Berlin's.
monday(hour) := 1732489200 + (hour * 3600)

asked(time, identity) := {"time": time, "identity": identity}

batch := {"client": "batch"}

denied(given) if {
	hours.denial.status == 403 with input as given with data.hours as settings
}

left(given) := s if {
	s := hours.seconds_left with input as given with data.hours as settings
}

test_open_hours_by_client if {
	denied(asked(monday(7.99), batch))
	not denied(asked(monday(8), batch))
	not denied(asked(monday(18.25), batch))
	denied(asked(monday(18.5), batch))
	denied(asked(monday(10) + (5 * 86400), batch))
}

test_open_hours_by_role if {
	denied(asked(monday(21), {"claims": {"roles": ["night"]}}))
	denied(asked(monday(21), {"claims": {"roles": "night"}}))
	not denied(asked(monday(23), {"claims": {"roles": ["day", "night"]}}))
}

test_others_are_let_in_at_any_time if {
	not denied(asked(monday(3), {"client": "web"}))
	not left(asked(monday(3), {"client": "web"}))
}

test_the_time_left_is_told if {
	left(asked(monday(18), batch)) == 1800
}

test_a_request_without_a_time_is_denied if {
	denied({"identity": batch})
}

test_the_configured_windows_are_well_formed if {
	time.clock([0, data.hours.timezone])
	every window in data.hours.windows {
		is_array(window.clients)
		is_array(window.roles)
		every day in window.days {
			day in {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
		}
		window.from >= 0
		window.from < window.to
		window.to <= 24
	}
}
