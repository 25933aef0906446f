//! `io.jwt.*`: decoding and verifying, by OPA's rules. Verified claims of the request's own token are in
//! `input.identity` already, checked more strictly; these are for policies written for OPA, and for other tokens.

use std::sync::Arc;

use aws_lc_rs::{constant_time, hmac};
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use regorus::Value;

use super::{
    Answer, Fault,
    args::{member, object, text},
    keys::{self, Algorithm, Key},
    now_ns,
};

/// As Go's `base64.RawURLEncoding` after trimming: padding or none, spare bits not looked at.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
/// Tokens inside tokens that are followed.
const MOST_NESTED: usize = 8;

/// A token's three parts.
struct Parts<'a> {
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Result<Self, Fault> {
        let parts: Vec<&str> = token.split('.').collect();
        match parts[..] {
            [_] => Err("encoded JWT had no period separators".into()),
            [header, payload, signature] => Ok(Self { header, payload, signature }),
            _ => Err(format!("encoded JWT must have 3 sections, found {}", parts.len()).into()),
        }
    }

    /// What the signature covers.
    fn signed(&self) -> String {
        format!("{}.{}", self.header, self.payload)
    }

    /// The header. A JWE is refused.
    fn header(&self) -> Result<Value, Fault> {
        let header = json_object(&bytes(self.header, "header")?)?;
        if member(&header, "enc").is_some() {
            return Err("JWT is a JWE object, which is not supported".into());
        }
        Ok(header)
    }

    fn signature(&self) -> Result<Vec<u8>, Fault> {
        bytes(self.signature, "signature")
    }
}

fn bytes(part: &str, what: &str) -> Result<Vec<u8>, Fault> {
    BASE64.decode(part).map_err(|e| format!("JWT {what} had invalid encoding: {e}").into())
}

fn json_object(bytes: &[u8]) -> Result<Value, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|_| "invalid JSON: it is not UTF-8")?;
    let value = Value::from_json_str(text).map_err(|e| format!("invalid JSON: {e}"))?;
    if matches!(value, Value::Object(_)) { Ok(value) } else { Err("invalid JSON: it is no object".into()) }
}

fn string<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    member(object, name).and_then(|v| v.as_string().ok()).map(AsRef::as_ref)
}

fn is_nested(header: &Value) -> bool {
    string(header, "cty").is_some_and(|cty| cty.eq_ignore_ascii_case("JWT"))
}

/// `io.jwt.decode(token)`: header, payload and signature, nothing verified.
pub fn decode(args: &[Value]) -> Answer {
    let mut token = text(args, 0)?;
    for _ in 0..MOST_NESTED {
        let parts = Parts::of(&token)?;
        let (header, payload) = (parts.header()?, bytes(parts.payload, "payload")?);
        if is_nested(&header) {
            token = inner(payload)?;
            continue;
        }
        let signature = Value::from(crate::hex::encode(&parts.signature()?));
        return Ok(Value::from(vec![header, json_object(&payload)?, signature]));
    }
    Err("too many tokens inside each other".into())
}

/// A token inside a token; it may stand in quotes.
fn inner(payload: Vec<u8>) -> Result<Arc<str>, Fault> {
    let text = String::from_utf8(payload).map_err(|_| "nested JWT had invalid encoding: it is not UTF-8")?;
    Ok(text.trim_matches('"').into())
}

macro_rules! verifiers {
    ($($name:ident = $algorithm:ident,)+) => {$(
        /// Whether a token's signature is good under this algorithm, whatever its header says.
        pub fn $name(args: &[Value]) -> Answer {
            verified(args, Algorithm::$algorithm)
        }
    )+};
}

verifiers! {
    verify_rs256 = Rs256, verify_rs384 = Rs384, verify_rs512 = Rs512,
    verify_ps256 = Ps256, verify_ps384 = Ps384, verify_ps512 = Ps512,
    verify_es256 = Es256, verify_es384 = Es384, verify_es512 = Es512,
    verify_eddsa = EdDsa,
    verify_hs256 = Hs256, verify_hs384 = Hs384, verify_hs512 = Hs512,
}

fn verified(args: &[Value], algorithm: Algorithm) -> Answer {
    let (token, key) = (text(args, 0)?, text(args, 1)?);
    let parts = Parts::of(&token)?;
    let header = parts.header()?;
    let (message, signature) = (parts.signed(), parts.signature()?);
    if let Some(hash) = algorithm.hmac() {
        return Ok(Value::from(mac_is(hash, key.as_bytes(), message.as_bytes(), &signature)));
    }
    let keys = keys::read(&key)?;
    let good = |k: &Key| k.verify(algorithm, message.as_bytes(), &signature);
    Ok(Value::from(match named(&keys, &header) {
        Some(key) => good(key),
        None => keys.iter().any(good),
    }))
}

fn mac_is(hash: hmac::Algorithm, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let tag = hmac::sign(&hmac::Key::new(hash, key), message);
    constant_time::verify_slices_are_equal(tag.as_ref(), signature).is_ok()
}

/// The key that a header names.
fn named<'a>(keys: &'a [Key], header: &Value) -> Option<&'a Key> {
    let kid = string(header, "kid").filter(|kid| !kid.is_empty())?;
    keys.iter().find(|k| k.kid.as_deref() == Some(kid))
}

