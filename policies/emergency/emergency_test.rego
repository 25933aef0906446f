package portcullis.emergency_test

import rego.v1

import data.portcullis.emergency

calm := {"everything": false, "clients": [], "subjects": [], "issuers": [], "regions": [], "roles": [], "block_tokens": false}

asked := {
	"request": {"headers": {"x-client-region": "eu"}},
	"token_status": "valid",
	"identity": {"iss": "i", "sub": "s", "client": "c", "claims": {"roles": ["ops", "dev"]}},
}

denial(changes) := d if {
	d := emergency.denial with input as asked with data.emergency as object.union(calm, changes)
}

test_nothing_is_stopped_by_default if {
	not denial({})
	not denial({"clients": ["other"], "subjects": ["c"], "issuers": ["s"]})
}

test_everything_can_be_stopped if {
	denial({"everything": true}).allow == false
	not emergency.denial with input as {} with data.emergency as calm
	emergency.denial.allow == false with input as {} with data.emergency as object.union(calm, {"everything": true})
}

test_a_client_subject_or_issuer_can_be_stopped if {
	denial({"clients": ["c"]}).reason == "this client is stopped"
	denial({"subjects": ["s"]}).reason == "this subject is stopped"
	denial({"issuers": ["i"]}).reason == "this issuer is stopped"
}

test_a_region_or_role_can_be_stopped if {
	denial({"regions": ["eu"]}).reason == "this region is stopped"
	denial({"roles": ["dev"]}).reason == "this role is stopped"
	one := object.union(asked, {"identity": {"claims": {"roles": "dev"}}})
	emergency.denial.reason == "this role is stopped" with input as one with data.emergency as object.union(calm, {"roles": ["dev"]})
	not denial({"regions": ["us"], "roles": ["admin"]})
}

test_a_request_of_no_known_region_is_stopped_with_any if {
	emergency.denial.allow == false with input as {"token_status": "valid"} with data.emergency as object.union(calm, {"regions": ["eu"]})
}

from(header) := object.union(asked, {"request": {"headers": {"x-client-region": header}}})

test_an_empty_region_is_none_and_blanks_around_one_do_not_count if {
	every header in ["", " ", "\t "] {
		emergency.denial.reason == "this region is stopped" with input as from(header)
			with data.emergency as object.union(calm, {"regions": ["us"]})
	}
	emergency.denial.reason == "this region is stopped" with input as from(" eu ")
		with data.emergency as object.union(calm, {"regions": ["eu"]})
	not emergency.denial with input as from("") with data.emergency as calm
}

test_a_stop_is_kept_for_five_seconds_and_blocks_only_when_asked if {
	denial({"clients": ["c"]}).ttl == 5
	denial({"clients": ["c"]}).block == "none"
	denial({"clients": ["c"], "block_tokens": true}).block == "token"
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

well_formed(stop) if {
	is_object(stop)
	object.keys(stop) == object.keys(calm)
	is_boolean(stop.everything)
	is_boolean(stop.block_tokens)
	every list in ["clients", "subjects", "issuers", "regions", "roles"] {
		names(stop[list])
	}
}

test_the_configured_stop_is_well_formed if well_formed(data.emergency)

test_a_stop_of_another_form_is_refused if {
	well_formed(object.union(calm, {"everything": true, "regions": ["eu"]}))
	every changes in [
		{"everything": "true"}, {"everything": null}, {"block_tokens": 1}, {"client": []}, {"clients": "c"},
		{"subjects": {"s": true}}, {"issuers": [1]}, {"regions": [""]}, {"regions": [" eu"]}, {"roles": [null]},
	] {
		not well_formed(object.union(calm, changes))
	}
	not well_formed(object.remove(calm, ["roles"]))
	not well_formed([])
}
