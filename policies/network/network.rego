# METADATA
# title: Network and region
# description: |
#   Denies by the client's address and region. data.network.allowed and data.network.denied are address ranges (CIDR),
#   data.network.regions_allowed and data.network.regions_denied are regions as the gateway names them in the header
#   `x-client-region` (`decide.headers` must let it through). An empty list says nothing. Where a list speaks, a
#   client whose address or region is not known is denied.
package portcullis.network

import rego.v1

denial := {"allow": false, "reason": reason, "status": 403}

reason := "the client's address is not known" if {
	by_address
	not address_known
} else := "the client's network is denied" if {
	by_address
	address_denied
} else := "the client's network is not allowed" if {
	count(data.network.allowed) > 0
	not address_allowed
} else := "the client's region is not known" if {
	by_region
	not region
} else := "the client's region is denied" if {
	by_region
	region in data.network.regions_denied
} else := "the client's region is not allowed" if {
	count(data.network.regions_allowed) > 0
	not region in data.network.regions_allowed
}

by_address if count(data.network.denied) > 0

by_address if count(data.network.allowed) > 0

by_region if count(data.network.regions_denied) > 0

by_region if count(data.network.regions_allowed) > 0

region := input.request.headers["x-client-region"]

address_known if net.cidr_contains("0.0.0.0/0", input.request.source)

address_known if net.cidr_contains("::/0", input.request.source)

address_denied if count(net.cidr_contains_matches(data.network.denied, input.request.source)) > 0

address_allowed if count(net.cidr_contains_matches(data.network.allowed, input.request.source)) > 0
