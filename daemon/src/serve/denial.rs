//! A refusal in HTTP's words, as much of it as each kind of gateway understands.

use std::borrow::Cow;

use portcullis_common::reason::Reason;

use crate::decide::{Allowance, Refusal};

/// Why the request was refused, by code.
pub(super) const REASON: &str = "x-portcullis-reason";
/// The status that was meant, where the gateway would take it for something else.
pub(super) const STATUS: &str = "x-portcullis-status";
/// The id of its line in the decision log.
pub(super) const DECISION: &str = "x-portcullis-decision-id";
/// `sub` of the verified token.
pub(super) const SUBJECT: &str = "x-portcullis-subject";
/// When to come again, where the policy names no time.
const RETRY_AFTER: &str = "1";

/// Which statuses a gateway takes for a denial. All else would be an error to it, and an error may be let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// nginx's `auth_request`: 401 and 403.
    Nginx,
    /// Gateways that pass on any answer that is not 2xx.
    Plain,
    /// Envoy by HTTP: 5xx is a failure of the authorization service.
    EnvoyHttp,
    /// Envoy by gRPC: what its list of status codes has.
    EnvoyGrpc,
}

impl Dialect {
    /// The status that is sent for the one that is meant.
    const fn status(self, meant: u16) -> u16 {
        let said = match self {
            Self::Nginx => meant == 401,
            Self::Plain => meant >= 400 && meant <= 599 || is_redirect(meant),
            Self::EnvoyHttp => meant >= 400 && meant <= 499 || is_redirect(meant),
            // envoy.type.v3.StatusCode
            Self::EnvoyGrpc => matches!(
                meant,
                301..=303 | 307 | 308 | 400..=417 | 421..=424 | 426 | 428 | 429 | 431 | 500..=508 | 510 | 511
            ),
        };
        if said { meant } else { 403 }
    }
}

/// What gateways pass on to the client as they do a 4xx.
const fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// An answer that refuses, whole.
#[derive(Debug)]
pub(super) struct Denial<'a> {
    /// 4xx or 5xx, or a redirect's.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(&'a str, Cow<'a, str>)>,
    /// For the client.
    pub body: Cow<'a, str>,
}

impl<'a> Denial<'a> {
    /// Says a refusal.
    pub(super) fn new(refusal: &'a Refusal, dialect: Dialect) -> Self {
        let (reason, status) = (refusal.reason, dialect.status(refusal.status));
        let reply = refusal.reply.as_deref();
        let given: &[(String, String)] = reply.map_or(&[], |r| &r.headers);
        let names = |name: &str| given.iter().any(|(n, _)| n == name);
        let mut headers = vec![(REASON, Cow::Borrowed(reason.code()))];
        headers.extend(refusal.id.map(|id| (DECISION, id.to_string().into())));
        if refusal.status != status {
            headers.push((STATUS, refusal.status.to_string().into()));
        }
        if status == 401 && !names("www-authenticate") {
            // RFC 6750 §3.1: no error code where no credential was given.
            let challenge = match reason {
                Reason::TokenMissing => "Bearer",
                // RFC 9449 §7.1.
                // Either may be what is missing; the scheme is `DPoP` where it is that (RFC 9449 §7.1).
                Reason::BindingUnproved => "DPoP error=\"invalid_token\", Bearer error=\"invalid_token\"",
                Reason::ProofInvalid | Reason::ProofReplayed => "DPoP error=\"invalid_dpop_proof\"",
                _ => "Bearer error=\"invalid_token\"",
            };
            headers.push(("www-authenticate", challenge.into()));
        }
        let allowance = refusal.allowance.iter().flat_map(Allowance::headers);
        headers.extend(allowance.filter(|(n, _)| !names(n)).map(|(n, v)| (n, v.into())));
        let has_retry = headers.iter().any(|(n, _)| *n == "retry-after");
        if matches!(refusal.status, 429 | 503) && !names("retry-after") && !has_retry {
            headers.push(("retry-after", RETRY_AFTER.into()));
        }
        let body = reply.and_then(|r| r.body.as_deref());
        if !names("content-type") {
            let kind = if body.is_some() { "text/plain; charset=utf-8" } else { "application/json" };
            headers.push(("content-type", kind.into()));
        }
        headers.extend(given.iter().map(|(n, v)| (n.as_str(), Cow::Borrowed(v.as_str()))));
        let body = body.map_or_else(|| own_body(refusal).into(), Cow::Borrowed);
        Self { status, headers, body }
    }
}

