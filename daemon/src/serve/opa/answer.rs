//! Errors and figures in OPA's shapes.

use std::time::Duration;

use http::StatusCode;
use portcullis_common::reason::Reason;
use serde_json::{Value, json};

use crate::{
    decide::DataFault,
    policy::PolicyError,
    serve::doors::{Answer, json as json_answer},
};

/// Why a request has no answer.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub reason: Reason,
    status: u16,
    code: &'static str,
    message: String,
    errors: Vec<Value>,
}

impl Fault {
    /// A fault with its own reason's status and words.
    pub(super) fn of(reason: Reason) -> Self {
        let code = if reason.status() >= 500 { "internal_error" } else { "invalid_parameter" };
        let (status, message) = (reason.status(), reason.describe().to_owned());
        Self { reason, status, code, message, errors: Vec::new() }
    }

    /// The request asks for what cannot be.
    pub(super) fn parameter(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::of(Reason::RequestMalformed) }
    }

    /// A query that failed; `place` is where its input was.
    pub(super) fn data(fault: DataFault, place: &str) -> Self {
        match fault {
            DataFault::Malformed(what) => {
                Self::parameter(format!("{place} contains malformed input document: {what}"))
            }
            DataFault::Failed(e) => Self::evaluation(&e, "eval_error"),
            DataFault::Strict(e) => Self::evaluation(&e, "eval_builtin_error"),
        }
    }

    /// An evaluation that failed, with OPA's code for it and the place.
    fn evaluation(e: &PolicyError, code: &str) -> Self {
        let error = match e {
            PolicyError::Placed(at) => {
                let code = if at.is_conflict { "eval_conflict_error" } else { code };
                let location = json!({"file": at.file, "row": at.line, "col": at.column});
                json!({"code": code, "message": at.message, "location": location})
            }
            PolicyError::Timeout => json!({"code": "eval_cancel_error", "message": e.to_string()}),
            e => json!({"code": "eval_error", "message": e.to_string()}),
        };
        Self {
            reason: e.reason(),
            status: 500,
            code: "internal_error",
            message: "error(s) occurred while evaluating query".to_owned(),
            errors: vec![error],
        }
    }

    /// With OPA's code and a status of its own.
    pub(super) fn coded(status: u16, code: &'static str, message: String, errors: Vec<Value>) -> Self {
        Self { reason: Reason::RequestMalformed, status, code, message, errors }
    }

    pub(super) fn answer(&self) -> Answer {
        let mut body = json!({"code": self.code, "message": self.message});
        if !self.errors.is_empty() {
            body["errors"] = self.errors.clone().into();
        }
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        json_answer(status, body.to_string().into())
    }
}

/// A bare answer has no way to be empty.
pub(super) fn missing(default: bool, path: &str) -> Answer {
    let what = if default { "undefined" } else { "missing" };
    let path: Vec<&str> = std::iter::once("data").chain(path.split('/').filter(|s| !s.is_empty())).collect();
    let message = format!("document {what}: {}", path.join("."));
    Fault::coded(404, "undefined_document", message, Vec::new()).answer()
}

/// How long the parts of an answer took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timings {
    /// Reading the request.
    pub parse: Duration,
    /// The query, with verification of its token.
    pub eval: Duration,
    /// All.
    pub handler: Duration,
}

impl Timings {
    /// As OPA names them.
    pub(super) fn shown(&self) -> Value {
        let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        json!({
            "timer_rego_input_parse_ns": ns(self.parse),
            "timer_rego_query_eval_ns": ns(self.eval),
            "timer_server_handler_ns": ns(self.handler),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Placed;

    #[test]
    fn failures_have_opas_codes_and_their_place() {
        let placed = |is_conflict| {
            let (message, file) = ("m".to_owned(), "p.rego".to_owned());
            PolicyError::Placed(Box::new(Placed { message, is_conflict, file, line: 3, column: 4 }))
        };
        for (fault, code) in [
            (DataFault::Failed(placed(false)), "eval_error"),
            (DataFault::Strict(placed(false)), "eval_builtin_error"),
            (DataFault::Failed(placed(true)), "eval_conflict_error"),
            (DataFault::Strict(placed(true)), "eval_conflict_error"),
        ] {
            let error = Fault::data(fault, "body").errors.remove(0);
            let location = json!({"file": "p.rego", "row": 3, "col": 4});
            assert_eq!(error, json!({"code": code, "message": "m", "location": location}));
        }
    }
}
