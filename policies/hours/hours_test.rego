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
	left(asked(monday(18), batch)) == 1799
}

# The clock has whole seconds: what is told must hold at the end of each too.
test_no_more_than_the_time_left_is_told if {
	every before in [1800.25, 60.999, 1.5, 1, 0.999, 0.001] {
		seconds := left(asked(monday(18.5) - before, batch))
		seconds >= 0
		seconds <= before
	}
}

test_a_request_without_a_time_is_denied if {
	denied({"identity": batch})
}

# Strings that are not empty, without blanks around them.
names(list) if {
	is_array(list)
	every name in list {
		is_string(name)
		name != ""
		trim_space(name) == name
	}
}

week := {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}

well_formed(given) if {
	is_object(given)
	object.keys(given) == {"timezone", "windows"}
	is_string(given.timezone)
	time.clock([0, given.timezone])
	is_array(given.windows)
	every window in given.windows {
		is_object(window)
		object.keys(window) == {"clients", "roles", "days", "from", "to"}
		names(window.clients)
		names(window.roles)
		is_array(window.days)
		every day in window.days {
			day in week
		}
		is_number(window.from)
		is_number(window.to)
		window.from >= 0
		window.from < window.to
		window.to <= 24
	}
}

test_the_configured_windows_are_well_formed if well_formed(data.hours)

with_window(changes) := {"timezone": "UTC", "windows": [object.union(settings.windows[0], changes)]}

test_windows_of_another_form_are_refused if {
	well_formed(settings)
	well_formed({"timezone": "UTC", "windows": []})
	every changes in [
		{"from": "8"}, {"from": "8", "to": "9"}, {"from": -1}, {"from": 19}, {"to": 25}, {"to": null}, {"client": ["batch"]},
		{"clients": "batch"}, {"clients": [""]}, {"roles": {"night": true}}, {"roles": [1]},
		{"days": "Monday"}, {"days": ["monday"]}, {"days": ["Mon"]}, {"days": {"Monday": true}},
	] {
		not well_formed(with_window(changes))
	}
	every changes in [{"timezone": 1}, {"windows": {}}, {"windows": [[]]}, {"window": []}] {
		not well_formed(object.union(settings, changes))
	}
	not well_formed({"timezone": "UTC", "windows": [object.remove(settings.windows[0], ["roles"])]})
	not well_formed({"timezone": "UTC"})
}
