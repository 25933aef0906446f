//! Checks of the standards' tables.

use std::path::PathBuf;

use super::{
    super::tables::{ClientRevokes, Config, StandardsClient},
    Faults,
};

/// The `[standards]` tables.
pub fn check_standards(c: &Config, f: &mut Faults<'_>) {
    let s = &c.standards;
    for (i, tls) in s.tls.iter().enumerate() {
        let key = |k: &str| format!("standards.tls[{i}].{k}");
        f.unless(!tls.listen.is_empty(), &key("listen"), "names no address");
        let given = |p: &PathBuf| !p.as_os_str().is_empty();
        f.unless(given(&tls.certificate), &key("certificate"), "must be given: a file in PEM");
        f.unless(given(&tls.key), &key("key"), "must be given: a file in PEM");
    }
    for (i, client) in s.client.iter().enumerate() {
        check_client(c, client, i, f);
    }
}

fn check_client(c: &Config, client: &StandardsClient, i: usize, f: &mut Faults<'_>) {
    let key = |k: &str| format!("standards.client[{i}].{k}");
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._~-".contains(&b);
    f.unless(
        (1..=200).contains(&client.id.len()) && client.id.bytes().all(plain),
        &key("id"),
        "is not of 1 to 200 letters, digits, `.`, `_`, `~` and `-`",
    );
    let first = c.standards.client.iter().position(|o| o.id == client.id);
    f.unless(first == Some(i), &key("id"), "is given twice");
    f.unless(
        !(client.secret_sha256.is_empty() && client.certificate_sha256.is_empty()),
        &key("secret_sha256"),
        "or `certificate_sha256` must be given: `portcullis client-secret` makes a secret and its hash",
    );
    for (name, hashes) in
        [("secret_sha256", &client.secret_sha256), ("certificate_sha256", &client.certificate_sha256)]
    {
        let good = |h: &String| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit());
        f.unless(hashes.iter().all(good), &key(name), "has an entry that is not of 64 hexadecimal digits");
    }
    f.unless(
        client.revoke != ClientRevokes::Own || !client.issuers.is_empty(),
        &key("issuers"),
        "must be given with revoke = \"own\": a client's id means something to its issuer alone",
    );
    f.unless(client.rate > 0, &key("rate"), "must be at least 1");
}

/// Makes its relative paths absolute.
pub fn resolve(c: &mut Config, fix: impl Fn(&mut PathBuf)) {
    for tls in &mut c.standards.tls {
        [&mut tls.certificate, &mut tls.key].into_iter().chain(&mut tls.client_ca).for_each(&fix);
    }
}
