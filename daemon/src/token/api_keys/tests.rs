//! Keys from their first day to their last, over restarts.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::*;

const NOW: i64 = 1_750_000_000;

fn open(dir: &Path) -> Result<ApiKeys, ApiKeyError> {
    let settings = ApiKeySettings {
        file: dir.join("keys.json"),
        prefix: "pk".into(),
        issuer: "keys".into(),
        status_uri: None,
    };
    ApiKeys::open(settings, Arc::new(FingerprintKey::from_bytes(&[1; 16])))
}

fn new(expires: Option<i64>) -> NewApiKey {
    NewApiKey {
        subject: "ci".into(),
        client: Some("deploy".into()),
        scopes: vec!["orders:read".into(), "orders:write".into()],
        roles: vec!["robot".into()],
        expires,
        actor: "uid:0".into(),
    }
}

fn reason(keys: &ApiKeys, token: &Token, now: i64) -> Option<Reason> {
    keys.judge(token, now).status.err()
}

#[test]
fn a_key_is_an_identity_and_its_text_is_nowhere_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(dir.path()).unwrap();
    let (key, token) = keys.issue(new(Some(NOW + 100)), NOW).unwrap();
    assert!(keys.claims(token.as_str()) && token.as_str().starts_with(&format!("pk_{}_", key.id)));
    let found = keys.judge(&token, NOW + 1);
    let identity = found.status.unwrap().document();
    assert_eq!(
        identity,
        json!({
            "iss": "keys", "sub": "ci", "jti": key.id, "client": "deploy", "iat": NOW, "exp": NOW + 100,
            "scopes": ["orders:read", "orders:write"], "alg": "api_key",
            "claims": {"iss": "keys", "sub": "ci", "jti": key.id, "client_id": "deploy", "iat": NOW,
                       "exp": NOW + 100, "scope": "orders:read orders:write", "roles": ["robot"]},
        })
    );
    let file = dir.path().join("keys.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    let secret = token.as_str().rsplit_once('_').unwrap().1;
    assert!(!text.contains(secret) && !text.contains(&secret[..20]));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    // After a restart it is the same key, until it expires.
    let again = open(dir.path()).unwrap();
    assert_eq!(
        (reason(&again, &token, NOW + 99), reason(&again, &token, NOW + 100)),
        (None, Some(Reason::TokenExpired))
    );
    assert_eq!(key.fingerprint(), Some((again.fingerprints.deny(&token), again.fingerprints.id())));
}

#[test]
fn wrong_texts_are_refused_each_for_its_reason() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (keys, others) = (open(a.path()).unwrap(), open(b.path()).unwrap());
    let (key, token) = keys.issue(new(None), NOW).unwrap();
    let (_, foreign) = others.issue(new(None), NOW).unwrap();
    assert_eq!(reason(&keys, &foreign, NOW), Some(Reason::ApiKeyUnknown));
    // The id of one with the secret of another: with the old checksum, and with a good one.
    let mut random = [7; 40];
    for _ in 0..1000 {
        rand::fill(&mut random[8..]).unwrap();
        let (other, text) = format::compose("pk", &random);
        let forged = text.replace(&other, &key.id);
        assert_eq!(reason(&keys, &Token::new(forged.clone()), NOW), Some(Reason::TokenMalformed));
        let body = &forged[..forged.len() - 6];
        let forged = format!("{body}{}", format::checksum(body));
        assert_eq!(reason(&keys, &Token::new(forged), NOW), Some(Reason::ApiKeyUnknown));
    }
    for bad in ["pk_", "pk_1_2", &token.as_str()[..token.as_str().len() - 1]] {
        assert_eq!(reason(&keys, &Token::new(bad.to_owned()), NOW), Some(Reason::TokenMalformed), "{bad}");
    }
}

#[test]
fn disabling_and_rotating_end_what_was_found_before() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(dir.path()).unwrap();
    let (key, token) = keys.issue(new(None), NOW).unwrap();
    let found = keys.judge(&token, NOW).vouched.unwrap();
    keys.issue(new(None), NOW).unwrap();
    assert!(found.is_current(NOW), "another key changes nothing");
    let (old, second, second_token) = keys.rotate(&key.id, 60, "uid:0", NOW).unwrap();
    assert!(!found.is_current(NOW));
    assert_eq!((old.replaced_by.as_deref(), old.expires), (Some(second.id.as_str()), Some(NOW + 60)));
    assert_eq!(
        (reason(&keys, &token, NOW + 59), reason(&keys, &token, NOW + 60)),
        (None, Some(Reason::TokenExpired))
    );
    let (_, third, third_token) = keys.rotate(&second.id, 0, "uid:0", NOW).unwrap();
    assert_eq!(reason(&keys, &second_token, NOW), Some(Reason::ApiKeyDisabled));
    assert!(matches!(keys.rotate(&second.id, 0, "uid:0", NOW), Err(ApiKeyError::Over(_))));
    let found = keys.judge(&third_token, NOW);
    assert!(found.status.is_ok());
    keys.disable(&third.id, NOW).unwrap();
    assert!(!found.vouched.unwrap().is_current(NOW));
    assert!(matches!(keys.disable("nobody", NOW), Err(ApiKeyError::Unknown(_))));
    for keys in [&keys, &open(dir.path()).unwrap()] {
        assert_eq!(reason(keys, &third_token, NOW), Some(Reason::ApiKeyDisabled));
        assert_eq!((keys.count(NOW), keys.count(NOW + 60)), ((2, 4), (1, 4)));
    }
}

#[test]
fn a_change_that_cannot_be_written_is_not_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(dir.path()).unwrap();
    let (key, token) = keys.issue(new(None), NOW).unwrap();
    // A directory in the way of the new file: also for root, who may write anything.
    let obstacle = dir.path().join(".keys.json.new");
    fs::create_dir(&obstacle).unwrap();
    assert!(matches!(keys.disable(&key.id, NOW), Err(ApiKeyError::File { .. })));
    assert!(keys.issue(new(None), NOW).is_err());
    assert_eq!((reason(&keys, &token, NOW), keys.list().len()), (None, 1));
    fs::remove_dir(&obstacle).unwrap();
    keys.disable(&key.id, NOW).unwrap();
    assert_eq!(open(dir.path()).unwrap().list().len(), 1);
}

#[test]
fn a_file_that_cannot_be_trusted_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    let (key, _) = open(dir.path()).unwrap().issue(new(None), NOW).unwrap();
    let good = fs::read_to_string(&file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(open(dir.path()).err().unwrap().to_string().contains("chmod 600"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let twice = good.replace(
        "\"keys\":[",
        &format!("\"keys\":[{},", &good[good.find("[{").unwrap() + 1..good.len() - 3]),
    );
    assert!(twice.matches(&key.id).count() == 2);
    for bad in ["", "{}", &good[..good.len() / 2], &good.replace("\"version\":1", "\"version\":2"), &twice] {
        fs::write(&file, bad).unwrap();
        assert!(matches!(open(dir.path()), Err(ApiKeyError::File { .. })), "{bad}");
    }
    for bad in [
        NewApiKey { subject: String::new(), ..new(None) },
        new(Some(NOW)),
        NewApiKey { scopes: vec!["a b".into()], ..new(None) },
    ] {
        fs::write(&file, &good).unwrap();
        assert!(matches!(open(dir.path()).unwrap().issue(bad, NOW), Err(ApiKeyError::Bad(_))));
    }
}
