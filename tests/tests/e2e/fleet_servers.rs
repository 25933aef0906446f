//! The fleet's servers: clusters and versions, who may connect and how, and hosts that do not belong together.

use std::fs;

use anyhow::{Context as _, Result};
use portcullis_tests::{
    dir::repository,
    fleet::Fleet,
    is_root,
    nats::{Nats, Setting, Version},
    pki::Pki,
    until,
};

/// Revokes on the first host and waits until the others refuse it.
fn share(fleet: &Fleet) -> Result<()> {
    let token = fleet.mint.hs256()?;
    fleet.hosts[0].daemon.revoke(&token)?;
    for host in &fleet.hosts {
        host.await_refused(&token, true);
    }
    Ok(())
}

fn three(version: Version) -> Vec<Setting> {
    (0..3).map(|n| Setting::of_three(version, n)).collect()
}

fn a_cluster_survives_one_of_three(version: Version) -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(mut fleet) = Fleet::hub(&three(version))? else { return Ok(()) };
    fleet.table = String::from("replicas = 3");
    fleet.add("")?;
    fleet.add("")?;
    fleet.settle()?;
    share(&fleet)?;
    for n in 0..2 {
        fleet.nats[n].kill()?;
        share(&fleet)?;
        fleet.nats[n].restart()?;
        share(&fleet)?;
        // Who ends the next before this one has caught up has ended two of three.
        fleet.nats[n].await_whole("PORTCULLIS")?;
    }
    fleet.settle()?;
    let token = fleet.mint.hs256()?;
    let mut said = String::new();
    // While the cluster settles who leads, the command may say by its exit code that it does not know yet, or that the
    // other host was not heard of lately.
    until(|| {
        match fleet.hosts[1].daemon.ask(&["revoke", "--wait", "all"], &token)?.ok() {
            Ok(stored) => said = stored,
            Err(e) => anyhow::ensure!(e.to_string().starts_with("exit code 6"), e),
        }
        Ok(said.contains("in force on host0"))
    })?;
    assert!(fleet.hosts[0].refuses(&token)?);
    Ok(())
}

#[test]
fn a_cluster_goes_on_with_two_of_three() -> Result<()> {
    a_cluster_survives_one_of_three(Version::Current)
}

#[test]
fn debians_cluster_goes_on_with_two_of_three() -> Result<()> {
    a_cluster_survives_one_of_three(Version::Debian)
}

#[test]
fn debians_server_serves_a_fleet() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(fleet) = Fleet::of(2, &[Setting::alone(Version::Debian)])? else { return Ok(()) };
    fleet.settle()?;
    share(&fleet)?;
    fleet.hosts[0].await_fleet(|f| f["server"].as_str().is_some_and(|s| s.contains(" 2.9.")))?;
    Ok(())
}

#[test]
fn wrong_credentials_get_nowhere_and_right_ones_are_read_anew() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let more = "authorization { users: [{ user: fleet, password: right }] }\n".to_owned();
    let setting = Setting { more, ..Setting::alone(Version::Current) };
    let Some(mut fleet) = Fleet::hub(&[setting])? else { return Ok(()) };
    let right = fleet.dir.write("right", "right\n")?;
    fleet.add(&format!("user = \"fleet\"\npassword_file = \"{}\"", right.display()))?;
    let file = fleet.dir.write("password", "wrong\n")?;
    let host = fleet.add(&format!("user = \"fleet\"\npassword_file = \"{}\"", file.display()))?;
    let told = host.await_fleet(|f| f["error"].as_str().is_some_and(|e| e.contains("uthori")))?;
    assert!(told["server"].is_null(), "{told}");
    assert!(!host.daemon.log().iter().any(|line| line.contains("wrong")), "the password is in the log");
    fleet.dir.write("password", "right\n")?;
    fleet.settle()?;
    share(&fleet)
}

#[test]
fn the_permissions_of_the_page_are_enough_and_no_more() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(mut fleet) = Fleet::hub(&[])? else { return Ok(()) };
    let page = fs::read_to_string(repository().join("docs/fleet.md"))?;
    let (_, rest) = page.split_once("permissions: {").context("the page has them")?;
    let (permissions, _) = rest.split_once("\n}").context("and their end")?;
    let mut users = Vec::new();
    for n in 0..2 {
        let file = fleet.dir.write(&format!("password{n}"), &format!("secret{n}\n"))?;
        let host = fleet.add(&format!("user = \"u{n}\"\npassword_file = \"{}\"", file.display()))?;
        let own = permissions.replace("ID", &host.id()?);
        users.push(format!("{{ user: u{n}, password: secret{n}, permissions: {{ {own} }} }}"));
    }
    let more = format!("authorization {{ users: [\n{}\n] }}\n", users.join("\n"));
    let setting = Setting { more, ..Setting::alone(Version::Current) };
    let Some(server) = Nats::start(fleet.hub_namespace(), &fleet.dir.path(""), &setting)? else {
        return Ok(());
    };
    fleet.nats.push(server);
    fleet.settle()?;
    share(&fleet)?;
    // Nobody speaks for another.
    let other = fleet.hosts[1].id()?;
    let mut client = fleet.nats[0].client_as("u0", "secret0")?;
    let refused = client.publish(&format!("portcullis.changes.{other}"), "{}");
    let refused = refused.err().context("it was let through")?.to_string();
    assert!(refused.to_lowercase().contains("permissions violation"), "{refused}");
    Ok(())
}

