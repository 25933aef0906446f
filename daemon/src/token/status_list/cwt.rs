//! Status List Tokens as CWTs (RFC 8392): `COSE_Sign1` of RFC 9052, read strictly and written.

use crate::token::algorithm::Algorithm;
use ciborium::value::Value;

use super::token::Claims;

/// Deepest nesting: a token has four levels.
const DEPTH: usize = 16;
const TYPE: &str = "application/statuslist+cwt";
const TAG_SIGN1: u64 = 18;
const ALG: i64 = 1;
const CRIT: i64 = 2;
const KID: i64 = 4;
const TYP: i64 = 16;

/// One taken apart; nothing is verified yet.
pub(super) struct Cwt {
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    /// What the signature covers.
    pub signed: Vec<u8>,
    pub signature: Vec<u8>,
    pub claims: Claims,
}

/// Members of a map at most.
const MEMBERS: usize = 64;

/// A map whose keys stand there once.
struct Members(Vec<(Value, Value)>);

impl Members {
    fn of(value: Value) -> Option<Self> {
        let all = value.into_map().ok()?;
        // Comparing each with each takes the square of their number, and nobody has signed for it yet.
        if all.len() > MEMBERS {
            return None;
        }
        let twice = all.iter().enumerate().any(|(i, (k, _))| all.iter().take(i).any(|(o, _)| o == k));
        (!twice).then_some(Self(all))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Self::of(read(bytes)?)
    }

    fn get(&self, label: i64) -> Option<&Value> {
        self.0.iter().find(|(k, _)| *k == Value::from(label)).map(|(_, v)| v)
    }

    fn named(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(k, _)| k.as_text() == Some(name)).map(|(_, v)| v)
    }
}

/// One item and nothing behind it.
fn read(bytes: &[u8]) -> Option<Value> {
    let mut rest = bytes;
    let value: Value = ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH).ok()?;
    rest.is_empty().then_some(value)
}

/// Items as CBOR.
fn written(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing to memory does not fail.
    let _ = ciborium::into_writer(value, &mut out);
    out
}

fn number(value: &Value) -> Option<i64> {
    value.as_integer().and_then(|i| i64::try_from(i).ok())
}

/// Takes a token apart.
pub(super) fn parse(bytes: &[u8]) -> Option<Cwt> {
    let Value::Tag(TAG_SIGN1, inner) = read(bytes)? else { return None };
    let [protected, unprotected, payload, signature]: [Value; 4] =
        inner.into_array().ok()?.try_into().ok()?;
    let (protected, payload) = (protected.into_bytes().ok()?, payload.into_bytes().ok()?);
    let header = Members::read(&protected)?;
    let open = Members::of(unprotected)?;
    // What must be understood is not.
    if header.get(CRIT).is_some() || header.get(TYP)?.as_text() != Some(TYPE) {
        return None;
    }
    let algorithm = match number(header.get(ALG)?)? {
        -7 => Algorithm::ES256,
        -35 => Algorithm::ES384,
        -36 => Algorithm::ES512,
        -8 => Algorithm::EdDSA,
        -37 => Algorithm::PS256,
        -38 => Algorithm::PS384,
        -39 => Algorithm::PS512,
        -257 => Algorithm::RS256,
        -258 => Algorithm::RS384,
        -259 => Algorithm::RS512,
        _ => return None,
    };
    let kid = header.get(KID).or_else(|| open.get(KID));
    let kid = match kid {
        None => None,
        Some(kid) => Some(String::from_utf8(kid.as_bytes()?.clone()).ok()?),
    };
    let claims = claims(&Members::read(&payload)?);
    let signed = signed(protected, payload);
    Some(Cwt { algorithm, kid, signed, signature: signature.into_bytes().ok()?, claims })
}

fn claims(members: &Members) -> Claims {
    let mut is_broken = false;
    let mut time = |label: i64| {
        let value = members.get(label)?;
        is_broken |= number(value).is_none();
        number(value)
    };
    let (issued_at, expires_at, ttl) = (time(6), time(4), time(65534));
    let list = members.get(65533).cloned().and_then(Members::of);
    let part = |name: &str| list.as_ref().and_then(|l| l.named(name));
    Claims {
        subject: members.get(2).and_then(|v| v.as_text().map(str::to_owned)),
        issued_at,
        expires_at,
        is_broken,
        ttl,
        bits: part("bits").and_then(number).and_then(|b| u64::try_from(b).ok()),
        packed: part("lst").and_then(|v| v.as_bytes().cloned()),
    }
}

/// What a signature of `COSE_Sign1` covers (RFC 9052 §4.4).
fn signed(protected: Vec<u8>, payload: Vec<u8>) -> Vec<u8> {
    let parts =
        vec!["Signature1".into(), Value::Bytes(protected), Value::Bytes(Vec::new()), Value::Bytes(payload)];
    written(&Value::Array(parts))
}

/// What is written into one.
pub(super) struct Content<'a> {
    pub uri: &'a str,
    pub issued_at: i64,
    pub expires_at: i64,
    pub ttl: i64,
    pub bits: u8,
    pub packed: Vec<u8>,
}

/// Writes one that is signed by ES256.
pub(super) fn write<E>(
    content: Content<'_>,
    kid: &str,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let map = |members: Vec<(Value, Value)>| Value::Map(members);
    let protected = written(&map(vec![(ALG.into(), (-7).into()), (TYP.into(), TYPE.into())]));
    let list = map(vec![("bits".into(), content.bits.into()), ("lst".into(), Value::Bytes(content.packed))]);
    let payload = written(&map(vec![
        (2.into(), content.uri.into()),
        (6.into(), content.issued_at.into()),
        (4.into(), content.expires_at.into()),
        (65534.into(), content.ttl.into()),
        (65533.into(), list),
    ]));
    let signature = sign(&signed(protected.clone(), payload.clone()))?;
    let open = map(vec![(KID.into(), Value::Bytes(kid.as_bytes().to_vec()))]);
    let parts = vec![Value::Bytes(protected), open, Value::Bytes(payload), Value::Bytes(signature)];
    Ok(written(&Value::Tag(TAG_SIGN1, Box::new(Value::Array(parts)))))
}
