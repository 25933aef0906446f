//! Orders by the admin API and the command line: who gave them, what is taken over from another store, what a refused one
//! was about, and who may give none.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use portcullis_tests::{
    World,
    config::ISSUER,
    daemon::binary,
    has, is_root,
    process::{Finished, run},
    tokens::{claim, forged},
    until,
};
use serde_json::{Value, json};

use super::plane::admin;

fn now() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// A line of the audit log that is `wanted`, when it is there.
fn audited(w: &World, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut found = None;
    until(|| {
        let shown = w.daemon.command(&["audit", "show", "--json"])?.ok()?;
        let lines = shown.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        found = lines.into_iter().find(|l| wanted(l));
        Ok(found.is_some())
    })?;
    found.context("the line")
}

fn claims(w: &World) -> Result<usize> {
    Ok(w.daemon.json(&["revocations"], "")?.as_array().map_or(0, Vec::len))
}

#[test]
fn who_takes_an_order_over_is_named_in_the_listing_and_the_audit_log() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.hs256()?;
    let body = json!({"token": token, "ttl": "1h", "source": "import", "actor": "ceo", "reason": "forged"});
    let (status, told) = admin(&w, "POST", "/v1/revocations", "", &body.to_string())?;
    assert_eq!(status, 201, "{told}");
    let signed = json!("ceo (imported by uid:0)");
    assert_eq!(w.daemon.json(&["revocations"], "")?[0]["actor"], signed);
    assert_eq!(audited(&w, |l| l["reason"] == "forged")?["actor"], signed);
    // A selector, and one of many; what was taken over before does not grow.
    let selector = json!({"iss": ISSUER, "sub": "nobody-at-all"});
    for (n, actor) in ["ceo (imported by root@other)", "ceo (imported by uid:0)"].into_iter().enumerate() {
        let line =
            json!({"selector": selector, "ttl": format!("{}h", n + 1), "source": "import", "actor": actor});
        let (_, told) = admin(&w, "POST", "/v1/revocations/batch", "", &line.to_string())?;
        assert!(told.contains(r#""accepted":1"#), "{told}");
    }
    let all = w.daemon.json(&["revocations", "--kind", "selector"], "")?;
    assert_eq!((&all[0]["actor"], &all[1]["actor"]), (&signed, &signed), "{all}");
    for (length, wanted) in [(1000, 201), (1001, 400)] {
        let long =
            json!({"token": token, "ttl": "1h", "source": "import", "actor": "x".repeat(length)}).to_string();
        assert_eq!(admin(&w, "POST", "/v1/revocations", "", &long)?.0, wanted, "{length}");
    }
    let last = w.daemon.json(&["revocations", "--kind", "token"], "")?[1]["actor"].clone();
    let last = last.as_str().context("an actor")?;
    assert!(last.len() == 1000 && last.ends_with("x (imported by uid:0)"), "{last}");
    Ok(())
}

#[test]
fn an_export_that_is_taken_over_twice_revokes_nothing_twice_and_a_lockdown_stays_one() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let tokens: Vec<String> = (0..3).map(|_| w.mint.hs256()).collect::<Result<_>>()?;
    for token in &tokens {
        w.daemon.ask(&["revoke", "--ttl", "1h", "--reason", "leak"], token)?.ok()?;
    }
    // The same twice over is two claims, and so is a selector with another time of issue.
    let until_then = now()? + 3_600_000;
    let same =
        json!({"fingerprint": format!("{:032x}", 77), "until": until_then, "reason": "twice"}).to_string();
    w.daemon.ask(&["revoke", "--many", "-"], &format!("{same}\n{same}\n"))?.ok()?;
    for before in [1, 2] {
        let line = json!({"selector": {"iss": "https://i", "issued_before": before}, "until": until_then});
        w.daemon.ask(&["revoke", "--many", "-"], &line.to_string())?.ok()?;
    }
    w.daemon.ask(&["lockdown", "--role", "contractor", "--reason", "drill"], "")?.ok()?;
    let export = w.daemon.ask(&["revocations", "export"], "")?.ok()?;
    assert_eq!(export.lines().count(), 8);
    let import = |w: &World| w.daemon.ask(&["revocations", "import"], &export)?.ok();
    // To where it came from.
    assert!(import(&w)?.contains("revoked: 0, refused: 0, there already: 8"));
    assert_eq!(claims(&w)?, 8);
    // To another store, and again, over a restart too.
    assert!(w.daemon.stop()?.success());
    fs::remove_dir_all(w.dir.path("revocations"))?;
    w.daemon.command(&["detach"])?.ok()?;
    w.daemon.restart()?;
    assert!(import(&w)?.contains("revoked: 8, refused: 0, there already: 0"));
    assert!(import(&w)?.contains("revoked: 0, refused: 0, there already: 8"));
    w.daemon.kill9()?;
    w.daemon.restart()?;
    assert!(import(&w)?.contains("revoked: 0, refused: 0, there already: 8"));
    assert_eq!(claims(&w)?, 8);
    // Its own export is the same claims, which differ in who took them over.
    let own = w.daemon.ask(&["revocations", "export"], "")?.ok()?;
    let told = w.daemon.ask(&["revocations", "import", "--json"], &own)?.ok()?;
    let told: Vec<Value> = told.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert!(told[..8].iter().all(|t| t["there"] == true && t["id"].is_u64()), "{told:?}");
    assert_eq!(told[8], json!({"done": true, "accepted": 0, "refused": 0, "there": 8}));
    // What was lifted since, and what is new, is revoked.
    let first = w.daemon.json(&["revocations", "--reason", "leak"], "")?[0]["id"].to_string();
    w.daemon.ask(&["unrevoke", &first], "")?.ok()?;
    let other =
        json!({"fingerprint": format!("{:032x}", 78), "until": until_then, "reason": "", "actor": "a"});
    let more = w.daemon.ask(&["revocations", "import"], &format!("{export}{other}\n"))?.ok()?;
    assert!(more.contains("revoked: 2, refused: 0, there already: 7"), "{more}");
    // An order that is no import is given as often as it is given.
    w.daemon.ask(&["revoke", "--many", "-"], &same)?.ok()?;
    assert_eq!(claims(&w)?, 10);
    // The lockdown is one, and is found as one that came over.
    for (source, count) in [("lockdown", 1), ("import", 9)] {
        let found = w.daemon.json(&["revocations", "--source", source], "")?;
        assert_eq!(found.as_array().map(Vec::len), Some(count), "{source}: {found}");
    }
    let unlocked = w.daemon.ask(&["unlock", "--all"], "")?.ok()?;
    assert!(unlocked.contains("unlocked: role=contractor"), "{unlocked}");
    for token in &tokens {
        w.assert_refused(token);
    }
    Ok(())
}

