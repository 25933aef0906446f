//! Checks of the standards' tables.

use std::{path::PathBuf, time::Duration};

use super::{
    super::tables::{ClientRevokes, Config, SsfDelivery, StandardsClient},
    Faults, check_tls, is_address, is_name,
};

/// The `[standards]` tables.
pub fn check_standards(c: &Config, f: &mut Faults<'_>) {
    let s = &c.standards;
    check_tls(&s.tls, "standards.tls", f);
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

/// `[token.status_list]` and `[standards.status_list]`.
pub fn check_lists(c: &Config, f: &mut Faults<'_>) {
    let l = &c.token.status_list;
    let key = |k: &str| format!("token.status_list.{k}");
    for host in &l.hosts {
        let good = is_address(&format!("https://{host}/")) && !host.contains(['/', '@', '?']);
        f.unless(good, &key("hosts"), &format!("`{host}` is not a host such as \"status.example.com\""));
    }
    let second = Duration::from_secs(1);
    f.unless((second / 10..=60 * second).contains(&l.timeout.0), &key("timeout"), "must be from 100ms to 1m");
    f.unless(l.wait.0 <= 2 * second, &key("wait"), "must be at most 2s: decisions wait for it");
    f.unless(l.ttl_min.0 >= second, &key("ttl_min"), "must be at least 1s");
    f.unless(l.ttl_min <= l.ttl_max, &key("ttl_min"), "is longer than `ttl_max`");
    f.unless((1024..=256 << 20).contains(&l.max_bytes), &key("max_bytes"), "must be from 1024 to 268435456");
    f.unless(l.lists > 0, &key("lists"), "must be at least 1");
    let p = &c.standards.status_list;
    let Some(uri) = &p.uri else { return };
    let key = |k: &str| format!("standards.status_list.{k}");
    f.unless(
        is_address(uri) && uri.ends_with("/statuslists/api-keys") && !uri.contains(['?', '#']),
        &key("uri"),
        "is not an address such as \"https://host/statuslists/api-keys\"",
    );
    f.unless(!p.key_file.as_os_str().is_empty(), &key("key_file"), "must be given: a P-256 key in PEM");
    f.unless(!p.kid.is_empty(), &key("kid"), "must be given");
    f.unless(p.ttl.0 >= second, &key("ttl"), "must be at least 1s");
    f.unless(p.lifetime.0 >= 2 * p.ttl.0, &key("lifetime"), "must be at least twice `ttl`");
    f.unless(c.token.api_keys.file.is_some(), &key("uri"), "is given, and `token.api_keys.file` is not");
}

/// The `[[ssf.transmitter]]` tables.
pub fn check_ssf(c: &Config, f: &mut Faults<'_>) {
    for (i, t) in c.ssf.transmitter.iter().enumerate() {
        let key = |k: &str| format!("ssf.transmitter[{i}].{k}");
        f.unless(
            is_name(&t.name.replace('_', "+"), 60),
            &key("name"),
            "is not a name of letters, digits and dashes",
        );
        let first = c.ssf.transmitter.iter().position(|o| o.name == t.name);
        f.unless(first == Some(i), &key("name"), "is given twice");
        f.unless(is_address(&t.issuer), &key("issuer"), "is not an address such as \"https://host\"");
        f.unless(!t.algorithms.is_empty(), &key("algorithms"), "must name the algorithms that it signs with");
        for a in &t.algorithms {
            f.unless(
                ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
                    .contains(&a.as_str()),
                &key("algorithms"),
                &format!("`{a}` is none that events may be signed with, such as `RS256`"),
            );
        }
        for (name, url) in [
            ("jwks_url", &t.jwks_url),
            ("push_url", &t.push_url),
            ("token_url", &t.token_url),
            ("poll_url", &t.poll_url),
        ] {
            let good = url.as_ref().is_none_or(|u| is_address(u));
            f.unless(good, &key(name), "is not an address such as \"https://host/path\"");
        }
        f.unless(
            t.jwks_file.is_none() || t.jwks_url.is_none(),
            &key("jwks_url"),
            "or `jwks_file` is given, not both",
        );
        let client = [t.token_url.is_some(), t.client_id.is_some(), t.client_secret_file.is_some()];
        f.unless(
            client.iter().all(|given| *given == client[0]),
            &key("token_url"),
            "goes with `client_id` and `client_secret_file`: give all three or none",
        );
        f.unless(
            t.token_file.is_none() || !client.contains(&true),
            &key("token_file"),
            "or `token_url` is given, not both",
        );
        let has_keys = t.jwks_file.is_some() || t.jwks_url.is_some();
        f.unless(t.manage || has_keys, &key("jwks_url"), "or `jwks_file` must be given with manage = false");
        f.unless(t.manage || !t.audience.is_empty(), &key("audience"), "must be given with manage = false");
        match t.delivery {
            SsfDelivery::Push => {
                f.unless(
                    t.push_secret_file.is_some(),
                    &key("push_secret_file"),
                    "must be given: whoever reaches the listener could send events otherwise",
                );
                f.unless(
                    t.push_url.is_some() || !t.manage || t.stream.is_some(),
                    &key("push_url"),
                    "must be given: the address that the transmitter is told",
                );
                f.unless(
                    !(c.standards.listen.is_empty() && c.standards.tls.is_empty()),
                    &key("delivery"),
                    "is \"push\", and `[standards]` names no address to listen on",
                );
            }
            SsfDelivery::Poll => {
                f.unless(
                    t.manage || t.poll_url.is_some(),
                    &key("poll_url"),
                    "must be given with manage = false",
                );
            }
        }
        let (second, most) = (Duration::from_secs(1), Duration::from_mins(5));
        f.unless((second / 10..=most).contains(&t.timeout.0), &key("timeout"), "must be from 100ms to 5m");
        f.unless(t.poll_hold.0 <= most, &key("poll_hold"), "must be at most 5m");
        f.unless(t.poll_interval.0 >= second / 10, &key("poll_interval"), "must be at least 100ms");
        f.unless((1..=1000).contains(&t.max_events), &key("max_events"), "must be from 1 to 1000");
        f.unless(t.token_issuers.iter().all(|i| !i.is_empty()), &key("token_issuers"), "has an empty entry");
    }
}

/// Makes its relative paths absolute.
pub fn resolve(c: &mut Config, fix: impl Fn(&mut PathBuf)) {
    for tls in &mut c.standards.tls {
        [&mut tls.certificate, &mut tls.key].into_iter().chain(&mut tls.client_ca).for_each(&fix);
    }
    c.token.status_list.ca_file.iter_mut().for_each(&fix);
    if c.standards.status_list.uri.is_some() {
        fix(&mut c.standards.status_list.key_file);
    }
    for t in &mut c.ssf.transmitter {
        let files = [
            &mut t.jwks_file,
            &mut t.push_secret_file,
            &mut t.token_file,
            &mut t.client_secret_file,
            &mut t.ca_file,
        ];
        files.into_iter().flatten().for_each(&fix);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn faults(text: &str) -> String {
        let issuer = "[kernel]\nmode = \"off\"\n[[token.issuer]]\nissuer = \"i\"\nalgorithms = [\"HS256\"]\nhmac_file = \"k\"\n";
        match super::super::parse(Path::new("/x.toml"), &format!("{issuer}{text}")) {
            Ok(_) => String::new(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn what_could_not_work_is_said_by_its_key() {
        let transmitter = "[[ssf.transmitter]]\nname = \"a\"\nissuer = \"https://i\"\n";
        let hash = "0".repeat(64);
        for (text, said) in [
            ("[[standards.client]]\nid = \"a\"\n", "secret_sha256"),
            ("[[standards.client]]\nid = \"a b\"\nsecret_sha256 = [\"x\"]\n", "hexadecimal"),
            (
                &format!(
                    "[[standards.client]]\nid = \"a\"\nsecret_sha256 = [\"{hash}\"]\nrevoke = \"own\"\n"
                ),
                "issuers",
            ),
            (&format!("{transmitter}manage = false\n"), "audience"),
            (&format!("{transmitter}delivery = \"push\"\n"), "push_secret_file"),
            (
                &format!(
                    "{transmitter}delivery = \"push\"\npush_secret_file = \"x\"\npush_url = \"https://u\"\n"
                ),
                "`[standards]` names no address",
            ),
            (&format!("{transmitter}algorithms = [\"HS256\"]\n"), "`HS256`"),
            (&format!("{transmitter}{transmitter}"), "is given twice"),
            ("[token.status_list]\nhosts = [\"https://h\"]\n", "is not a host"),
            ("[token.status_list]\nwait = \"3s\"\n", "decisions wait"),
            ("[standards.status_list]\nuri = \"https://h/list\"\n", "/statuslists/api-keys"),
            ("[standards.status_list]\nuri = \"https://h/statuslists/api-keys\"\n", "key_file"),
        ] {
            let found = faults(text);
            assert!(found.contains(said), "{text}: {found}");
        }
        assert_eq!(faults(transmitter), "");
        assert_eq!(faults("[token.status_list]\nhosts = [\"h.test\", \"h.test:8443\", \"[::1]:80\"]\n"), "");
    }
}
