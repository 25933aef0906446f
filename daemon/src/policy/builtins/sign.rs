//! `io.jwt.encode_sign`: signing with a key that the policy gives.

use aws_lc_rs::{
    hmac, rand,
    rsa::KeyPair as RsaKeyPair,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaEncoding},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use regorus::Value;
use serde_json::Value as Json;
use zeroize::Zeroizing;

use super::{Answer, Fault, args::text, der, keys::Algorithm};

/// `io.jwt.encode_sign(header, payload, key)`, each an object.
pub fn encode_sign(args: &[Value]) -> Answer {
    let json = |n: usize| {
        let value = args.get(n).filter(|v| matches!(v, Value::Object(_)));
        let value = value.ok_or_else(|| format!("operand {} must be object", n + 1))?;
        serde_json::to_value(value).map_err(|e| e.to_string())
    };
    let (header, payload, key) = (json(0)?, json(1)?, json(2)?);
    sign(&header.to_string(), &payload.to_string(), &key)
}

/// `io.jwt.encode_sign_raw(header, payload, key)`, each JSON text; the payload may be any text.
pub fn encode_sign_raw(args: &[Value]) -> Answer {
    let (header, payload, key) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    let key = serde_json::from_str(&key).map_err(|e| format!("failed to parse a JWK key (set): {e}"))?;
    sign(&header, &payload, &key)
}

fn sign(header: &str, payload: &str, key: &Json) -> Answer {
    let parsed: Json = serde_json::from_str(header).map_err(|e| format!("the header is not JSON: {e}"))?;
    let alg = parsed.get("alg").and_then(Json::as_str).ok_or("the header has no `alg`")?;
    let algorithm = Algorithm::named(alg).ok_or_else(|| format!("unknown JWT algorithm: {alg}"))?;
    let is_jwt = parsed.get("typ").and_then(Json::as_str).is_none_or(|typ| typ == "JWT");
    if is_jwt && serde_json::from_str::<Json>(payload).is_err() {
        return Err("type is JWT but payload is not JSON".into());
    }
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = signature(algorithm, key, input.as_bytes())?;
    Ok(Value::from(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))))
}

fn signature(algorithm: Algorithm, key: &Json, message: &[u8]) -> Result<Vec<u8>, Fault> {
    let part = |name: &str| {
        let text = key.get(name).and_then(Json::as_str);
        let decoded = text.and_then(|t| URL_SAFE_NO_PAD.decode(t.trim_end_matches('=')).ok());
        decoded.map(Zeroizing::new).ok_or_else(|| format!("the key's `{name}` is not base64url"))
    };
    let failed = |_| Fault::from("the key cannot sign");
    let rejected = |e: aws_lc_rs::error::KeyRejected| Fault::from(format!("the key is not valid: {e}"));
    let kty = key.get("kty").and_then(Json::as_str).unwrap_or_default();
    if let Some(hash) = algorithm.hmac() {
        if kty != "oct" {
            return Err("the key is not a secret (`kty` is not \"oct\")".into());
        }
        return Ok(hmac::sign(&hmac::Key::new(hash, &part("k")?), message).as_ref().to_vec());
    }
    let random = rand::SystemRandom::new();
    if let Some(padding) = rsa_padding(algorithm) {
        let mut parts = Zeroizing::new(der::integer(&[0]));
        for name in ["n", "e", "d", "p", "q", "dp", "dq", "qi"] {
            parts.extend(der::integer(&part(name)?));
        }
        let pkcs1 = Zeroizing::new(der::write(der::tag::SEQUENCE, &parts));
        let pair = RsaKeyPair::from_der(&pkcs1).map_err(rejected)?;
        let mut out = vec![0; pair.public_modulus_len()];
        pair.sign(padding, &random, message, &mut out).map_err(failed)?;
        return Ok(out);
    }
    if algorithm == Algorithm::EdDsa {
        let pair = Ed25519KeyPair::from_seed_and_public_key(&part("d")?, &part("x")?).map_err(rejected)?;
        return Ok(pair.sign(message).as_ref().to_vec());
    }
    let (signing, len) = match algorithm {
        Algorithm::Es256 => (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, 32),
        Algorithm::Es384 => (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, 48),
        _ => (&signature::ECDSA_P521_SHA512_FIXED_SIGNING, 66),
    };
    let padded = |name: &str| {
        let bytes = part(name)?;
        let lacking =
            usize::checked_sub(len, bytes.len()).ok_or_else(|| format!("the key's `{name}` is too long"))?;
        Ok::<_, String>(Zeroizing::new([&vec![0; lacking][..], &bytes].concat()))
    };
    let point = [&[4][..], &padded("x")?, &padded("y")?].concat();
    let pair =
        EcdsaKeyPair::from_private_key_and_public_key(signing, &padded("d")?, &point).map_err(rejected)?;
    Ok(pair.sign(&random, message).map_err(failed)?.as_ref().to_vec())
}

fn rsa_padding(algorithm: Algorithm) -> Option<&'static dyn RsaEncoding> {
    Some(match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_SHA512,
        _ => return None,
    })
}