#[test]
fn a_host_that_the_stream_gives_nothing_asks_the_others() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let denied = "permissions { publish { deny: \"$JS.API.CONSUMER.>\" } }";
    let more = format!(
        "authorization {{ users: [{{ user: whole, password: p }}, {{ user: part, password: p, {denied} }}] }}\n"
    );
    let setting = Setting { more, ..Setting::alone(Version::Current) };
    let Some(mut fleet) = Fleet::hub(&[setting])? else { return Ok(()) };
    let password = fleet.dir.write("password", "p\n")?;
    for user in ["whole", "part"] {
        fleet.add(&format!("user = \"{user}\"\npassword_file = \"{}\"", password.display()))?;
    }
    share(&fleet)?;
    let told = fleet.hosts[1].await_fleet(|f| f["counts"]["resyncs"].as_u64() > Some(0))?;
    assert_eq!(told["was_complete"], false, "who is given nothing by the stream cannot know: {told}");
    Ok(())
}

#[test]
fn what_the_stream_does_not_take_is_asked_of_its_host() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(mut fleet) = Fleet::hub(&[Setting::alone(Version::Current)])? else { return Ok(()) };
    let full = r#"{"name":"PORTCULLIS","subjects":["portcullis.changes.*"],"retention":"limits","storage":"file",
        "num_replicas":1,"max_msgs":1,"discard":"new"}"#;
    let made = fleet.nats[0].api("STREAM.CREATE.PORTCULLIS", &full.replace('\n', ""))?;
    assert!(made["error"].is_null(), "{made}");
    fleet.add("")?;
    fleet.add("")?;
    fleet.settle()?;
    for _ in 0..3 {
        share(&fleet)?;
    }
    let told =
        fleet.hosts[0].await_fleet(|f| f["error"].as_str().is_some_and(|e| e.contains("not stored")))?;
    assert!(told["server"].is_string(), "the connection stands: {told}");
    Ok(())
}

#[test]
fn keys_of_nats_sign_in() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    // A key that was made for this test: the seed and its public key, as `nsc generate nkey --user` prints them.
    let (seed, public) = portcullis_tests::nats::user_key();
    let more = format!("authorization {{ users: [{{ nkey: {public} }}] }}\n");
    let setting = Setting { more, ..Setting::alone(Version::Current) };
    let Some(mut fleet) = Fleet::hub(&[setting])? else { return Ok(()) };
    let file = fleet.dir.write("seed", &format!("{seed}\n"))?;
    for _ in 0..2 {
        fleet.add(&format!("nkey_file = \"{}\"", file.display()))?;
    }
    fleet.settle()?;
    share(&fleet)
}

#[test]
fn over_tls_both_sides_show_who_they_are() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(mut fleet) = Fleet::hub(&[])? else { return Ok(()) };
    let pki = Pki(&fleet.dir);
    pki.authority("ca")?;
    pki.authority("other")?;
    for (name, authority) in [("server", "ca"), ("host", "ca"), ("stranger", "other")] {
        pki.certificate_for(name, authority, "IP:10.78.0.1,IP:10.78.1.1,IP:10.78.2.1")?;
    }
    let path = |name: &str| fleet.dir.path(name).display().to_string();
    let more = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}\n",
        path("server.pem"),
        path("server.key"),
        path("ca.pem")
    );
    let setting = Setting { more, ..Setting::alone(Version::Current) };
    let Some(server) = Nats::start(fleet.hub_namespace(), &fleet.dir.path(""), &setting)? else {
        return Ok(());
    };
    let table = |ca: &str, who: &str| {
        format!(
            "ca_file = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"",
            path(&format!("{ca}.pem")),
            path(&format!("{who}.pem")),
            path(&format!("{who}.key"))
        )
    };
    let (good, stranger, gullible) = (table("ca", "host"), table("ca", "stranger"), table("other", "host"));
    fleet.nats.push(server);
    fleet.add(&good)?;
    fleet.add(&good)?;
    fleet.settle()?;
    share(&fleet)?;
    // A certificate of another authority is not let in, and a server of another authority is not believed.
    let outside = fleet.add(&stranger)?;
    outside.await_fleet(|f| f["error"].as_str().is_some_and(|e| !e.contains("not connected yet")))?;
    assert!(outside.fleet()?["server"].is_null());
    drop(fleet.hosts.pop());
    let outside = fleet.add(&gullible)?;
    let told = outside.await_fleet(|f| f["error"].as_str().is_some_and(|e| e.contains("ertificate")))?;
    assert!(told["server"].is_null(), "{told}");
    Ok(())
}

#[test]
fn under_another_fingerprint_key_selectors_are_obeyed_and_tokens_are_counted() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(mut fleet) = Fleet::of(1, &[Setting::alone(Version::Current)])? else { return Ok(()) };
    fleet.add_with("", |_, dir| Ok(fs::remove_file(dir.path("fingerprint.key"))?))?;
    fleet.settle()?;
    let [a, b] = &fleet.hosts[..] else { unreachable!("two hosts") };
    let token = fleet.mint.hs256()?;
    let late = a.daemon.ask(&["revoke", "--wait", "all", "--wait-timeout", "1s"], &token)?;
    assert_eq!(late.code, 6, "{late:?}");
    assert!(late.stdout.contains("host1: it has another fingerprint key"), "{late:?}");
    b.await_fleet(|f| f["counts"]["other_key"] == 1 && f["other_keys"] == 1)?;
    assert!(!b.refuses(&token)?);
    assert!(b.daemon.ask(&["fleet"], "")?.ok()?.contains("OTHER KEY"));
    a.daemon.ask(&["revoke", "--everything"], "")?.ok()?;
    b.await_fleet(|_| b.daemon.auth("GET", "/v1/orders", &token).is_ok_and(|a| a.status == 401))?;
    Ok(())
}