#[test]
fn a_line_that_is_no_text_is_refused_in_its_place_and_the_rest_goes_on() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (first, last) = (w.mint.hs256()?, w.mint.hs256()?);
    let mut lines = format!("{first}\n").into_bytes();
    lines.extend(b"\xff\xfe\x00 no text\r\n\n{no json\n");
    lines.extend(format!("{last}\n").as_bytes());
    let done = run(&w.net.server, &mut w.daemon.prepare(&["revoke", "--many", "-", "--ttl", "1h"])?, &lines)?;
    assert_eq!(done.code, 4, "{done:?}");
    assert!(done.stdout.contains("revoked: 2, refused: 2"), "{done:?}");
    assert!(done.stderr.contains("line 2: the line is no text in UTF-8"), "{done:?}");
    assert!(done.stderr.contains("line 4: the body is not JSON"), "{done:?}");
    w.assert_refused(&first);
    w.assert_refused(&last);
    // An import, and the API by itself.
    let done = run(&w.net.server, &mut w.daemon.prepare(&["revocations", "import"])?, b"\xff\n")?;
    assert!(done.code == 4 && done.stderr.contains("line 1: the line is no text"), "{done:?}");
    let f = |n: u8| format!("{{\"fingerprint\":\"{n:032x}\"}}");
    let body = [f(1).as_bytes(), b"{\"token\":\"\xe9\"}", f(2).as_bytes()].join(&b'\n');
    w.dir.write("body", "")?;
    fs::write(w.dir.path("body"), body)?;
    if has("curl") {
        let mut curl = Command::new("curl");
        curl.args(["-q", "-sS", "--max-time", "30", "--unix-socket"]).arg(w.dir.path("admin.sock"));
        curl.arg("--data-binary").arg(format!("@{}", w.dir.path("body").display()));
        curl.arg("http://localhost/v1/revocations/batch");
        let told = run(&w.net.server, &mut curl, b"")?.ok()?;
        let lines: Vec<Value> = told.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let of = |n: u64| lines.iter().find(|l| l["line"] == n).cloned().unwrap_or_default();
        assert!(of(1)["id"].is_u64() && of(3)["id"].is_u64(), "{told}");
        assert!(of(2)["message"].as_str().is_some_and(|m| m.contains("UTF-8")), "{told}");
    }
    Ok(())
}

