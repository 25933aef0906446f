//! Bundles read, refused, kept.

use std::{fs, io::Write as _, path::Path};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use super::*;
use crate::token::DocumentKey;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const MODULE: &str = "package authz\n\nallow := true\n";

fn packed(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        // Written by hand: the library refuses names that lead elsewhere.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

fn read(files: &[(&str, &str)]) -> Result<Bundle, BundleError> {
    Bundle::read(&packed(files), 1 << 20, None)
}

/// A signature as `opa sign` makes it.
fn signed(files: &Value, scope: Option<&str>, secret: &[u8]) -> String {
    let mut payload = json!({"files": files});
    if let Some(scope) = scope {
        payload["scope"] = scope.into();
    }
    let encode = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
    let input = format!("{}.{}", encode(&json!({"alg": "HS256", "kid": "k1"})), encode(&payload));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), input.as_bytes());
    json!({"signatures": [format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag))]}).to_string()
}

fn verification(dir: &Path, key_id: Option<&str>, scope: Option<&str>) -> Verification {
    let path = dir.join("secret");
    fs::write(&path, SECRET).unwrap();
    Verification {
        key: DocumentKey::load(&path, "HS256").unwrap(),
        key_id: key_id.map(str::to_owned),
        scope: scope.map(str::to_owned),
    }
}

