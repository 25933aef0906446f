//! Tokens spoilt at random: none panics, none is believed that its issuer did not make.
//!
//! A thousandfold more with `PORTCULLIS_THOROUGH`, as the long tests have it.

use std::collections::HashSet;

use proptest::{prelude::*, test_runner::TestRunner};

use super::*;

/// [`NOW`].
const NOW_SECONDS: f64 = 1_750_000_000.0;

/// A change to a text.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Insert(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Part(usize, usize),
    Twice(usize),
    Header(usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    let byte = prop_oneof![prop::sample::select(b"AZaz09-_.=+/{}\"".to_vec()), 0x20_u8..0x7f];
    prop_oneof![
        4 => (at(), byte.clone()).prop_map(|(at, b)| Change::Set(at, b)),
        2 => at().prop_map(Change::Remove),
        2 => (at(), byte).prop_map(|(at, b)| Change::Insert(at, b)),
        3 => (at(), 0_u8..7).prop_map(|(at, bit)| Change::Flip(at, bit)),
        1 => at().prop_map(Change::Cut),
        2 => (0_usize..3, 0_usize..8).prop_map(|(part, other)| Change::Part(part, other)),
        1 => (0_usize..3).prop_map(Change::Twice),
        2 => (0_usize..HEADERS.len()).prop_map(Change::Header),
    ]
}

/// Headers that have been known to open doors.
const HEADERS: [&str; 8] = [
    r#"{"alg":"none"}"#,
    r#"{"alg":"None","kid":"k"}"#,
    r#"{"alg":"HS256","kid":"es"}"#,
    r#"{"alg":"HS512","kid":"k"}"#,
    r#"{"alg":"ES256","kid":"k"}"#,
    r#"{"alg":"ES256","kid":"es","jwk":{"kty":"oct","k":"AAAA"}}"#,
    r#"{"alg":"HS256","alg":"none","kid":"k"}"#,
    r#"{"alg":"HS256","kid":"../../k","crit":["exp"]}"#,
];

fn apply(text: &str, change: &Change, others: &[String]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut parts: Vec<String> = text.split('.').map(str::to_owned).collect();
    let len = bytes.len().max(1);
    match change {
        Change::Set(at, b) if !bytes.is_empty() => bytes[at.index(len)] = *b,
        Change::Flip(at, bit) if !bytes.is_empty() => bytes[at.index(len)] ^= 1 << bit,
        Change::Remove(at) if !bytes.is_empty() => drop(bytes.remove(at.index(len))),
        Change::Insert(at, b) => bytes.insert(at.index(bytes.len() + 1), *b),
        Change::Cut(at) => bytes.truncate(at.index(len)),
        Change::Part(part, other) => {
            let other = others[other % others.len()].split('.').nth(*part).unwrap_or_default();
            if let Some(part) = parts.get_mut(*part) {
                *part = other.to_owned();
            }
            return parts.join(".");
        }
        Change::Twice(part) => {
            let again = parts.get(*part).cloned().unwrap_or_default();
            parts.insert((*part).min(parts.len()), again);
            return parts.join(".");
        }
        Change::Header(n) => {
            parts[0] = b64(HEADERS[*n]);
            return parts.join(".");
        }
        _ => {}
    }
    String::from_utf8(bytes).unwrap_or_default()
}

fn runner(cases: u32) -> TestRunner {
    let thorough = std::env::var("PORTCULLIS_THOROUGH").is_ok_and(|v| !v.is_empty());
    let cases = if thorough { 1_000_000 } else { cases };
    TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) })
}

#[test]
fn a_mutated_token_is_believed_only_if_it_is_still_its_issuers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let (pair, mut jwk) = ec_key("es");
    jwk["alg"] = "ES256".into();
    let secret = json!({"kty": "oct", "kid": "k", "alg": "HS256", "k": b64(SECRET)});
    fs::write(&path, json!({"keys": [jwk, secret]}).to_string()).unwrap();
    let settings = settings(KeySource::JwksFile(path), &["HS256", "HS512", "ES256"]);
    let verifier = Verifier::new(vec![settings], Duration::from_secs(30)).unwrap();
    let expired = claims_with(&json!({"exp": NOW - 600}));
    let foreign = claims_with(&json!({"aud": "other"}));
    let good = [
        sign(HEADER, &claims_with(&json!({"sub": "u"}))),
        sign(HEADER, &claims_with(&json!({"sub": "v"}))),
        ec_sign(&pair, r#"{"alg":"ES256","kid":"es"}"#),
    ];
    let bad = [sign(HEADER, &expired), sign(HEADER, &foreign)];
    let texts: Vec<String> = good.iter().chain(&bad).map(|t| t.as_str().to_owned()).collect();
    for (n, token) in good.iter().chain(&bad).enumerate() {
        assert_eq!(verifier.verify(token, NOW).is_ok(), n < good.len());
    }
    // An HMAC has one text; an ECDSA signature has a twin, which is the same token under the same fingerprint.
    let whole: HashSet<&str> = texts[..2].iter().map(String::as_str).collect();
    let (es256, _) = texts[2].rsplit_once('.').unwrap();
    let strategy = (0..texts.len(), prop::collection::vec(change(), 1..4));
    runner(20_000)
        .run(&strategy, |(n, changes)| {
            let text = changes.iter().fold(texts[n].clone(), |text, c| apply(&text, c, &texts));
            let is_its_own = whole.contains(text.as_str())
                || text.rsplit_once('.').is_some_and(|(input, _)| input == es256);
            let judged = verifier.verify(&Token::new(text.clone()), NOW);
            prop_assert!(judged.is_err() || is_its_own, "{}", text);
            Ok(())
        })
        .unwrap();
}

/// Claims signed well and spoilt before: what is believed is within every rule, read by another reader.
#[test]
fn mutated_claims_are_believed_only_within_the_rules() {
    let verifier = hmac_verifier();
    let texts = [
        claims_with(&json!({"nbf": NOW, "sub": "u", "aud": ["api", "x"], "cnf": {"jkt": b64([1; 32])}})),
        claims_with(&json!({"exp": NOW - 40})),
        claims_with(&json!({"nbf": NOW + 40})),
        claims_with(&json!({"iss": "https://issues"})),
    ];
    let strategy = (0..texts.len(), prop::collection::vec(change(), 1..4));
    let believed = std::cell::Cell::new(0_u32);
    runner(20_000)
        .run(&strategy, |(n, changes)| {
            let claims = changes.iter().fold(texts[n].clone(), |text, c| apply(&text, c, &texts));
            let Ok(identity) = verifier.verify(&sign(HEADER, &claims), NOW) else { return Ok(()) };
            believed.set(believed.get() + 1);
            let read: Value = serde_json::from_str(&claims).unwrap();
            let time = |name: &str| read[name].as_f64();
            prop_assert_eq!(&read["iss"], "https://issuer");
            prop_assert!(time("exp").is_some_and(|t| t > NOW_SECONDS - 30.0), "{}", claims);
            prop_assert!(time("nbf").is_none_or(|t| t <= NOW_SECONDS + 30.0), "{}", claims);
            let audience = &read["aud"];
            prop_assert!(audience == "api" || audience.as_array().is_some_and(|a| a.contains(&"api".into())));
            prop_assert_eq!(read.get("cnf").is_some(), identity.confirmation.is_some());
            Ok(())
        })
        .unwrap();
    assert!(believed.get() > 100, "nothing was believed");
}
