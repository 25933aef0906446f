//! Tokens made here, and the shared vectors where they are at hand.

mod mutants;

use std::{fs, path::Path};

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::*;
use crate::token::{KeySource, TokenRules};

const NOW: i64 = 1_750_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn sign(header: &str, claims: &str) -> Token {
    let input = format!("{}.{}", b64(header), b64(claims));
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), input.as_bytes());
    Token::new(format!("{input}.{}", b64(mac)))
}

fn settings(keys: KeySource, algorithms: &[&str]) -> IssuerSettings {
    IssuerSettings {
        issuer: "https://issuer".into(),
        audience: vec!["api".into()],
        algorithms: algorithms.iter().map(|a| (*a).to_owned()).collect(),
        keys,
        rules: TokenRules::default(),
    }
}

fn hmac_verifier() -> Verifier {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    fs::write(&path, [SECRET, b"\n"].concat()).unwrap();
    let source = KeySource::HmacFile { path, kid: Some("k".into()) };
    Verifier::new(vec![settings(source, &["HS256"])], Duration::from_secs(30)).unwrap()
}

fn claims_with(changes: &Value) -> String {
    let mut claims = json!({"iss": "https://issuer", "aud": "api", "exp": NOW + 60, "iat": NOW});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.to_string()
}

const HEADER: &str = r#"{"alg":"HS256","kid":"k","typ":"JWT"}"#;

fn verdict(changes: &Value) -> Result<Identity, Reason> {
    hmac_verifier().verify(&sign(HEADER, &claims_with(changes)), NOW)
}

#[test]
fn a_good_token_tells_its_identity() {
    let claims = claims_with(&json!({
        "sub": "u", "jti": "j", "sid": "s", "client_id": "c", "nbf": NOW - 5, "scope": "a  b", "extra": [1]
    }));
    let verified = hmac_verifier().judge(&sign(HEADER, &claims), NOW).status.unwrap();
    let stated: Value = serde_json::from_str(&claims).unwrap();
    assert_eq!(Value::Object(verified.claims.clone()), stated);
    let seen = verified.document();
    assert_eq!(
        seen,
        json!({
            "iss": "https://issuer", "sub": "u", "jti": "j", "kid": "k", "sid": "s", "client": "c", "iat": NOW,
            "exp": NOW + 60, "nbf": NOW - 5, "scopes": ["a", "b"], "alg": "HS256", "claims": stated,
        })
    );
    assert_eq!(verdict(&json!({"azp": "z", "client_id": "c"})).unwrap().client.as_deref(), Some("z"));
    assert_eq!(verdict(&json!({"scp": ["a", "b"]})).unwrap().scopes, ["a".into(), "b".into()].into());
}

#[test]
fn times_are_judged_by_the_given_clock_and_leeway() {
    for (changes, want) in [
        (json!({"exp": NOW - 29}), None),
        (json!({"exp": NOW - 30}), Some(Reason::TokenExpired)),
        (json!({"exp": NOW + 1, "nbf": NOW + 30}), None),
        (json!({"nbf": NOW + 31}), Some(Reason::TokenNotYetValid)),
        (json!({"iat": NOW + 31}), Some(Reason::TokenNotYetValid)),
        (json!({"exp": 4_102_444_800.9}), None),
    ] {
        assert_eq!(verdict(&changes).err(), want, "{changes}");
    }
}

#[test]
fn claims_of_the_wrong_type_are_refused() {
    for changes in [
        json!({"exp": null}),
        json!({"exp": "1"}),
        json!({"exp": -1}),
        json!({"exp": 1e300}),
        json!({"exp": u64::MAX}),
        json!({"nbf": "x"}),
        json!({"iat": [1]}),
        json!({"iss": null}),
        json!({"iss": ["https://issuer"]}),
        json!({"aud": null}),
        json!({"aud": ["api", 1]}),
        json!({"sub": 1}),
        json!({"jti": null}),
        json!({"scope": 1}),
        json!({"scp": [1]}),
        json!({"azp": {}}),
    ] {
        assert_eq!(verdict(&changes).err(), Some(Reason::ClaimsInvalid), "{changes}");
    }
    assert_eq!(verdict(&json!({"aud": ["other"]})).err(), Some(Reason::AudienceMismatch));
    assert_eq!(verdict(&json!({"aud": ["other", "api"]})).err(), None);
    assert_eq!(verdict(&json!({"iss": "https://issuer/"})).err(), Some(Reason::IssuerUnknown));
}