/// What a token must be for `decode_verify`.
struct Constraints {
    keys: Option<Arc<str>>,
    secret: Option<Arc<str>>,
    alg: Option<Arc<str>>,
    iss: Option<Arc<str>>,
    aud: Option<Arc<str>>,
    /// Nanoseconds since 1970.
    time: Value,
}

impl Constraints {
    fn read(value: &Value) -> Result<Self, Fault> {
        let Value::Object(members) = value else { return Err("operand 2 must be object".into()) };
        let mut c =
            Self { keys: None, secret: None, alg: None, iss: None, aud: None, time: Value::Undefined };
        for (name, value) in members.iter() {
            let name = name.as_string().map_err(|_| "unknown token validation constraint")?;
            let place = match name.as_ref() {
                "cert" => &mut c.keys,
                "secret" => &mut c.secret,
                "alg" => &mut c.alg,
                "iss" => &mut c.iss,
                "aud" => &mut c.aud,
                "time" => {
                    if !matches!(value, Value::Number(_)) {
                        return Err("token time constraint: must be a number".into());
                    }
                    c.time = value.clone();
                    continue;
                }
                other => return Err(format!("unknown token validation constraint: {other}").into()),
            };
            *place = Some(Arc::clone(
                value.as_string().map_err(|_| format!("{name} constraint: must be a string"))?,
            ));
        }
        if c.keys.is_some() && c.secret.is_some() {
            return Err("duplicate key constraints".into());
        }
        if c.keys.is_none() && c.secret.is_none() {
            return Err("no key constraint".into());
        }
        if c.time == Value::Undefined {
            c.time = Value::from(now_ns());
        }
        Ok(c)
    }

    fn signed(&self, alg: &str, header: &Value, message: &[u8], signature: &[u8]) -> Result<bool, Fault> {
        let Some(algorithm) = Algorithm::named(alg) else {
            return Err(format!("unknown JWT algorithm: {alg}").into());
        };
        let keys = match (&self.keys, &self.secret, algorithm.hmac()) {
            (_, Some(secret), Some(hash)) => {
                return Ok(mac_is(hash, secret.as_bytes(), message, signature));
            }
            (Some(keys), _, None) => keys::read(keys)?,
            // A public key is no secret, nor the other way round: the token chose the wrong kind of algorithm.
            _ => return Ok(false),
        };
        let good = |k: &Key| k.verify(algorithm, message, signature);
        Ok(match named(&keys, header) {
            Some(key) => good(key),
            None => keys.iter().filter(|k| k.alg.as_deref().is_none_or(|a| a == alg)).any(good),
        })
    }

    /// Whether the registered claims hold.
    fn claims(&self, payload: &Value) -> Result<bool, Fault> {
        if let Some(iss) = &self.iss
            && string(payload, "iss") != Some(iss)
        {
            return Ok(false);
        }
        let audience = match (member(payload, "aud"), &self.aud) {
            (None, None) => true,
            (Some(Value::String(aud)), Some(wanted)) => aud == wanted,
            (Some(Value::Array(all)), Some(wanted)) => {
                all.iter().any(|a| *a == Value::String(Arc::clone(wanted)))
            }
            _ => false,
        };
        if !audience {
            return Ok(false);
        }
        let now = float(&self.time)? / 1e9;
        let at = |name: &str| match member(payload, name) {
            None => Ok(None),
            Some(v @ Value::Number(_)) => float(v).map(Some),
            Some(_) => Err(Fault::from(format!("{name} value must be a number"))),
        };
        Ok(at("exp")?.is_none_or(|exp| now < exp) && at("nbf")?.is_none_or(|nbf| now >= nbf))
    }
}

/// The nearest double: regorus gives one only where it is exact.
fn float(number: &Value) -> Result<f64, Fault> {
    number.to_string().parse().map_err(|_| format!("{number} is not a number").into())
}

/// `io.jwt.decode_verify(token, constraints)`: whether it is good, and then its header and payload.
pub fn decode_verify(args: &[Value]) -> Answer {
    let refused = || Ok(Value::from(vec![Value::from(false), object([]), object([])]));
    let mut token = text(args, 0)?;
    let constraints = Constraints::read(args.get(1).unwrap_or(&Value::Undefined))?;
    for _ in 0..MOST_NESTED {
        let parts = Parts::of(&token)?;
        let header = parts.header()?;
        // A critical extension is one we do not know (RFC 7515 §4.1.11).
        let (Some(alg), None) = (string(&header, "alg"), member(&header, "crit")) else { return refused() };
        if constraints.alg.as_deref().is_some_and(|wanted| wanted != alg) {
            return refused();
        }
        let signature = parts.signature()?;
        // A token that names no algorithm there is, `none` for one, is refused as one that is signed badly.
        if Algorithm::named(alg).is_none()
            || !constraints.signed(alg, &header, parts.signed().as_bytes(), &signature)?
        {
            return refused();
        }
        let payload = bytes(parts.payload, "payload")?;
        if is_nested(&header) {
            token = inner(payload)?;
            continue;
        }
        let payload = json_object(&payload)?;
        if !constraints.claims(&payload)? {
            return refused();
        }
        return Ok(Value::from(vec![Value::from(true), header, payload]));
    }
    Err("too many tokens inside each other".into())
}
