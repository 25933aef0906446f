//! A Status List Token whose signature holds: its claims.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::bits::List;

/// What such a token says, however it is encoded.
#[derive(Debug)]
pub(super) struct Claims {
    pub subject: Option<String>,
    pub issued_at: Option<i64>,
    pub expires_at: Option<i64>,
    /// `exp`, `iat` or `ttl` is there and no number that may stand there.
    pub is_broken: bool,
    /// In seconds.
    pub ttl: Option<i64>,
    pub bits: Option<u64>,
    pub packed: Option<Vec<u8>>,
}

/// A list that may be used.
#[derive(Debug)]
pub(super) struct Opened {
    pub list: List,
    pub says: Says,
}

/// What a list says of its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Says {
    pub issued_at: i64,
    pub expires_at: Option<i64>,
    pub ttl: Option<i64>,
}

impl Claims {
    /// Of a JWT.
    pub fn of_jwt(claims: &Map<String, Value>) -> Self {
        let mut is_broken = false;
        #[allow(
            clippy::cast_possible_truncation,
            reason = "what lies beyond is far in the future all the same"
        )]
        let mut number = |name: &str| {
            let value = claims.get(name)?;
            let read = value.as_i64().or_else(|| value.as_f64().map(|f| f.floor() as i64));
            is_broken |= read.is_none();
            read
        };
        let (issued_at, expires_at, ttl) = (number("iat"), number("exp"), number("ttl"));
        let list = claims.get("status_list").and_then(Value::as_object);
        let packed = list.and_then(|l| l.get("lst")).and_then(Value::as_str);
        Self {
            subject: claims.get("sub").and_then(Value::as_str).map(str::to_owned),
            issued_at,
            expires_at,
            is_broken,
            ttl,
            bits: list.and_then(|l| l.get("bits")).and_then(Value::as_u64),
            packed: packed.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()),
        }
    }

    /// Checks them against the address that tokens name, and unpacks the list.
    pub fn open(self, uri: &str, now: i64, leeway: i64, max: usize) -> Result<Opened, String> {
        if self.subject.as_deref() != Some(uri) {
            return Err("its `sub` is not its address to the letter".to_owned());
        }
        let issued = self
            .issued_at
            .filter(|_| !self.is_broken)
            .ok_or("its `iat`, `exp` or `ttl` is absent or no number")?;
        if issued > now.saturating_add(leeway) {
            return Err("its `iat` lies in the future".to_owned());
        }
        if self.expires_at.is_some_and(|exp| exp <= now) {
            return Err("it has expired".to_owned());
        }
        if self.ttl.is_some_and(|ttl| ttl <= 0) {
            return Err("its `ttl` is no positive number".to_owned());
        }
        let bits = self.bits.ok_or("it has no `bits`")?;
        let packed = self.packed.ok_or("it has no `lst`, or one that is not encoded as it should be")?;
        let list = List::unpack(bits, &packed, max)?;
        let says = Says { issued_at: issued, expires_at: self.expires_at, ttl: self.ttl };
        Ok(Opened { list, says })
    }
}