#[test]
fn texts_that_a_terminal_would_obey_are_refused_in_selectors_as_in_reasons() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    for odd in ["a\u{1b}[2J", "a\u{7f}", "\u{85}", "a\u{2028}b", "\u{202e}b"] {
        for body in [
            json!({"selector": {"iss": ISSUER, "sub": odd}}),
            json!({"selector": {"role": "r"}, "reason": odd}),
            json!({"selector": {"role": "r"}, "ticket": odd}),
            json!({"selector": {"role": "r"}, "actor": odd}),
            json!({"selector": {"role": "r"}, "actor": odd, "source": "import"}),
        ] {
            let (status, told) = admin(&w, "POST", "/v1/revocations", "", &body.to_string())?;
            assert!(status == 400 && told.contains("printable"), "{body}: {status} {told}");
        }
    }
    assert_eq!(claims(&w)?, 0);
    // What was refused is a line of the audit log all the same, which a terminal can show.
    audited(&w, |l| l["action"] == "refused" && l["selector"]["sub"] == "a\\u{1b}[2J")?;
    let shown = w.daemon.command(&["audit", "show"])?.ok()?;
    assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    Ok(())
}

#[test]
fn a_preview_of_one_token_says_whether_it_was_seen_lately() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (seen, unseen) = (w.mint.hs256()?, w.mint.hs256()?);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &seen)?.status, 200);
    let dry = |args: &[&str], token: &str| w.daemon.json(&[&["revoke", "--dry-run"], args].concat(), token);
    assert_eq!(dry(&[], &seen)?["live"], 1);
    assert_eq!(dry(&[], &forged(&seen)?)?["live"], 1, "in another text");
    let f = w.daemon.json(&["fingerprint"], &seen)?["fingerprint"].as_str().context("one")?.to_owned();
    assert_eq!(dry(&["--fingerprint", &f], "")?["live"], 1);
    for (args, token) in
        [(&[][..], &*unseen), (&[], "garbage"), (&["--fingerprint", "0123456789abcdef0123456789abcdef"], "")]
    {
        let told = dry(args, token)?;
        assert!(told["live"].is_null() && told["dry_run"] == true, "{args:?} {told}");
    }
    let people = |token: &str| w.daemon.ask(&["revoke", "--dry-run"], token)?.ok();
    assert!(people(&seen)?.contains("this token, which was seen lately"));
    assert!(people(&unseen)?.contains("this token, which was not seen lately"));
    w.assert_passes(&seen);
    w.assert_passes(&unseen);
    assert_eq!(claims(&w)?, 0);
    Ok(())
}

#[test]
fn the_audit_line_of_a_refused_order_says_what_it_was_about_and_has_no_token() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.hs256()?;
    let f = w.daemon.json(&["fingerprint"], &token)?["fingerprint"].clone();
    let long = "ö".repeat(400);
    for body in [
        json!({"token": token, "ttl": "soon", "reason": "of a token", "ticket": "INC-1"}),
        json!({"fingerprint": f, "ttl": "soon", "reason": "of a name"}),
        json!({"selector": {"iss": ISSUER, "sub": long}, "ttl": "soon", "reason": "by selector"}),
        // In the wrong place.
        json!({"fingerprint": token, "reason": "misplaced"}),
        json!({"token": format!("{token} {token}"), "reason": "two"}),
    ] {
        assert_eq!(admin(&w, "POST", "/v1/revocations", "", &body.to_string())?.0, 400, "{body}");
    }
    let of = |reason: &str| audited(&w, |l| l["action"] == "refused" && l["reason"] == reason);
    let line = of("of a token")?;
    assert_eq!(
        (&line["fingerprint"], &line["ticket"], &line["code"]),
        (&f, &"INC-1".into(), &"bad_request".into())
    );
    assert_eq!(line["actor"], "uid:0", "{line}");
    assert_eq!(of("of a name")?["fingerprint"], f);
    let line = of("by selector")?;
    assert_eq!(line["selector"], json!({"iss": ISSUER, "sub": "ö".repeat(100)}), "{line}");
    for reason in ["misplaced", "two"] {
        assert!(of(reason)?.get("fingerprint").is_none());
    }
    let shown = w.daemon.command(&["audit", "show", "--json"])?.ok()?;
    assert!(token.split('.').skip(1).all(|part| !shown.contains(part)), "no token is in it");
    Ok(())
}

