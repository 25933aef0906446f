//! Verifying a token, as on an identity cache's miss, and fingerprinting one, as on every request.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may panic and documents itself")]

use std::{fs, hint::black_box, time::Duration};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey,
        RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::token::{FingerprintKey, IssuerSettings, KeySource, Token, TokenRules, Verifier};
use serde_json::{Value, json};

const NOW: i64 = 1_750_000_000;
const SECRET: [u8; 32] = [7; 32];

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn signed(algorithm: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> Token {
    let header = json!({"alg": algorithm, "kid": algorithm, "typ": "JWT"});
    let claims = json!({
        "iss": "https://issuer", "aud": "api", "sub": "user-1", "jti": "0123456789", "client_id": "web",
        "iat": NOW, "exp": NOW + 600, "scope": "orders:read reports:read",
    });
    let input = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    let signature = sign(input.as_bytes());
    Token::new(format!("{input}.{}", b64(signature)))
}

fn verifier(keys: &Value) -> Verifier {
    let path = std::env::temp_dir().join(format!("portcullis-bench-{}.json", std::process::id()));
    fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
    let settings = IssuerSettings {
        issuer: "https://issuer".into(),
        audience: vec!["api".into()],
        algorithms: ["HS256", "ES256", "RS256"].map(String::from).to_vec(),
        keys: KeySource::JwksFile(path.clone()),
        rules: TokenRules::default(),
    };
    let verifier = Verifier::new(vec![settings], Duration::from_secs(30)).unwrap();
    fs::remove_file(path).unwrap();
    verifier
}

fn verification(c: &mut Criterion) {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let point = ec.public_key().as_ref();
    let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(rsa.public_key());
    let verifier = verifier(&json!([
        {"kty": "oct", "kid": "HS256", "alg": "HS256", "k": b64(SECRET)},
        {"kty": "EC", "crv": "P-256", "kid": "ES256", "x": b64(&point[1..33]), "y": b64(&point[33..])},
        {"kty": "RSA", "kid": "RS256", "alg": "RS256", "n": b64(n), "e": b64(e)},
    ]));
    let tokens = [
        (
            "HS256",
            signed("HS256", |m| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &SECRET), m).as_ref().into()),
        ),
        ("ES256", signed("ES256", |m| ec.sign(&random, m).unwrap().as_ref().into())),
        (
            "RS256",
            signed("RS256", |m| {
                let mut signature = vec![0; rsa.public_modulus_len()];
                rsa.sign(&RSA_PKCS1_SHA256, &random, m, &mut signature).unwrap();
                signature
            }),
        ),
    ];
    let mut group = c.benchmark_group("verify");
    for (name, token) in &tokens {
        assert!(verifier.verify(token, NOW).is_ok(), "{name}");
        group.bench_function(*name, |b| b.iter(|| verifier.verify(black_box(token), NOW)));
    }
    // The yardstick: the signature alone, by a key that stays parsed, over the same bytes.
    let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).unwrap();
    let (input, signature) = tokens[1].1.as_str().rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    group.bench_function("ES256_signature_alone", |b| {
        b.iter(|| parsed.verify_sig(black_box(input.as_bytes()), black_box(&signature)).unwrap());
    });
    group.finish();
}

fn fingerprints(c: &mut Criterion) {
    let key = FingerprintKey::from_bytes(&[1; 16]);
    let mut group = c.benchmark_group("fingerprint");
    for len in [300, 1100] {
        // Shaped as a JWS, its signature 86 characters long.
        let body = "a".repeat(len - 4 - 86);
        let token = Token::new(format!("ey.{body}.{}", "b".repeat(86)));
        group.bench_function(format!("deny_{len}"), |b| b.iter(|| key.deny(black_box(&token))));
        group.bench_function(format!("allow_{len}"), |b| b.iter(|| key.allow(black_box(&token))));
    }
    group.finish();
}

criterion_group!(benches, verification, fingerprints);
criterion_main!(benches);
