//! An order to revoke, as it is written in JSON: read and checked once, for one request and for each line of many.

use portcullis_common::fingerprint::DenyFingerprint;
use serde::Deserialize;

use super::{AdminState, ApiError, Caller, bad, read_token};
use crate::{
    clock::WallTime,
    plain::is_plain,
    revoke::{Fingerprints, Named, Once, Order, Selector, SelectorOrder},
};

/// Longest reason and ticket given, in bytes.
const MAX_REASON: usize = 1000;
/// Longest idempotency key, in bytes.
const MAX_KEY: usize = 255;

/// Why a fingerprint is none.
const NOBODY: &str = "the fingerprint is all zeros, which no token has";

/// What is asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    token: Option<String>,
    fingerprint: Option<String>,
    selector: Option<Selector>,
    ttl: Option<String>,
    /// Until when (ms since 1970), in place of `ttl`.
    until: Option<i64>,
    #[serde(default)]
    reason: String,
    actor: Option<String>,
    #[serde(default)]
    ticket: String,
    /// What kind of order it is.
    #[serde(default)]
    source: Source,
    /// The key that made `fingerprint`, eight hexadecimal digits; this host's own where none is named.
    key_id: Option<String>,
    /// The same token's fingerprint under another key, as an export has it.
    other: Option<Named>,
    /// Only tells what it would do.
    #[serde(default)]
    pub dry_run: bool,
}

/// Kinds of orders, as they are noted.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    /// By hand or by a program.
    #[default]
    Admin,
    /// Until all is well again.
    Lockdown,
    /// From another store.
    Import,
}

/// What is ordered.
pub enum Ordered {
    /// One token.
    Token(Order),
    /// All that a selector matches.
    Selector(Box<SelectorOrder>),
}

impl RevokeRequest {
    /// Checks it and makes it an order.
    pub fn read(self, s: &AdminState, by: &Caller) -> Result<Ordered, ApiError> {
        match self.read_late(s, by, s.clock.wall())? {
            (_, true) => Err(over()),
            (ordered, false) => Ok(ordered),
        }
    }

    /// The same of one that may have been given before `asked`, and taken then; tells too whether its time is over now.
    pub fn read_late(
        self,
        s: &AdminState,
        by: &Caller,
        asked: WallTime,
    ) -> Result<(Ordered, bool), ApiError> {
        let keys = s.decider.key_ids();
        let named = self.key_id.as_deref().map(key_id);
        let token = match (&self.token, &self.fingerprint, &self.selector) {
            (Some(token), None, None) => Some(s.decider.fingerprints(&read_token(token)?)),
            (None, Some(f), None) => {
                let mut token = Fingerprints::of(fingerprint(f)?, named.flatten().unwrap_or(keys.own));
                token.other = self.other.filter(|o| o.key_id != token.first.key_id);
                if token.other.is_some_and(|o| o.fingerprint.0 == [0, 0]) {
                    return Err(bad(NOBODY));
                }
                Some(token)
            }
            (None, None, Some(selector)) => {
                selector.check_given().map_err(|e| bad(e.to_string()))?;
                None
            }
            _ => return Err(bad("give one of `token`, `fingerprint` and `selector`")),
        };
        if self.other.is_some() && self.fingerprint.is_none() {
            return Err(bad(
                "`other` is the same token's fingerprint under another key: give it with `fingerprint`",
            ));
        }
        let known = match token {
            _ if named == Some(None) => false,
            Some(token) if self.fingerprint.is_some() => keys.are_of(&token),
            _ => named.flatten().is_none_or(|id| keys.has(id)),
        };
        if !known {
            let ids: Vec<_> = keys.all().map(|id| format!("{id:08x}")).collect();
            let ids = ids.join(" and ");
            return Err(bad(format!("the fingerprint was made under another key than this host's {ids}")));
        }
        let now = s.clock.wall();
        let until = match (self.ttl.as_deref(), self.until) {
            (None, None) => now.plus(s.default_ttl).min(WallTime::LAST),
            (None, Some(until)) => no_later(WallTime(until), "until")?,
            (Some(text), None) => {
                let ttl = humantime::parse_duration(text).ok().filter(|d| !d.is_zero());
                let ttl = ttl.ok_or_else(|| {
                    bad(format!("`ttl` \"{text}\" is not a length of time such as \"30m\" or \"7d\""))
                })?;
                no_later(now.plus(ttl), "ttl")?
            }
            (Some(_), Some(_)) => return Err(bad("give one of `ttl` and `until`")),
        };
        let (reason, ticket) = (check_reason(self.reason)?, check_text("ticket", self.ticket)?);
        let actor = match (self.source, self.actor) {
            // As it stood in the other store, and who says so.
            (Source::Import, Some(a)) if !a.is_empty() && a.len() <= MAX_REASON && is_plain(&a) => {
                by.importing(&a, MAX_REASON)
            }
            (_, actor) => by.named(actor.as_deref())?,
        };
        let source = match self.source {
            Source::Admin => "admin",
            Source::Lockdown => "lockdown",
            Source::Import => "import",
        };
        let source = source.to_owned();
        let is_over = self.until.is_some() && until <= asked;
        let ordered = match (token, self.selector) {
            (None, Some(selector)) => {
                Ordered::Selector(Box::new(SelectorOrder { selector, until, reason, actor, ticket, source }))
            }
            (token, _) => {
                let token = token.ok_or_else(|| bad("no token is named"))?;
                Ordered::Token(Order { token, until, reason, actor, ticket, source, parent: None })
            }
        };
        Ok((ordered, is_over))
    }
}

