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

test_a_stop_is_kept_for_five_seconds_and_blocks_only_when_asked if {
	denial({"clients": ["c"]}).ttl == 5
	denial({"clients": ["c"]}).block == "none"
	denial({"clients": ["c"], "block_tokens": true}).block == "token"
}

test_the_configured_stop_is_well_formed if {
	is_boolean(data.emergency.everything)
	is_boolean(data.emergency.block_tokens)
	is_array(data.emergency.clients)
	is_array(data.emergency.subjects)
	is_array(data.emergency.issuers)
	is_array(data.emergency.regions)
	is_array(data.emergency.roles)
}