#[test]
fn an_order_until_its_tokens_own_end_holds_until_then_and_its_leeway() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.lasting(3000, "orders:read")?;
    let exp: i64 = claim(&token, "exp")?.parse()?;
    let end = (exp + 30) * 1000;
    let dry = w.daemon.json(&["revoke", "--until-expiry", "--dry-run"], &token)?;
    assert_eq!(dry["until"], end, "{dry}");
    let told = w.daemon.json(&["revoke", "--until-expiry"], &token)?;
    assert_eq!(told["until"], end, "{told}");
    w.assert_refused(&token);
    // Of many: each its own, where it does not say another one.
    let (other, fixed) = (w.mint.lasting(2000, "a")?, w.mint.lasting(2000, "a")?);
    let lines = format!("{other}\n{}\nopaque-token\n", json!({"token": fixed, "until": end - 5000}));
    let many = w.daemon.ask(&["revoke", "--many", "-", "--until-expiry", "--json"], &lines)?;
    assert!(many.code == 4 && many.stdout.contains(r#""line":3"#), "{many:?}");
    let listed = w.daemon.json(&["revocations", "--after", &told["id"].to_string()], "")?;
    let exp: i64 = claim(&other, "exp")?.parse()?;
    assert_eq!(
        (&listed[0]["until"], &listed[1]["until"]),
        (&((exp + 30) * 1000).into(), &(end - 5000).into())
    );
    // A signature is no part of what is refused: what a text says is what every accepted text of it says.
    let forged = forged(&w.mint.lasting(1000, "a")?)?;
    assert!(w.daemon.json(&["revoke", "--until-expiry"], &forged)?["until"].is_i64());
    for (body, said) in [
        (json!({"token": "opaque-token", "until_expiry": true}), "no end of its own"),
        (json!({"token": w.mint.expired("a")?, "until_expiry": true}), "its end is over"),
        (json!({"token": token, "until_expiry": true, "ttl": "1h"}), "give one of"),
        (json!({"fingerprint": format!("{:032x}", 9), "until_expiry": true}), "goes with a `token`"),
        (json!({"selector": {"role": "r"}, "until_expiry": true}), "goes with a `token`"),
    ] {
        let (status, told) = admin(&w, "POST", "/v1/revocations", "", &body.to_string())?;
        assert!(status == 400 && told.contains(said), "{said}: {status} {told}");
    }
    let both = w.daemon.ask(&["revoke", "--until-expiry", "--ttl", "1h"], &token)?;
    assert_eq!(both.code, 2, "{both:?}");
    Ok(())
}

#[test]
fn the_api_knows_every_level_that_the_command_line_knows() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let body = json!({"token": w.mint.hs256()?}).to_string();
    for (path, code) in [("wait=all", "no_fleet"), ("wait=applied", "no_fleet"), ("wait=none", "bad_request")]
    {
        for of in ["/v1/revocations", "/v1/revocations/batch"] {
            let (status, told) = admin(&w, "POST", &format!("{of}?{path}"), "", &body)?;
            assert!(status == 400 && told.contains(code), "{of} {path}: {status} {told}");
        }
        let (_, told) = admin(&w, "DELETE", &format!("/v1/revocations/1?{path}"), "", "")?;
        assert!(told.contains(code), "{told}");
    }
    Ok(())
}

