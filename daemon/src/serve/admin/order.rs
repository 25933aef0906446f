//! An order to revoke, as it is written in JSON: read and checked once, for one request and for each line of many.

use portcullis_common::fingerprint::DenyFingerprint;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{AdminState, ApiError, Caller, bad, read_token};
use crate::{
    clock::WallTime,
    plain::{beginning, escaped, is_plain},
    revoke::{Fingerprints, IMPORTED_LOCKDOWN, Named, Once, Order, Selector, SelectorOrder},
};

/// Longest reason and ticket given, in bytes.
const MAX_REASON: usize = 1000;
/// Longest idempotency key, in bytes.
const MAX_KEY: usize = 255;

/// The source of an order that was taken over from another store, and is no lockdown.
pub const IMPORT: &str = "import";
/// Longest text of a refused order in the audit log, in bytes.
const MAX_NOTED: usize = 200;

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
    /// Until the token's own end, in place of either.
    #[serde(default)]
    until_expiry: bool,
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
    /// The same of a lockdown there.
    #[serde(rename = "import/lockdown")]
    ImportedLockdown,
}

/// What is ordered.
pub enum Ordered {
    /// One token.
    Token(Order),
    /// All that a selector matches.
    Selector(Box<SelectorOrder>),
}

impl RevokeRequest {
    /// What it is about, for the audit log where it is refused: never its token, and no more of a text than a line has room
    /// for.
    pub fn about(&self, s: &AdminState) -> Value {
        let text = |t: &str| Value::from(escaped(beginning(t, MAX_NOTED)));
        let mut about = Map::new();
        let token = self.token.as_deref().and_then(|t| read_token(t).ok());
        let named = token.map(|t| s.decider.key_ids().name(&s.decider.fingerprints(&t)));
        // What is no fingerprint may be a token in the wrong place.
        if let Some(f) = named.or_else(|| self.fingerprint.as_ref()?.parse().ok()) {
            about.insert("fingerprint".to_owned(), f.to_string().into());
        }
        if let Some(selector) = &self.selector
            && let Ok(Value::Object(mut members)) = serde_json::to_value(selector)
        {
            for value in members.values_mut() {
                if let Value::String(t) = value {
                    *value = text(t);
                }
            }
            about.insert("selector".to_owned(), members.into());
        }
        for (name, value) in [("reason", &self.reason), ("ticket", &self.ticket)] {
            if !value.is_empty() {
                about.insert(name.to_owned(), text(value));
            }
        }
        about.into()
    }

    /// Finds the end of an order that holds until its token's own. To be asked before it is read.
    pub async fn settle(&mut self, s: &AdminState) -> Result<(), ApiError> {
        if !self.until_expiry {
            return Ok(());
        }
        if self.ttl.is_some() || self.until.is_some() {
            return Err(bad("give one of `ttl`, `until` and `until_expiry`"));
        }
        let Some(token) = &self.token else {
            return Err(bad(
                "`until_expiry` goes with a `token`: a fingerprint does not say when its token ends (give `ttl` or `until`), and what follows from a selector ends with each token anyway",
            ));
        };
        let end = s.decider.own_end(&read_token(token)?).await;
        let end = end.ok_or_else(|| {
            bad("the token has no end of its own that can be read (`exp`): give `ttl` or `until` instead of `until_expiry`")
        })?;
        self.until = Some(end.0);
        Ok(())
    }

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
            (Source::Import | Source::ImportedLockdown, Some(a))
                if !a.is_empty() && a.len() <= MAX_REASON && is_plain(&a) =>
            {
                by.importing(&a, MAX_REASON)
            }
            (_, actor) => by.named(actor.as_deref())?,
        };
        let source = match self.source {
            Source::Admin => "admin",
            Source::Lockdown => "lockdown",
            Source::Import => IMPORT,
            Source::ImportedLockdown => IMPORTED_LOCKDOWN,
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
    bad(
        "its end is over: give an `until` that is to come, in ms since 1970; a token whose own end is over (`until_expiry`) is refused anyway",
    )
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
