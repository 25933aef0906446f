# METADATA
# title: Risk
# description: |
#   Denies what is too risky. The score, from 0 to 100, is the higher one of the header `x-risk-score`, which the
#   gateway sets (`decide.headers` must let it through), and of the subject's in data.risk.subjects. A header that is
#   no number counts as 100, an absent one as 0. From data.risk.deny_from on the request is denied; from
#   data.risk.high_from on the level is high, which rate limits look at.
package portcullis.risk

import rego.v1

signalled := number if {
	number := to_number(input.request.headers["x-risk-score"])
} else := 100 if {
	input.request.headers["x-risk-score"]
} else := 0

noted := number if {
	number := data.risk.subjects[input.identity.sub]
} else := 0

score := 0 if {
	not input.request.headers["x-risk-score"]
	not data.risk.subjects[input.identity.sub]
} else := max([signalled, noted])

level := "high" if {
	score >= data.risk.high_from
} else := "low"

denial := {"allow": false, "reason": "the risk is too high", "status": 403} if score >= data.risk.deny_from