/// As a user of the host who may do nothing.
fn as_nobody(w: &World, command: &Command) -> Result<Finished> {
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
    setpriv.arg(command.get_program()).args(command.get_args());
    run(&w.net.server, &mut setpriv, b"some-token")
}

#[test]
fn another_user_of_the_host_gets_nowhere() -> Result<()> {
    if !is_root() || !has("setpriv") {
        return Ok(());
    }
    let w = World::make()?;
    // Each thing is to keep itself: the directory above it, which nobody may enter, is opened, and the configuration and
    // the binary are what anybody may read.
    let mode =
        |path: &str, mode: u32| fs::set_permissions(w.dir.path(path), fs::Permissions::from_mode(mode));
    mode("", 0o755)?;
    mode("portcullis.toml", 0o644)?;
    fs::copy(binary()?, w.dir.path("portcullis"))?;
    mode("portcullis", 0o755)?;
    let (token, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    let id = w.daemon.revoke(&revoked)?;
    let f = w.daemon.json(&["fingerprint"], &token)?["fingerprint"].as_str().context("one")?.to_owned();
    let (socket, config) = (w.dir.path("admin.sock"), w.dir.path("portcullis.toml"));
    let before = w.daemon.command(&["audit", "show", "--json"])?.ok()?;
    let portcullis = |args: &[&str], at: (&str, &std::path::Path)| -> Result<Finished> {
        let mut command = Command::new(w.dir.path("portcullis"));
        command.args(args).arg(at.0).arg(at.1);
        as_nobody(&w, &command)
    };
    // It runs at all.
    assert!(
        as_nobody(&w, Command::new(w.dir.path("portcullis")).arg("--version"))?.ok()?.contains("portcullis")
    );
    let refused = |said: Finished, what: &str, code: i32| {
        assert_eq!(said.code, code, "{what}: {said:?}");
        assert!(
            said.stderr.contains("Permission denied") || said.stderr.contains("permission"),
            "{what}: {said:?}"
        );
        assert!(!said.stderr.contains("panicked") && said.stdout.is_empty(), "{what}: {said:?}");
        said.stderr
    };
    for args in [
        &["revoke"][..],
        &["revoke", "--fingerprint", &f],
        &["revoke", "--many", "-"],
        &["revoke", "--everything"],
        &["unrevoke", &id],
        &["lockdown", "--all"],
        &["unlock", "--all"],
        &["status"],
        &["revocations"],
        &["revocations", "export"],
        &["revocations", "import"],
        &["fingerprint"],
        &["events"],
    ] {
        let said = refused(portcullis(args, ("--socket", &socket))?, &args.join(" "), 3);
        assert!(said.contains("admin.sock"), "it says what could not be reached: {said}");
    }
    for args in [
        &["audit", "verify"][..],
        &["audit", "show"],
        &["revocations", "backup", "/tmp/portcullis-of-nobody"],
        &["run"],
        &["detach"],
    ] {
        refused(portcullis(args, ("--config", &config))?, &args.join(" "), 1);
    }
    // The files themselves.
    let pins = w.dir.path("bpf/portcullis");
    let log = fs::read_dir(w.dir.path("revocations"))?.next().context("a file of the store")??.path();
    for (tool, path) in [
        ("cat", w.dir.path("fingerprint.key")),
        ("ls", w.dir.path("revocations")),
        ("cat", log),
        ("cat", socket.clone()),
        ("ls", pins),
    ] {
        let said = as_nobody(&w, Command::new(tool).arg(&path))?;
        ensure!(said.code != 0 && said.stdout.is_empty(), "{tool} {}: {said:?}", path.display());
    }
    for path in [&socket, &w.dir.path("revocations/log-0000000000000001"), &w.dir.path("fingerprint.key")] {
        let said = as_nobody(&w, Command::new("rm").arg("-f").arg(path))?;
        ensure!(said.code != 0 && path.exists(), "{}: {said:?}", path.display());
    }
    assert!(!std::path::Path::new("/tmp/portcullis-of-nobody").exists());
    // Nothing came of any of it.
    w.assert_passes(&token);
    w.assert_refused(&revoked);
    assert_eq!(w.daemon.command(&["audit", "show", "--json"])?.ok()?, before);
    assert_eq!(claims(&w)?, 1);
    mode("", 0o700)?;
    Ok(())
}
