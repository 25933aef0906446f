//! The compact form of a JWS (RFC 7515 §7.1) and its header, read strictly.
//!
//! One token has one text: padding, other alphabets and spare bits are refused, since a text that decodes to
//! the same token under another name would escape caches and fingerprints.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_common::reason::Reason;
use serde_json::{Map, Value};

use super::{algorithm::Algorithm, json};

/// Header parameters that make a token something other than a plain signed JWT. They are refused, not ignored,
/// so that a token means the same here and behind us. (Parameters that bring or point at a key, `jwk`, `jku`,
/// `x5c` and `x5u`, are never read of a token: keys come from the configuration alone, RFC 8725 §3.10.)
const REFUSED: [&str; 4] = ["crit", "b64", "zip", "enc"];
/// Longest `kid` taken, in bytes.
const MAX_KID: usize = 256;

/// A token taken apart; nothing is verified yet.
pub(super) struct Jws<'a> {
    /// What the signature covers.
    pub signing_input: &'a [u8],
    /// The decoded signature.
    pub signature: Vec<u8>,
    /// The header's `alg`.
    pub algorithm: Algorithm,
    /// The header's `kid`.
    pub kid: Option<String>,
    /// The header's `typ` in lower case, without the prefix that may be left out.
    pub typ: Option<String>,
    /// The whole header.
    pub header: Map<String, Value>,
    /// The payload.
    pub claims: Map<String, Value>,
}

/// A JWS whose payload may be anything.
pub(super) struct Envelope<'a> {
    pub signing_input: &'a [u8],
    pub signature: Vec<u8>,
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    pub typ: Option<String>,
    pub header: Map<String, Value>,
    pub payload: Vec<u8>,
}

impl<'a> Envelope<'a> {
    /// Takes a compact JWS apart.
    pub fn parse(text: &'a str) -> Result<Self, Reason> {
        let (signing_input, signature) = text.rsplit_once('.').ok_or(Reason::TokenMalformed)?;
        let (header, payload) = signing_input.split_once('.').ok_or(Reason::TokenMalformed)?;
        // A dot in `payload` (five parts: JWE) is no base64 character and refused there.
        let header = json::object(&decode(header)?).ok_or(Reason::TokenMalformed)?;
        let payload = decode(payload)?;
        let (algorithm, kid, typ) = read_header(&header)?;
        let signing_input = signing_input.as_bytes();
        Ok(Self { signing_input, signature: decode(signature)?, algorithm, kid, typ, header, payload })
    }
}

impl<'a> Jws<'a> {
    /// Takes a token apart.
    pub fn parse(text: &'a str) -> Result<Self, Reason> {
        let Envelope { signing_input, signature, algorithm, kid, typ, header, payload } =
            Envelope::parse(text)?;
        let claims = json::object(&payload).ok_or(Reason::TokenMalformed)?;
        Ok(Self { signing_input, signature, algorithm, kid, typ, header, claims })
    }

    /// What the signature covers, and the signature.
    pub fn pieces(&self) -> (&[u8], &[u8]) {
        (self.signing_input, &self.signature)
    }
}

/// The payload of a compact JWS as it stands in it; nothing is verified.
pub(super) fn payload(text: &str) -> Option<Vec<u8>> {
    let (signing_input, _) = text.rsplit_once('.')?;
    let (_, payload) = signing_input.split_once('.')?;
    decode(payload).ok()
}

/// Decodes canonical base64url without padding.
fn decode(part: &str) -> Result<Vec<u8>, Reason> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Reason::TokenMalformed)
}

type Header = (Algorithm, Option<String>, Option<String>);

fn read_header(header: &Map<String, Value>) -> Result<Header, Reason> {
    if REFUSED.iter().any(|name| header.contains_key(*name)) {
        return Err(Reason::TokenMalformed);
    }
    let typ = match header.get("typ") {
        None => None,
        Some(value) => Some(media_type(value).ok_or(Reason::TokenMalformed)?),
    };
    // A nested token (RFC 7519 §5.2) is not unwrapped here.
    if header.get("cty").is_some_and(|v| media_type(v).is_none_or(|t| t == "jwt")) {
        return Err(Reason::TokenMalformed);
    }
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) if !kid.is_empty() && kid.len() <= MAX_KID => Some(kid.clone()),
        Some(_) => return Err(Reason::TokenMalformed),
    };
    let name = header.get("alg").and_then(Value::as_str).ok_or(Reason::TokenMalformed)?;
    let algorithm = name.parse().map_err(|_| Reason::AlgorithmRefused)?;
    Ok((algorithm, kid, typ))
}

/// A media type in lower case, without the prefix that may be left out (RFC 7515 §4.1.9).
fn media_type(value: &Value) -> Option<String> {
    value.as_str().map(short_type)
}

/// The same of a text.
pub(super) fn short_type(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    lower.strip_prefix("application/").map(str::to_owned).unwrap_or(lower)
}
