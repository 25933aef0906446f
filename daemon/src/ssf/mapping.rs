//! What follows from an event: a small table, which the configuration may change.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::subject::{Subject, User};
use crate::revoke::{BadSelector, Selector};

/// What follows from an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The session's tokens are revoked; where it is not named, the user's.
    Session,
    /// The user's tokens are revoked that were issued before the event.
    Subject,
    /// Nothing.
    Ignore,
}

const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";
const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type/";

/// What is not here, and not in the configuration, is ignored.
#[rustfmt::skip]
const TABLE: &[(&str, Action)] = &[
    ("caep/session-revoked", Action::Session),
    ("caep/credential-change", Action::Subject),
    ("caep/assurance-level-change", Action::Ignore),
    ("caep/device-compliance-change", Action::Ignore),
    ("caep/risk-level-change", Action::Ignore),
    ("caep/token-claims-change", Action::Ignore),
    ("risc/account-disabled", Action::Subject),
    ("risc/account-purged", Action::Subject),
    ("risc/credential-compromise", Action::Subject),
    ("risc/sessions-revoked", Action::Subject),
];

/// The table of the configuration over that of this program, by whole names.
pub(super) fn table(configured: &BTreeMap<String, Action>) -> BTreeMap<String, Action> {
    let own = TABLE.iter().map(|(name, action)| (whole(name), *action));
    own.chain(configured.iter().map(|(name, action)| (whole(name), *action))).collect()
}

/// The whole name of an event type: `caep/…` and `risc/…` are short for the OpenID Foundation's.
fn whole(name: &str) -> String {
    match (name.strip_prefix("caep/"), name.strip_prefix("risc/")) {
        (Some(rest), _) => format!("{CAEP}{rest}"),
        (_, Some(rest)) => format!("{RISC}{rest}"),
        _ => name.to_owned(),
    }
}

/// The short name of an event type.
pub(super) fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Whether an event is one of those of its type that take something away. Of a type that is not known here all are.
pub(super) fn takes_away(name: &str, event: &Map<String, Value>) -> bool {
    let is = |member: &str, value: &str| event.get(member).and_then(Value::as_str) == Some(value);
    match name.strip_prefix(CAEP) {
        // A new credential leaves the sessions of the others as good as they were.
        Some("credential-change") => !is("change_type", "create"),
        Some("assurance-level-change") => !is("change_direction", "increase"),
        Some("device-compliance-change") => !is("current_status", "compliant"),
        Some("risk-level-change") => !is("current_level", "LOW"),
        _ => true,
    }
}

/// The selectors that an action comes to; none where the subject cannot be said by one. An error where it names somebody
/// whom no order may name.
pub(super) fn selectors(
    action: Action,
    subject: &Subject,
    issuers: &[String],
    before: i64,
) -> Result<Vec<Selector>, BadSelector> {
    let sessions = |out: &mut Vec<Selector>| {
        for id in &subject.sessions {
            out.extend(issuers.iter().map(|iss| Selector {
                iss: Some(iss.clone()),
                sid: Some(id.clone()),
                ..Selector::default()
            }));
        }
        for (iss, jti) in &subject.tokens {
            out.push(Selector { iss: Some(iss.clone()), jti: Some(jti.clone()), ..Selector::default() });
        }
    };
    let users = |out: &mut Vec<Selector>| {
        for User { issuer, sub } in &subject.users {
            let of = issuer.as_ref().map_or(issuers, std::slice::from_ref);
            out.extend(of.iter().map(|iss| Selector {
                iss: Some(iss.clone()),
                sub: Some(sub.clone()),
                issued_before: Some(before),
                ..Selector::default()
            }));
        }
    };
    let mut all = Vec::new();
    match action {
        Action::Ignore => {}
        Action::Session => {
            sessions(&mut all);
            if all.is_empty() || subject.is_either {
                users(&mut all);
            }
        }
        Action::Subject => {
            users(&mut all);
            if all.is_empty() {
                sessions(&mut all);
            }
        }
    }
    all.iter().try_for_each(Selector::check_given)?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_configuration_goes_over_the_table() {
        let configured = [
            ("caep/session-revoked".to_owned(), Action::Ignore),
            ("https://own.test/gone".to_owned(), Action::Subject),
        ];
        let table = table(&configured.into());
        assert_eq!(table[&format!("{CAEP}session-revoked")], Action::Ignore);
        assert_eq!(table[&format!("{CAEP}credential-change")], Action::Subject);
        assert_eq!(table["https://own.test/gone"], Action::Subject);
    }

    #[test]
    fn every_change_of_a_credential_but_a_new_one_takes_away() {
        let name = format!("{CAEP}credential-change");
        for (change, is) in
            [("create", false), ("revoke", true), ("update", true), ("delete", true), ("x", true)]
        {
            let event = json!({"change_type": change}).as_object().unwrap().clone();
            assert_eq!(takes_away(&name, &event), is, "{change}");
        }
        assert!(takes_away(&name, &Map::new()), "one that says nothing is one that takes away");
    }
}
