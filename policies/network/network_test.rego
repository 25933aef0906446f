package portcullis.network_test

import rego.v1

import data.portcullis.network

open := {
	"allowed": [], "denied": [], "countries_allowed": [], "countries_denied": [],
	"regions_allowed": [], "regions_denied": [],
}

reason(request, changes) := r if {
	r := network.denial.reason with input as {"request": request} with data.network as object.union(open, changes)
}

from(source) := {"source": source, "headers": {}}

in_region(region) := {"source": "192.0.2.1", "headers": {"x-client-region": region}}

in_country(country) := {"source": "192.0.2.1", "headers": {}, "geo": {"country": country}}

test_empty_lists_say_nothing if {
	not reason(from("192.0.2.1"), {})
	not reason({"headers": {}}, {})
}

test_a_denied_network_is_denied if {
	reason(from("192.0.2.7"), {"denied": ["10.0.0.0/8", "192.0.2.0/24"]}) == "the client's network is denied"
	not reason(from("192.0.3.7"), {"denied": ["192.0.2.0/24"]})
	reason(from("2001:db8::1"), {"denied": ["2001:db8::/32"]}) == "the client's network is denied"
}

test_an_ipv4_address_written_as_ipv6_is_the_same if {
	reason(from("::ffff:192.0.2.7"), {"denied": ["192.0.2.0/24"]}) == "the client's network is denied"
	reason(from("192.0.2.7"), {"denied": ["::ffff:192.0.2.0/120"]}) == "the client's network is denied"
	not reason(from("192.0.3.7"), {"denied": ["::FFFF:c000:200/120"]})
}

test_where_networks_are_allowed_others_are_not if {
	not reason(from("10.1.2.3"), {"allowed": ["10.0.0.0/8"]})
	reason(from("11.1.2.3"), {"allowed": ["10.0.0.0/8"]}) == "the client's network is not allowed"
	reason(from("10.1.2.3"), {"allowed": ["10.0.0.0/8"], "denied": ["10.1.0.0/16"]}) == "the client's network is denied"
}

test_an_unknown_address_is_denied_where_a_list_speaks if {
	some request in [from(""), from("unknown"), {"headers": {}}]
	reason(request, {"denied": ["10.0.0.0/8"]}) == "the client's address is not known"
	reason(request, {"allowed": ["0.0.0.0/0"]}) == "the client's address is not known"
}

test_regions if {
	reason(in_region("xx"), {"regions_denied": ["xx"]}) == "the client's region is denied"
	not reason(in_region("eu"), {"regions_denied": ["xx"]})
	reason(in_region("us"), {"regions_allowed": ["eu"]}) == "the client's region is not allowed"
	not reason(in_region("eu"), {"regions_allowed": ["eu"]})
	reason(from("192.0.2.1"), {"regions_denied": ["xx"]}) == "the client's region is not known"
}

test_an_empty_region_is_none_and_blanks_around_one_let_nobody_in if {
	every header in ["", " ", "\t "] {
		reason(in_region(header), {"regions_denied": ["xx"]}) == "the client's region is not known"
		reason(in_region(header), {"regions_allowed": ["xx"]}) == "the client's region is not known"
	}
	reason(in_region(" xx "), {"regions_denied": ["xx"]}) == "the client's region is denied"
	reason(in_region(" eu "), {"regions_allowed": ["eu"]}) == "the client's region is not allowed"
}

test_countries if {
	reason(in_country("XX"), {"countries_denied": ["XX"]}) == "the client's country is denied"
	not reason(in_country("DE"), {"countries_denied": ["XX"]})
	reason(in_country("US"), {"countries_allowed": ["DE", "FR"]}) == "the client's country is not allowed"
	not reason(in_country("FR"), {"countries_allowed": ["DE", "FR"]})
	reason(in_country("DE"), {"countries_allowed": ["DE"], "countries_denied": ["DE"]}) == "the client's country is denied"
}

test_an_unknown_country_is_denied_where_a_list_speaks if {
	every request in [from("192.0.2.1"), object.union(from("192.0.2.1"), {"geo": {}}), in_country(""), in_country(49)] {
		reason(request, {"countries_denied": ["XX"]}) == "the client's country is not known"
		reason(request, {"countries_allowed": ["DE"]}) == "the client's country is not known"
		not reason(request, {})
	}
}

ranges(list) if {
	is_array(list)
	every cidr in list {
		is_string(cidr)
		net.cidr_is_valid(cidr)
	}
}

countries(list) if {
	is_array(list)
	every country in list {
		is_string(country)
		regex.match("^[A-Z][A-Z]$", country)
	}
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

well_formed(lists) if {
	is_object(lists)
	object.keys(lists) == object.keys(open)
	ranges(lists.allowed)
	ranges(lists.denied)
	countries(lists.countries_allowed)
	countries(lists.countries_denied)
	names(lists.regions_allowed)
	names(lists.regions_denied)
}

test_the_configured_lists_are_well_formed if well_formed(data.network)

test_lists_of_another_form_are_refused if {
	well_formed(object.union(open, {"allowed": ["10.0.0.0/8", "2001:db8::/32", "::/0"], "countries_denied": ["XX"], "regions_denied": ["xx"]}))
	every changes in [
		{"denied": ["192.0.2.7"]}, {"denied": ["example.com"]}, {"denied": ["192.0.2.0/33"]}, {"denied": [""]},
		{"denied": [7]}, {"denied": "10.0.0.0/8"}, {"denied": {"10.0.0.0/8": true}}, {"denid": ["10.0.0.0/8"]},
		{"countries_denied": ["xx"]}, {"countries_allowed": ["DEU"]}, {"countries_allowed": ["Germany"]},
		{"countries_allowed": "DE"}, {"countries_allowed": [49]}, {"countries_denied": null},
		{"regions_denied": "xx"}, {"regions_denied": [""]}, {"regions_allowed": ["eu "]}, {"regions_allowed": [1]},
	] {
		not well_formed(object.union(open, changes))
	}
	not well_formed(object.remove(open, ["denied"]))
	not well_formed([])
}
