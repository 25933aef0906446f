//! Which entry of which list a token names.

use portcullis_common::reason::Reason;
use serde_json::{Map, Value};

/// Longest address.
const MAX_URI: usize = 2048;

/// An entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub uri: String,
    pub index: u64,
}

/// Reads `status.status_list` of a token's claims. Other mechanisms of `status` are not known here.
pub(super) fn read(claims: &Map<String, Value>) -> Result<Option<Reference>, Reason> {
    let Some(status) = claims.get("status") else { return Ok(None) };
    let status = status.as_object().ok_or(Reason::ClaimsInvalid)?;
    let Some(list) = status.get("status_list") else { return Ok(None) };
    let member = |name: &str| list.as_object().and_then(|l| l.get(name));
    let index = member("idx").and_then(Value::as_u64).ok_or(Reason::ClaimsInvalid)?;
    let uri = member("uri").and_then(Value::as_str).filter(|u| u.len() <= MAX_URI);
    Ok(Some(Reference { uri: uri.ok_or(Reason::ClaimsInvalid)?.to_owned(), index }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(claims: &Value) -> Result<Option<Reference>, Reason> {
        super::read(claims.as_object().unwrap())
    }

    #[test]
    fn a_reference_is_whole_or_the_token_is_none() {
        let good = json!({"status": {"status_list": {"idx": 3, "uri": "https://h/1"}}});
        assert_eq!(read(&good), Ok(Some(Reference { uri: "https://h/1".to_owned(), index: 3 })));
        for none in [json!({}), json!({"status": {}}), json!({"status": {"other": 1}})] {
            assert_eq!(read(&none), Ok(None), "{none}");
        }
        for bad in [
            json!({"status": null}),
            json!({"status": "x"}),
            json!({"status": {"status_list": null}}),
            json!({"status": {"status_list": {"idx": -1, "uri": "https://h/1"}}}),
            json!({"status": {"status_list": {"idx": "3", "uri": "https://h/1"}}}),
            json!({"status": {"status_list": {"idx": 1.5, "uri": "https://h/1"}}}),
            json!({"status": {"status_list": {"idx": 3}}}),
            json!({"status": {"status_list": {"idx": 3, "uri": "x".repeat(5000)}}}),
        ] {
            assert_eq!(read(&bad), Err(Reason::ClaimsInvalid), "{bad}");
        }
    }
}
