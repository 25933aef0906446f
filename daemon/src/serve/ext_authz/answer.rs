//! The one place where a ruling becomes a `CheckResponse`.
//!
//! Envoy goes by the status code alone: an empty message, or one that was forgotten half-way, lets the request pass.
//! So the message is private here, has no default that others could send, and is made whole from a [`Permit`] or
//! from a [`Refusal`].

use prost::Message as _;

use super::messages::{
    APPEND, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption, HttpStatus, OVERWRITE,
    OkHttpResponse, QueryParameter, Status,
};
use crate::{
    decide::{DecisionId, Permit, Refusal, Ruling},
    serve::denial::{DECISION, Denial, Dialect, REASON, SUBJECT},
};

/// `google.rpc.Code`.
const OK: i32 = 0;
const PERMISSION_DENIED: i32 = 7;
const UNAUTHENTICATED: i32 = 16;

/// A whole answer to a check.
pub(super) struct Answer(CheckResponse);

impl Answer {
    /// Says a ruling.
    pub(super) fn of(ruling: &Ruling) -> Self {
        match ruling {
            Ruling::Allow(permit) => Self::allow(permit),
            Ruling::Deny(refusal) => Self::deny(refusal),
        }
    }

    fn allow(permit: &Permit) -> Self {
        let mut ok = OkHttpResponse {
            headers: Vec::new(),
            headers_to_remove: Vec::new(),
            response_headers_to_add: Vec::new(),
            query_parameters_to_set: Vec::new(),
            query_parameters_to_remove: Vec::new(),
        };
        // What the service is told of the token is never the client's own word.
        match permit.subject().filter(|s| is_value(s)) {
            Some(subject) => ok.headers.push(header(SUBJECT, subject, OVERWRITE)),
            None => ok.headers_to_remove.push(SUBJECT.to_owned()),
        }
        match permit.failure() {
            Some(failure) => ok.headers.push(header(REASON, failure.code(), OVERWRITE)),
            None => ok.headers_to_remove.push(REASON.to_owned()),
        }
        match permit.id() {
            Some(id) => ok.headers.push(header(DECISION, &id.to_string(), OVERWRITE)),
            None => ok.headers_to_remove.push(DECISION.to_owned()),
        }
        if let Some(reply) = permit.reply() {
            // Several values are one list (RFC 9110 §5.3): Envoy takes the last of several that overwrite.
            for (name, value) in &reply.headers {
                match ok.headers.last_mut().and_then(|h| h.header.as_mut()).filter(|h| h.key == *name) {
                    Some(again) => again.value.extend([", ", value]),
                    None => ok.headers.push(header(name, value, OVERWRITE)),
                }
            }
            ok.headers_to_remove.extend(reply.removed.iter().cloned());
            let parameter =
                |(key, value): &(String, String)| QueryParameter { key: key.clone(), value: value.clone() };
            ok.query_parameters_to_set.extend(reply.query.iter().map(parameter));
            ok.query_parameters_to_remove.extend(reply.query_removed.iter().cloned());
            ok.response_headers_to_add
                .extend(reply.response_headers.iter().map(|(n, v)| header(n, v, APPEND)));
        }
        for (name, value) in permit.allowance().iter().flat_map(|a| a.headers()) {
            let given =
                |h: &HeaderValueOption| h.header.as_ref().is_some_and(|h| h.key.eq_ignore_ascii_case(name));
            // The policy's own word on it goes first.
            if !ok.response_headers_to_add.iter().any(given) {
                ok.response_headers_to_add.push(header(name, &value, OVERWRITE));
            }
        }
        let reason = permit.failure().map_or("allowed", portcullis_common::reason::Reason::code);
        Self(CheckResponse {
            status: Some(Status { code: OK, message: String::new() }),
            denied_response: None,
            ok_response: Some(ok),
            dynamic_metadata: Some(metadata(reason, permit.id(), permit.reply())),
        })
    }

