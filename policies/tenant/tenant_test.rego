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

# A segment as requests have it: decoded, and none that the daemon refuses.
segment(text) if {
	is_string(text)
	not text in {"", ".", ".."}
	not contains(text, "/")
	not contains(text, "\\")
	not regex.match("%[0-9A-Fa-f][0-9A-Fa-f]", text)
}

well_formed(config) if {
	is_object(config)
	object.keys(config) == object.keys(settings)
	is_string(config.claim)
	config.claim != ""
	is_array(config.prefix)
	every text in config.prefix {
		segment(text)
	}
}

test_the_configuration_is_well_formed if well_formed(data.tenant)

test_a_configuration_of_another_form_is_refused if {
	well_formed(settings)
	well_formed({"claim": "org", "prefix": []})
	every changes in [
		{"prefix": ["v1/tenants"]}, {"prefix": ["/v1", "tenants"]}, {"prefix": ["v1", "tenants/"]}, {"prefix": ["", "v1"]}, {"prefix": ["v1", ".."]},
		{"prefix": ["v1", "ten%61nts"]}, {"prefix": "v1"}, {"prefix": [1]}, {"prefix": {"v1": "tenants"}}, {"prefix": null},
		{"claim": ""}, {"claim": ["org"]}, {"claim": null}, {"claims": "org"},
	] {
		not well_formed(object.union(settings, changes))
	}
	not well_formed({"prefix": ["v1"]})
	not well_formed([])
}