#[test]
fn a_bundle_is_read_with_its_manifest() {
    let manifest = r#"{"revision": "r7", "roots": ["authz", "/roles/"], "metadata": {"x": 1}}"#;
    let bundle = read(&[
        (".manifest", manifest),
        ("/authz/policy.rego", MODULE),
        ("roles/data.json", r#"{"admin": [1]}"#),
        ("data.json", r#"{"authz": {"on": true}}"#),
    ])
    .unwrap();
    assert_eq!((bundle.manifest.revision.as_str(), bundle.files.len()), ("r7", 3));
    assert_eq!(bundle.manifest.roots, ["authz", "roles"]);
    assert_eq!(read(&[("p.rego", MODULE)]).unwrap().manifest, Manifest::default());
}

#[test]
fn what_is_outside_of_the_roots_is_refused() {
    let manifest = (".manifest", r#"{"roots": ["authz"]}"#);
    for bad in [
        ("p.rego", "package other\n\nx := 1\n"),
        ("p.rego", "package authzx\n\nx := 1\n"),
        ("data.json", r#"{"authz": {}, "other": 1}"#),
        ("other/data.json", "{}"),
        ("data.yaml", "authz: {}\nother: 1\n"),
    ] {
        let e = read(&[manifest, bad]).unwrap_err().to_string();
        assert!(e.contains("outside of the manifest's roots"), "{bad:?}: {e}");
    }
    for text in [
        r#"{"roots": ["a", "a/b"]}"#,
        r#"{"roots": ["a", "a"]}"#,
        r#"{"wasm": [{}]}"#,
        r#"{"rego_version": 0}"#,
        "{",
    ] {
        assert!(read(&[(".manifest", text)]).is_err(), "{text}");
    }
    let of = |roots: &str| Manifest::read(format!("{{\"roots\": [{roots}]}}").as_bytes()).unwrap();
    assert_eq!(overlap(&of(r#""a/b", "c""#), &of(r#""d", "a""#)), Some(("a/b", "a")));
    assert_eq!(overlap(&of(r#""a/b""#), &of(r#""a/bc""#)), None);
}

#[test]
fn archives_that_lead_elsewhere_lie_or_swell_are_refused() {
    for name in ["../evil.rego", "a/../../evil.rego", ".."] {
        assert!(matches!(read(&[(name, MODULE)]), Err(BundleError::Entry { .. })), "{name}");
    }
    assert!(matches!(read(&[("a.rego", MODULE), ("./a.rego", MODULE)]), Err(BundleError::Entry { .. })));
    for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Fifo, tar::EntryType::Char] {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        tar.append_link(&mut header, "a.rego", "/etc/passwd").unwrap();
        let archive = tar.into_inner().unwrap().finish().unwrap();
        assert!(matches!(Bundle::read(&archive, 1 << 20, None), Err(BundleError::Entry { .. })), "{kind:?}");
    }
    let whole = packed(&[("a.rego", MODULE), ("data.json", "{}")]);
    for cut in [0, 1, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
        assert!(Bundle::read(&whole[..cut], 1 << 20, None).is_err(), "cut at {cut}");
    }
    let mut flipped = whole.clone();
    let at = flipped.len() - 6;
    flipped[at] ^= 1;
    assert!(matches!(Bundle::read(&flipped, 1 << 20, None), Err(BundleError::Archive(_))), "gzip's checksum");
    assert!(matches!(Bundle::read(&whole, 10, None), Err(BundleError::TooLarge { .. })));
    // A bomb: a file that is small when compressed.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    let mut header = tar::Header::new_gnu();
    header.set_path("data.json").unwrap();
    header.set_size(64 << 20);
    header.set_cksum();
    bomb.write_all(header.as_bytes()).unwrap();
    for _ in 0..64 {
        bomb.write_all(&vec![b' '; 1 << 20]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 1 << 18);
    assert!(matches!(Bundle::read(&bomb, 1 << 18, None), Err(BundleError::TooLarge { .. })));
}

#[test]
fn a_signature_covers_every_file_and_nothing_else_passes() {
    let dir = tempfile::tempdir().unwrap();
    // As OPA hashes them: documents in their canonical form, modules as they are.
    let (manifest, data) =
        (r#"{"roots": ["authz"], "revision": "1"}"#, "{\"authz\": {\"b\": 1,\n \"a\": [true, null]}}");
    let entry = |name: &str, hash: String| json!({"name": name, "hash": hash, "algorithm": "SHA-256"});
    let good = json!([
        entry(".manifest", sha256(br#"{"revision":"1","roots":["authz"]}"#)),
        entry("data.json", sha256(br#"{"authz":{"a":[true,null],"b":1}}"#)),
        entry("authz/p.rego", sha256(MODULE.as_bytes())),
    ]);
    let files = [(".manifest", manifest), ("data.json", data), ("/authz/p.rego", MODULE)];
    let with = |signatures: &str, files: &[(&str, &str)], v: &Verification| {
        let all: Vec<_> = files.iter().copied().chain([(".signatures.json", signatures)]).collect();
        Bundle::read(&packed(&all), 1 << 20, Some(v))
    };
    let any = verification(dir.path(), None, None);
    let bundle = with(&signed(&good, None, SECRET), &files, &any).unwrap();
    assert!(bundle.signed && bundle.files.len() == 2);
    let named = verification(dir.path(), Some("k1"), Some("prod"));
    assert!(with(&signed(&good, Some("prod"), SECRET), &files, &named).is_ok());

    let refused = |signatures: &str, files: &[(&str, &str)], v: &Verification, why: &str| {
        let e = with(signatures, files, v).unwrap_err();
        assert!(matches!(e, BundleError::Signature(_)) && e.to_string().contains(why), "{e}");
    };
    let signature = signed(&good, None, SECRET);
    refused(&signature, &files[..2], &any, "not there");
    let more: Vec<_> = files.iter().copied().chain([("x.rego", MODULE)]).collect();
    refused(&signature, &more, &any, "not among");
    let changed = [files[0], files[1], ("/authz/p.rego", "package authz\n\nallow := false\n")];
    refused(&signature, &changed, &any, "not what was signed");
    refused(
        &signed(&good, None, b"another-secret-of-32-bytes-length"),
        &files,
        &any,
        "not of the configured key",
    );
    refused(&signed(&good, Some("test"), SECRET), &files, &named, "scope");
    refused(
        &signed(&good, Some("prod"), SECRET),
        &files,
        &verification(dir.path(), Some("k2"), None),
        "key `k1`",
    );
    refused(r#"{"signatures": []}"#, &files, &any, "0 signatures");
    let e = Bundle::read(&packed(&files), 1 << 20, Some(&any)).unwrap_err();
    assert!(e.to_string().contains("no `.signatures.json`"), "{e}");
    let none = signed(&json!([]), None, SECRET).replace("HS256", "none");
    refused(&none, &files, &any, "");
}

#[test]
fn the_last_good_one_is_kept_and_checked_again() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(dir.path(), "authz", 1 << 20, None).unwrap();
    assert!(shelf.last().unwrap().is_none());
    let archive = packed(&[("authz/p.rego", MODULE)]);
    let unused = shelf.unpack(&archive).unwrap().dir().to_owned();
    assert!(!unused.exists(), "what does not come into force is removed");
    let fresh = shelf.unpack(&archive).unwrap();
    let current = fresh.dir().to_owned();
    shelf.persist(&archive, Some("\"e1\""), fresh.dir()).unwrap();
    fresh.keep();
    assert_eq!(fs::read_to_string(current.join("authz/p.rego")).unwrap(), MODULE);
    let second = packed(&[("authz/q.rego", MODULE)]);
    let fresh = shelf.unpack(&second).unwrap();
    shelf.persist(&second, None, fresh.dir()).unwrap();
    assert!(!current.exists(), "the one before is removed");
    fresh.keep();
    let shelf = Shelf::open(dir.path(), "authz", 1 << 20, None).unwrap();
    assert_eq!(shelf.last().unwrap(), Some((second.clone(), None)));
    let strict =
        Shelf::open(dir.path(), "authz", 1 << 20, Some(verification(dir.path(), None, None))).unwrap();
    assert!(matches!(strict.unpack(&second), Err(BundleError::Signature(_))), "kept, and not signed");
}