fn own_body(refusal: &Refusal) -> String {
    serde_json::json!({"reason": refusal.reason.code(), "detail": refusal.detail}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gateway_is_told_only_what_it_takes_for_a_denial() {
        for (dialect, sent) in [
            (Dialect::Nginx, [401, 403, 403, 403, 403, 403, 403, 403]),
            (Dialect::Plain, [401, 403, 429, 503, 400, 599, 302, 403]),
            (Dialect::EnvoyHttp, [401, 403, 429, 403, 400, 403, 302, 403]),
            (Dialect::EnvoyGrpc, [401, 403, 429, 503, 400, 403, 302, 403]),
        ] {
            assert_eq!(
                [401, 403, 429, 503, 400, 599, 302, 304].map(|meant| dialect.status(meant)),
                sent,
                "{dialect:?}"
            );
        }
    }

    #[test]
    fn what_was_meant_is_said_beside_what_is_sent() {
        let refusal = Refusal { status: 429, ..Refusal::of(Reason::PolicyDenied) };
        let denial = Denial::new(&refusal, Dialect::Nginx);
        assert_eq!(denial.status, 403);
        let says = |name: &str| denial.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_ref());
        assert_eq!((says(REASON), says(STATUS)), (Some("policy_denied"), Some("429")));
        assert_eq!((says("retry-after"), says("www-authenticate")), (Some("1"), None));
        assert_eq!(denial.body, r#"{"detail":null,"reason":"policy_denied"}"#);
    }

    #[test]
    fn challenges_name_the_scheme_that_is_asked_for() {
        for (reason, challenge) in [
            (Reason::TokenMissing, "Bearer"),
            (Reason::TokenExpired, "Bearer error=\"invalid_token\""),
            (Reason::BindingUnproved, "DPoP error=\"invalid_token\", Bearer error=\"invalid_token\""),
            (Reason::ProofReplayed, "DPoP error=\"invalid_dpop_proof\""),
        ] {
            let refusal = Refusal::of(reason);
            let denial = Denial::new(&refusal, Dialect::Plain);
            let said = denial.headers.iter().find(|(n, _)| *n == "www-authenticate").map(|(_, v)| v.as_ref());
            assert_eq!(said, Some(challenge), "{reason:?}");
        }
    }

    #[test]
    fn who_is_limited_is_told_when_to_come_again() {
        let allowance = Allowance { limit: 5, window: 60, remaining: 0, reset: 60, retry_after: 12 };
        let refusal = Refusal { allowance: Some(allowance), ..Refusal::of(Reason::RateLimited) };
        let denial = Denial::new(&refusal, Dialect::Plain);
        let all = |name: &str| {
            denial.headers.iter().filter(|(n, _)| *n == name).map(|(_, v)| v.as_ref()).collect::<Vec<_>>()
        };
        assert_eq!((denial.status, all("retry-after")), (429, vec!["12"]));
        assert_eq!(all("ratelimit"), ["\"portcullis\";r=0;t=60"]);
        assert_eq!(all("ratelimit-policy"), ["\"portcullis\";q=5;w=60"]);
    }

    #[test]
    fn every_reason_is_a_whole_denial_in_every_dialect() {
        for reason in Reason::ALL.iter().filter(|r| **r != Reason::Allowed) {
            for dialect in [Dialect::Nginx, Dialect::Plain, Dialect::EnvoyHttp, Dialect::EnvoyGrpc] {
                let refusal = Refusal::of(*reason);
                let denial = Denial::new(&refusal, dialect);
                assert!((400..=599).contains(&denial.status), "{reason:?}");
                assert_eq!(denial.headers[0], (REASON, reason.code().into()));
                assert!(!denial.body.is_empty());
            }
        }
    }
}