/// Why an order whose end is behind us is none.
pub fn over() -> ApiError {
    bad("`until` is over: give a time to come, in ms since 1970")
}

/// An end that can be written as a time. What is stored already and ends later is shown as "for ever".
fn no_later(until: WallTime, named: &str) -> Result<WallTime, ApiError> {
    if until > WallTime::LAST {
        return Err(bad(format!(
            "`{named}` ends after the year 9999, which is the last that a time can be written of: give an earlier end"
        )));
    }
    Ok(until)
}

/// A fingerprint that some token may have.
fn fingerprint(text: &str) -> Result<DenyFingerprint, ApiError> {
    let f = text.parse::<DenyFingerprint>().map_err(|e| bad(e.to_string()))?;
    if f.0 == [0, 0] { Err(bad(NOBODY)) } else { Ok(f) }
}

/// A key's id: eight hexadecimal digits. What is none is no key's here.
fn key_id(text: &str) -> Option<u32> {
    Some(text).filter(|t| t.len() == 8).and_then(|t| u32::from_str_radix(t, 16).ok())
}

/// A reason as it may be given.
pub fn check_reason(reason: String) -> Result<String, ApiError> {
    check_text("reason", reason)
}

fn check_text(name: &str, text: String) -> Result<String, ApiError> {
    if text.len() > MAX_REASON || !is_plain(&text) {
        return Err(bad(format!("`{name}` must be printable and of at most {MAX_REASON} bytes")));
    }
    Ok(text)
}

/// The key of an order that may come twice (`Idempotency-Key`), for one caller and one part of what is ordered.
#[derive(Clone)]
pub struct IdempotencyKey(Vec<u8>);

impl IdempotencyKey {
    /// Reads the header, where it is there.
    pub fn read(headers: &http::HeaderMap, by: &Caller) -> Result<Option<Self>, ApiError> {
        let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
        let text = value.as_bytes();
        if text.is_empty() || text.len() > MAX_KEY || !text.iter().all(u8::is_ascii_graphic) {
            return Err(bad(format!(
                "`Idempotency-Key` must be printable ASCII without blanks, of at most {MAX_KEY} bytes"
            )));
        }
        Ok(Some(Self([by.name().as_bytes(), b"\0", text, b"\0"].concat())))
    }

    /// The mark of one part of what is ordered under this key.
    pub fn once(&self, part: u64, request: &[u8]) -> Once {
        Once::new(&[&self.0, &part.to_le_bytes()], &[request])
    }
}