    fn deny(refusal: &Refusal) -> Self {
        let denial = Denial::new(refusal, Dialect::EnvoyGrpc);
        let code = if denial.status == 401 { UNAUTHENTICATED } else { PERMISSION_DENIED };
        Self(CheckResponse {
            status: Some(Status { code, message: refusal.reason.code().to_owned() }),
            denied_response: Some(DeniedHttpResponse {
                status: Some(HttpStatus { code: denial.status.into() }),
                headers: denial.headers.iter().map(|(n, v)| header(n, v, APPEND)).collect(),
                body: denial.body.into_owned(),
            }),
            ok_response: None,
            dynamic_metadata: Some(metadata(refusal.reason.code(), refusal.id, refusal.reply.as_deref())),
        })
    }

    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        // A vector grows: there is no other way to fail.
        let _ = self.0.encode(into);
    }

    pub(super) fn encoded_len(&self) -> usize {
        self.0.encoded_len()
    }
}

/// Whether a text can stand in a header as it is.
fn is_value(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' '..=b'~'))
}

fn header(name: &str, value: &str, append_action: i32) -> HeaderValueOption {
    let header = HeaderValue { key: name.to_owned(), value: value.to_owned(), raw_value: Vec::new() };
    HeaderValueOption { header: Some(header), append_action }
}

/// What the gateway's access log and other filters may read.
fn metadata(
    reason: &str,
    id: Option<DecisionId>,
    reply: Option<&crate::policy::Reply>,
) -> prost_types::Struct {
    let given = reply.and_then(|r| r.metadata.as_ref()).into_iter().flatten();
    let mut fields: std::collections::BTreeMap<_, _> =
        given.map(|(name, v)| (name.clone(), value(v))).collect();
    fields.insert("portcullis_reason".to_owned(), text(reason));
    fields.extend(id.map(|id| ("portcullis_decision_id".to_owned(), text(&id.to_string()))));
    prost_types::Struct { fields }
}

fn text(text: &str) -> prost_types::Value {
    prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text.to_owned())) }
}

fn value(json: &serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    use serde_json::Value;
    let kind = match json {
        Value::Null => Kind::NullValue(0),
        Value::Bool(b) => Kind::BoolValue(*b),
        Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or_default()),
        Value::String(s) => Kind::StringValue(s.clone()),
        Value::Array(items) => {
            Kind::ListValue(prost_types::ListValue { values: items.iter().map(value).collect() })
        }
        Value::Object(members) => Kind::StructValue(prost_types::Struct {
            fields: members.iter().map(|(name, v)| (name.clone(), value(v))).collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use portcullis_common::reason::Reason;

    use super::*;
    use crate::decide::FailOpen;

    #[test]
    fn every_denial_is_whole_and_none_has_the_code_of_an_allow() {
        for reason in Reason::ALL.iter().filter(|r| **r != Reason::Allowed) {
            let Answer(m) = Answer::of(&Ruling::deny(*reason));
            let denied = m.denied_response.unwrap();
            assert_ne!(m.status.unwrap().code, OK, "{reason:?}");
            assert!(m.ok_response.is_none());
            assert_eq!(i64::from(denied.status.unwrap().code), i64::from(reason.status()), "{reason:?}");
            assert!(denied.headers.len() >= 2 && denied.body.contains(reason.code()));
        }
    }

    #[test]
    fn a_failed_decision_that_passes_says_why_and_names_nobody() {
        let permit = Refusal::of(Reason::PolicyTimeout).fail_open(FailOpen).unwrap();
        let Answer(m) = Answer::of(&Ruling::Allow(permit));
        let ok = m.ok_response.unwrap();
        assert_eq!((m.status.unwrap().code, m.denied_response), (OK, None));
        assert_eq!(ok.headers_to_remove, [SUBJECT, DECISION]);
        assert_eq!(ok.headers[0].header.as_ref().unwrap().value, "policy_timeout");
    }

    #[test]
    fn metadata_is_what_the_policy_gave_and_the_reason() {
        let json = serde_json::json!({"a": [1, "b", null, {"c": true}]});
        let reply =
            crate::policy::Reply { metadata: json.as_object().cloned(), ..crate::policy::Reply::default() };
        let fields = metadata("allowed", None, Some(&reply)).fields;
        assert_eq!(fields["portcullis_reason"], text("allowed"));
        assert_eq!(fields["a"], value(&json["a"]));
    }
}
