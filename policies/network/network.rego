# METADATA
# title: Network, country and region
# description: |
#   Denies by the client's address, country and region. data.network.allowed and data.network.denied are address ranges
#   (CIDR), data.network.countries_allowed and data.network.countries_denied are countries (ISO 3166-1, such as "DE") as
#   the databases of `host.geo_databases` know them of the address, data.network.regions_allowed and
#   data.network.regions_denied are regions as the gateway names them in the header `x-client-region` (`decide.headers`
#   must let it through; an empty one is none). An empty list says nothing. Where a list speaks, a client whose address,
#   country or region is not known is denied.
package portcullis.network

import rego.v1

denial := {"allow": false, "reason": reason, "status": 403} if {
	# What most requests meet: no list says anything.
	data.network != {
		"allowed": [], "denied": [], "countries_allowed": [], "countries_denied": [],
		"regions_allowed": [], "regions_denied": [],
	}
	reason
}

reason := "the client's address is not known" if {
	by_address
	not address_known
} else := "the client's network is denied" if {
	by_address
	address_denied
} else := "the client's network is not allowed" if {
	count(data.network.allowed) > 0
	not address_allowed
} else := "the client's country is not known" if {
	by_country
	not country
} else := "the client's country is denied" if {
	by_country
	country in data.network.countries_denied
} else := "the client's country is not allowed" if {
	count(data.network.countries_allowed) > 0
	not country in data.network.countries_allowed
} else := "the client's region is not known" if {
	by_region
	not region
} else := "the client's region is denied" if {
	by_region
	region in data.network.regions_denied
} else := "the client's region is not allowed" if {
	count(data.network.regions_allowed) > 0
	not region_allowed
}

by_address if count(data.network.denied) > 0

by_address if count(data.network.allowed) > 0

by_country if count(data.network.countries_denied) > 0

by_country if count(data.network.countries_allowed) > 0

by_region if count(data.network.regions_denied) > 0

by_region if count(data.network.regions_allowed) > 0

country := code if {
	code := input.request.geo.country
	is_string(code)
	code != ""
}

region := name if {
	name := trim_space(input.request.headers["x-client-region"])
	name != ""
}

# As it was sent: what has blanks around it is no name that is allowed.
region_allowed if input.request.headers["x-client-region"] in data.network.regions_allowed

address_known if net.cidr_contains("0.0.0.0/0", input.request.source)

address_known if net.cidr_contains("::/0", input.request.source)

address_denied if count(net.cidr_contains_matches(data.network.denied, input.request.source)) > 0

address_allowed if count(net.cidr_contains_matches(data.network.allowed, input.request.source)) > 0
