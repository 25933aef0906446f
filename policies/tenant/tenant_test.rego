package portcullis.tenant_test

import rego.v1

import data.portcullis.tenant

settings := {"claim": "org", "prefix": ["v1", "tenants"]}

denied(segments, claims) if {
	asked := {"request": {"segments": segments}, "identity": {"claims": claims}}
	tenant.denial.status == 403 with input as asked with data.tenant as settings
}

test_the_own_tenant_is_let_in if {
	not denied(["v1", "tenants", "acme"], {"org": "acme"})
	not denied(["v1", "tenants", "acme", "users", "7"], {"org": "acme"})
}

test_another_tenant_is_denied if {
	denied(["v1", "tenants", "acme"], {"org": "other"})
	denied(["v1", "tenants", "acme"], {})
	denied(["v1", "tenants", "acme"], {"org": null})
	denied(["v1", "tenants", "7"], {"org": 7})
}

test_other_paths_are_no_tenants if {
	not denied(["v1", "orders"], {"org": "acme"})
	not denied(["v1", "tenants"], {})
	not denied([], {})
}

test_an_empty_prefix_switches_it_off if {
	not tenant.denial with input as {"request": {"segments": ["a"]}} with data.tenant as {"claim": "org", "prefix": []}
}

test_the_configuration_is_well_formed if {
	is_string(data.tenant.claim)
	is_array(data.tenant.prefix)
}
