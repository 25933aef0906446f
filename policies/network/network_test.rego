package portcullis.network_test

import rego.v1

import data.portcullis.network

open := {"allowed": [], "denied": [], "regions_allowed": [], "regions_denied": []}

reason(request, changes) := r if {
	r := network.denial.reason with input as {"request": request} with data.network as object.union(open, changes)
}

from(source) := {"source": source, "headers": {}}

in_region(region) := {"source": "192.0.2.1", "headers": {"x-client-region": region}}

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

test_the_configured_lists_are_well_formed if {
	every cidr in array.concat(data.network.allowed, data.network.denied) {
		net.cidr_is_valid(cidr)
	}
	is_array(data.network.regions_allowed)
	is_array(data.network.regions_denied)
}
