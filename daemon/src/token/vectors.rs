//! Public vectors of raw signatures, whose payloads are no claims: shape, key and signature alone are judged.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use super::{KeySource, algorithm::Algorithm, issuer, jws::Envelope, keys};

const ALGORITHMS: [Algorithm; 13] = [
    Algorithm::HS256,
    Algorithm::HS384,
    Algorithm::HS512,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::ES512,
    Algorithm::EdDSA,
];

/// The vectors' directory; where it is not there, says that the running test is skipped.
fn vectors(name: &str) -> Option<PathBuf> {
    let root = std::env::var("PORTCULLIS_VECTORS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors").into());
    let dir = PathBuf::from(root).join(name);
    if !dir.is_dir() {
        println!("SKIPPED {name}: no vectors at {}", dir.display());
        return None;
    }
    Some(dir)
}

fn read(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Whether a JWS is good under a key set of one key, judged as a token's is up to its claims.
fn is_good(key: &Value, text: &str) -> Result<Vec<u8>, String> {
    let set = json!({"keys": [key]}).to_string();
    let keys = keys::read(&KeySource::JwksFile(PathBuf::new()), set.as_bytes(), &ALGORITHMS)?;
    let jws = Envelope::parse(text).map_err(|r| r.code().to_owned())?;
    let key = issuer::pick(&keys, jws.kid.as_deref(), jws.algorithm).map_err(|r| r.code().to_owned())?;
    let good = key.verify(jws.algorithm, jws.signing_input, &jws.signature);
    if good { Ok(jws.payload) } else { Err("signature_invalid".to_owned()) }
}

/// Vectors whose verdict is another one here, and why: `(tcId, whether it is good here)`.
const OTHERWISE: [(u64, bool); 8] = [
    // Their keys are for `ES521`, a slip of the pen for ES512.
    (347, false),
    (351, false),
    // The key is pinned to PS256 by its `alg`, and the header says PS384 (RFC 7517 §4.4).
    (346, false),
    (350, false),
    // They are said to have wrong padding, but their text has none: it is canonical, and rightly signed.
    (367, true),
    (370, true),
    // A `?` in the text, which is passed over by lenient readers: RFC 7515 §2 has no such character, and one token has
    // one text here.
    (372, false),
    (373, false),
];

#[test]
fn wycheproofs_signatures_get_their_verdicts() {
    let Some(dir) = vectors("wycheproof") else { return };
    let file = read(dir.join("json_web_signature_test.json"));
    let (mut wrong, mut count) = (Vec::new(), 0);
    for group in file["testGroups"].as_array().unwrap() {
        let key = if group["public"].is_object() { &group["public"] } else { &group["private"] };
        for test in group["tests"].as_array().unwrap() {
            // Those of the JSON serialization are objects, and no token is one.
            let text = test["jws"].as_str().map_or_else(|| test["jws"].to_string(), str::to_owned);
            let otherwise = OTHERWISE.iter().find(|(id, _)| test["tcId"] == *id);
            let (got, said) = (is_good(key, &text), test["result"] == "valid");
            assert!(
                otherwise.is_none_or(|(_, want)| *want != said),
                "{} is no exception any more",
                test["tcId"]
            );
            if otherwise.map_or(said, |(_, want)| *want) != got.is_ok() {
                wrong.push(format!(
                    "{} {} ({}): {:?}",
                    test["tcId"],
                    test["comment"],
                    group["comment"],
                    got.err()
                ));
            }
            count += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of {count} disagree:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(file["numberOfTests"], count);
}

#[test]
fn the_jose_cookbooks_signatures_get_their_verdicts() {
    let Some(dir) = vectors("jose_cookbook") else { return };
    let files = [
        ("jws/4_1.rsa_v15_signature.json", None),
        ("jws/4_2.rsa-pss_signature.json", None),
        ("jws/4_3.ecdsa_signature.json", None),
        ("jws/4_4.hmac-sha2_integrity_protection.json", None),
        ("jws/4_5.signature_with_detached_content.json", Some("its payload is not in it")),
        ("curve25519/jws.json", None),
        ("rfc7797/hmac-sha2_b64_false.json", Some("`b64` is refused")),
        ("rfc7797/4.2.hmac-sha2_b64_false.json", Some("`b64` is refused")),
    ];
    for (file, refused) in files {
        let vector = read(dir.join(file));
        let (key, text) = (&vector["input"]["key"], vector["output"]["compact"].as_str().unwrap_or_default());
        assert!(key.is_object(), "{file}");
        let got = is_good(key, text);
        match refused {
            None => assert_eq!(
                got.as_deref(),
                Ok(vector["input"]["payload"].as_str().unwrap().as_bytes()),
                "{file}"
            ),
            Some(why) => assert!(got.is_err(), "{file}: {why}"),
        }
        // The JSON serializations are no tokens.
        for form in ["json", "json_flat"] {
            assert!(is_good(key, &vector["output"][form].to_string()).is_err(), "{file} {form}");
        }
    }
}
