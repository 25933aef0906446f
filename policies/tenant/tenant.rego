# METADATA
# title: Tenant isolation
# description: |
#   Keeps tenants apart: below the path of data.tenant.prefix (["v1", "tenants"]) the next segment is a tenant's name, and
#   must be that of the token's claim data.tenant.claim. A token without the claim gets at no tenant. An empty prefix
#   switches this off.
package portcullis.tenant

import rego.v1

depth := count(data.tenant.prefix)

asked := input.request.segments[depth] if {
	depth > 0
	array.slice(input.request.segments, 0, depth) == data.tenant.prefix
}

own if asked == input.identity.claims[data.tenant.claim]

denial := {"allow": false, "reason": "another tenant's resource", "status": 403} if {
	data.tenant.prefix != []
	asked
	not own
}