#[test]
fn headers_that_mean_something_else_are_refused() {
    let verifier = hmac_verifier();
    for (header, want) in [
        (r#"{"alg":"HS256"}"#, None),
        (r#"{"alg":"HS256","typ":"application/AT+JWT"}"#, None),
        (r#"{"alg":"HS256","typ":"logout+jwt"}"#, Some(Reason::TokenMalformed)),
        (r#"{"alg":"HS256","typ":null}"#, Some(Reason::TokenMalformed)),
        (r#"{"alg":"HS256","crit":[]}"#, Some(Reason::TokenMalformed)),
        (r#"{"alg":"HS256","b64":true}"#, Some(Reason::TokenMalformed)),
        (r#"{"alg":"HS256","cty":"JWT"}"#, Some(Reason::TokenMalformed)),
        (r#"{"alg":"HS256","alg":"HS256"}"#, Some(Reason::TokenMalformed)),
        (r#"{"alg":"HS256","kid":""}"#, Some(Reason::TokenMalformed)),
        (r#"{"alg":"HS256","kid":7}"#, Some(Reason::TokenMalformed)),
        (r#"{"alg":"HS256","kid":"other"}"#, Some(Reason::KeyUnknown)),
        (r#"{"alg":"none"}"#, Some(Reason::AlgorithmRefused)),
        (r#"{"alg":"HS512"}"#, Some(Reason::AlgorithmRefused)),
        (r#"{"alg":1}"#, Some(Reason::TokenMalformed)),
        ("{}", Some(Reason::TokenMalformed)),
        ("[]", Some(Reason::TokenMalformed)),
    ] {
        let token = sign(header, &claims_with(&json!({})));
        assert_eq!(verifier.verify(&token, NOW).err(), want, "{header}");
    }
}

#[test]
fn one_token_has_one_text() {
    let verifier = hmac_verifier();
    let good = sign(HEADER, &claims_with(&json!({})));
    assert!(verifier.verify(&good, NOW).is_ok());
    let text = good.as_str();
    let (last, rest) = (text.chars().last().unwrap(), &text[..text.len() - 1]);
    // The last character of a 32-byte signature holds two spare bits: its neighbour decodes the same.
    let twin = char::from(last as u8 + 1);
    for bad in [
        format!("{rest}{twin}"),
        format!("{text}="),
        format!("{text}\n"),
        format!(" {text}"),
        format!("{text}."),
        text.replacen('.', "..", 1),
        text.rsplit_once('.').unwrap().0.to_owned(),
        String::new(),
    ] {
        assert_eq!(
            verifier.verify(&Token::new(bad.clone()), NOW).err(),
            Some(Reason::TokenMalformed),
            "{bad}"
        );
    }
    let unsigned = format!("{}.", text.rsplit_once('.').unwrap().0);
    assert_eq!(verifier.verify(&Token::new(unsigned), NOW).err(), Some(Reason::SignatureInvalid));
    let long = Token::new("a".repeat(MAX_TOKEN_BYTES + 1));
    assert_eq!(verifier.verify(&long, NOW).err(), Some(Reason::TokenTooLong));
}

#[test]
fn a_forged_expired_token_is_forged_not_expired() {
    let token = sign(HEADER, &claims_with(&json!({"exp": 1})));
    assert_eq!(hmac_verifier().verify(&token, NOW).err(), Some(Reason::TokenExpired));
    let (input, _) = token.as_str().rsplit_once('.').unwrap();
    let forged = Token::new(format!("{input}.{}", b64([0; 32])));
    assert_eq!(hmac_verifier().verify(&forged, NOW).err(), Some(Reason::SignatureInvalid));
}

/// An elliptic-curve key, its JWK and a token of its.
fn ec_key(kid: &str) -> (EcdsaKeyPair, Value) {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let point = pair.public_key().as_ref();
    let jwk =
        json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": b64(&point[1..33]), "y": b64(&point[33..])});
    (pair, jwk)
}

fn ec_sign(pair: &EcdsaKeyPair, header: &str) -> Token {
    let input = format!("{}.{}", b64(header), b64(claims_with(&json!({}))));
    let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    Token::new(format!("{input}.{}", b64(signature)))
}

#[test]
fn es512_is_verified_with_p_521_keys_and_no_others() {
    use aws_lc_rs::signature::ECDSA_P521_SHA512_FIXED_SIGNING as P521;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&P521, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&P521, pkcs8.as_ref()).unwrap();
    let point = pair.public_key().as_ref();
    let jwk =
        json!({"kty": "EC", "crv": "P-521", "kid": "k", "x": b64(&point[1..67]), "y": b64(&point[67..])});
    let verifier = load_jwks(&json!([jwk]), &["ES256", "ES512"]).unwrap();
    let good = ec_sign(&pair, r#"{"alg":"ES512","kid":"k"}"#);
    assert!(verifier.verify(&good, NOW).is_ok());
    assert_eq!(
        verifier.verify(&ec_sign(&pair, r#"{"alg":"ES256","kid":"k"}"#), NOW).err(),
        Some(Reason::AlgorithmRefused)
    );
    let mut forged = good.as_str().to_owned();
    let last = forged.pop().unwrap();
    forged.pop();
    forged.push_str(if last == 'A' { "BA" } else { "AA" });
    assert!(verifier.verify(&Token::new(forged), NOW).is_err());
    // Not listed, not taken; coordinates have their whole length.
    let short =
        json!({"kty": "EC", "crv": "P-521", "kid": "s", "x": b64(&point[1..66]), "y": b64(&point[67..])});
    assert!(load_jwks(&json!([short]), &["ES512"]).is_err());
    let (_, other) = ec_key("k");
    let without = load_jwks(&json!([other]), &["ES256"]).unwrap();
    assert_eq!(without.verify(&good, NOW).err(), Some(Reason::AlgorithmRefused));
}

#[test]
fn es512_keys_are_read_in_pem_too() {
    const PEM: &[u8] = include_bytes!("tests/p521.pem");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    fs::write(&path, PEM).unwrap();
    let source = KeySource::PemFile { path, kid: None };
    assert!(Verifier::new(vec![settings(source, &["ES512"])], Duration::ZERO).is_ok());
}

fn load_jwks(keys: &Value, algorithms: &[&str]) -> Result<Verifier, VerifierError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
    Verifier::new(vec![settings(KeySource::JwksFile(path), algorithms)], Duration::ZERO)
}

#[test]
fn the_kid_picks_the_key_and_without_one_the_key_must_be_the_only_one() {
    let ((a, a_jwk), (b, b_jwk)) = (ec_key("a"), ec_key("b"));
    let both = load_jwks(&json!([a_jwk, b_jwk]), &["ES256"]).unwrap();
    let check = |v: &Verifier, pair, header| v.verify(&ec_sign(pair, header), NOW).err();
    assert_eq!(check(&both, &a, r#"{"alg":"ES256","kid":"a"}"#), None);
    assert_eq!(check(&both, &b, r#"{"alg":"ES256","kid":"b"}"#), None);
    assert_eq!(check(&both, &b, r#"{"alg":"ES256","kid":"a"}"#), Some(Reason::SignatureInvalid));
    assert_eq!(check(&both, &a, r#"{"alg":"ES256","kid":"A"}"#), Some(Reason::KeyUnknown));
    assert_eq!(check(&both, &a, r#"{"alg":"ES256"}"#), Some(Reason::KeyUnknown));
    let one = load_jwks(&json!([a_jwk]), &["ES256"]).unwrap();
    assert_eq!(check(&one, &a, r#"{"alg":"ES256"}"#), None);
    assert_eq!(check(&one, &b, r#"{"alg":"ES256"}"#), Some(Reason::SignatureInvalid));
}

#[test]
fn pem_files_hold_one_public_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    let write = |label: &str, der: &[u8]| {
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        fs::write(&path, format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")).unwrap();
    };
    let load = |algorithms: &[&str]| {
        let source = KeySource::PemFile { path: path.clone(), kid: None };
        Verifier::new(vec![settings(source, algorithms)], Duration::ZERO)
    };
    let (pair, _) = ec_key("a");
    write("PUBLIC KEY", pair.public_key().as_der().unwrap().as_ref());
    let verifier = load(&["ES256"]).unwrap();
    let token = ec_sign(&pair, r#"{"alg":"ES256","kid":"any"}"#);
    assert!(verifier.verify(&token, NOW).is_ok());
    assert!(load(&["ES384", "RS256"]).is_err(), "no algorithm fits");

    let ed = Ed25519KeyPair::generate().unwrap();
    write("PUBLIC KEY", ed.public_key().as_der().unwrap().as_ref());
    let input = format!("{}.{}", b64(r#"{"alg":"EdDSA"}"#), b64(claims_with(&json!({}))));
    let token = Token::new(format!("{input}.{}", b64(ed.sign(input.as_bytes()))));
    assert!(load(&["EdDSA"]).unwrap().verify(&token, NOW).is_ok());

    write("PRIVATE KEY", ed.to_pkcs8().unwrap().as_ref());
    assert!(load(&["EdDSA"]).err().unwrap().to_string().contains("private key"));
    fs::write(&path, "rubbish").unwrap();
    assert!(load(&["EdDSA"]).is_err());
}

#[test]
fn weak_and_ambiguous_keys_are_refused_at_load() {
    let (_, ec) = ec_key("a");
    let mut off_curve = ec.clone();
    off_curve["x"] = json!(b64([7; 32]));
    let rsa = |bits: usize, e: &[u8]| json!([{"kty": "RSA", "n": b64(vec![0xff; bits / 8]), "e": b64(e)}]);
    for (keys, algorithms, want) in [
        (json!([{"kty": "oct", "k": ""}]), &["HS256"][..], "0 bytes"),
        (json!([{"kty": "oct", "k": b64([1; 31])}]), &["HS256"], "31 bytes"),
        (json!([{"kty": "oct", "k": b64([1; 32])}]), &["HS256", "HS512"], "at least 64"),
        (rsa(1024, &[1, 0, 1]), &["RS256"], "1024 bits"),
        (rsa(2048, &[1]), &["RS256"], "exponent"),
        (rsa(2048, &[2]), &["RS256"], "exponent"),
        (json!([off_curve]), &["ES256"], "not a valid public key"),
        (json!([ec, ec]), &["ES256"], "twice"),
        (json!([]), &["ES256"], "no key"),
        (json!([{"kty": "EC", "crv": "secp256k1", "x": "", "y": ""}]), &["ES256"], "no key"),
        (json!([{"kty": "EC", "crv": "P-521", "x": "", "y": ""}]), &["ES512"], "not 66 bytes"),
        (json!([ec]), &["ES512"], "no key"),
        (json!([ec]), &["ES521"], "ES521"),
        (json!([ec]), &["none"], "none"),
        (json!([ec]), &[], "no algorithms"),
        (json!([7]), &["ES256"], "not an object"),
    ] {
        let error = load_jwks(&keys, algorithms).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(want) && error.contains("https://issuer"), "{keys} {algorithms:?}: {error}");
    }
    for change in [json!({"use": "enc"}), json!({"key_ops": ["encrypt"]}), json!({"alg": "ES384"})] {
        let mut other = ec.clone();
        other.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        assert!(load_jwks(&json!([other]), &["ES256"]).is_err(), "{change}");
    }
}

#[test]
fn an_issuer_configured_twice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    fs::write(&path, SECRET).unwrap();
    let one = settings(KeySource::HmacFile { path: path.clone(), kid: None }, &["HS256"]);
    let error = Verifier::new(vec![one.clone(), one], Duration::ZERO).err().unwrap();
    assert!(matches!(error, VerifierError::DuplicateIssuer { .. }));
    let absent = settings(KeySource::JwksFile(dir.path().join("absent")), &["HS256"]);
    let error = Verifier::new(vec![absent], Duration::ZERO).err().unwrap().to_string();
    assert!(error.contains("absent") && error.contains("https://issuer"), "{error}");
}

/// The shared vectors: every token must get the verdict it wants, with no disagreement.
#[test]
fn the_shared_vectors_get_the_verdicts_they_want() {
    let root = std::env::var("PORTCULLIS_VECTORS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors").into());
    let dir = Path::new(&root).join("jwt");
    let Ok(lines) = fs::read_to_string(dir.join("jwt_attacks.jsonl")) else {
        println!("SKIPPED the_shared_vectors: none at {}", dir.display());
        return;
    };
    let algorithms = ["HS256", "RS256", "RS384", "PS256", "ES256", "ES384", "EdDSA"];
    let load = |file: &str| {
        let settings = IssuerSettings {
            issuer: "https://issuer.test".into(),
            audience: vec!["api://test".into()],
            ..settings(KeySource::JwksFile(dir.join(file)), &algorithms)
        };
        Verifier::new(vec![settings], Duration::ZERO)
    };
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in lines.lines() {
        let vector: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| vector[name].as_str();
        let token = Token::new(text("token").unwrap().into());
        let got = load(text("jwks").unwrap_or("jwks.json"))
            .map_err(|e| e.to_string())
            .and_then(|v| v.verify(&token, NOW).map_err(|r| r.code().to_owned()));
        let want = text("want").unwrap();
        if want != "accept_or_reject" && got.is_ok() != (want == "accept") {
            wrong.push(format!("{} {}: {:?}", text("id").unwrap(), text("note").unwrap(), got.err()));
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{} of {count} disagree:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn an_issuers_own_rules_are_asked_of_its_tokens_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    fs::write(&path, SECRET).unwrap();
    let source = || KeySource::HmacFile { path: path.clone(), kid: None };
    let rules = TokenRules {
        typ: vec!["application/AT+JWT".into()],
        leeway: Some(Duration::from_secs(5)),
        max_age: Some(Duration::from_secs(100)),
        required_claims: vec!["tenant".into()],
        require_bound: false,
    };
    let strict = IssuerSettings { issuer: "https://strict".into(), rules, ..settings(source(), &["HS256"]) };
    let both = vec![settings(source(), &["HS256"]), strict];
    let verifier = Verifier::new(both, Duration::from_secs(30)).unwrap();
    let judge = |header: &str, changes: Value| {
        let mut claims = json!({"iss": "https://strict", "tenant": "a"});
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        verifier.judge(&sign(header, &claims_with(&claims)), NOW)
    };
    let at = r#"{"alg":"HS256","typ":"at+jwt"}"#;
    let cases = [
        (at, json!({}), None),
        (r#"{"alg":"HS256","typ":"application/at+jwt"}"#, json!({}), None),
        (r#"{"alg":"HS256","typ":"JWT"}"#, json!({}), Some(Reason::TokenMalformed)),
        (r#"{"alg":"HS256"}"#, json!({}), Some(Reason::TokenMalformed)),
        (at, json!({"iat": NOW - 104}), None),
        (at, json!({"iat": NOW - 105}), Some(Reason::TokenTooOld)),
        (at, json!({"exp": NOW - 4}), None),
        (at, json!({"exp": NOW - 5}), Some(Reason::TokenExpired)),
        (at, json!({"tenant": null}), Some(Reason::ClaimsInvalid)),
        (at, json!({"iat": NOW - 200, "iss": "https://issuer", "exp": NOW - 10}), None),
    ];
    for (header, changes, want) in cases {
        assert_eq!(judge(header, changes.clone()).status.err(), want, "{header} {changes}");
    }
    // It is not believed for longer than its age allows.
    let vouched = judge(at, json!({"iat": NOW - 100})).vouched.unwrap();
    assert!(vouched.is_current(NOW + 4) && !vouched.is_current(NOW + 5));
    let twice =
        Verifier::new(vec![settings(source(), &["HS256"]), settings(source(), &["HS256"])], Duration::ZERO);
    assert!(matches!(twice, Err(VerifierError::DuplicateIssuer { .. })));
}
