//! The admin API over TLS: who may, who may not, and whether it is what its OpenAPI document says.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use portcullis_tests::{
    World,
    config::ISSUER,
    dir::{copy, repository},
    gateway, has, is_root,
    pki::Pki,
    process::{Finished, Process, run},
    tokens::claim,
};
use serde_json::Value;

const AT: &str = "https://127.0.0.1:8445";

/// Operators may do all, with certificate or token; a token that reads orders may list, and no more.
const RULES: &str = r#"package admin

import rego.v1

default allow := false

allow if input.certificate.sha256 == data.operators.certificate

allow if {
	input.identity.iss == data.operators.issuer
	"admin" in input.identity.scopes
}

allow if {
	"orders:read" in input.identity.scopes
	input.request.method == "GET"
	input.request.path == ["v1", "revocations"]
}
"#;

/// How schemathesis writes lines of JSON.
const HOOKS: &str = r#"
import json
import schemathesis

ORDERS = [{"fingerprint": "%032x" % 7, "ttl": "1h"}, {"selector": {"role": "r"}}, {"fingerprint": 7}]

@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    text = value if isinstance(value, str) else json.dumps(value)
    order = json.dumps(ORDERS[len(text) % 3])
    return (order + "\n" + text).encode("utf-8", "surrogatepass")
"#;

fn world() -> Result<World> {
    World::with(|config, dir| {
        let pki = Pki(dir);
        pki.authority("ca")?;
        pki.authority("stranger")?;
        pki.certificate("server", "ca")?;
        pki.certificate("operator", "ca")?;
        pki.certificate("other", "ca")?;
        pki.certificate("impostor", "stranger")?;
        let policies = dir.path("policies");
        copy(&repository().join("policies"), &policies)?;
        fs::create_dir_all(policies.join("admin"))?;
        fs::create_dir_all(policies.join("operators"))?;
        fs::write(policies.join("admin/admin.rego"), RULES)?;
        let operators = serde_json::json!({"certificate": pki.fingerprint("operator")?, "issuer": ISSUER});
        fs::write(policies.join("operators/data.json"), operators.to_string())?;
        config.policies = policies;
        let path = |name: &str| dir.path(name).display().to_string();
        let (certificate, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
        let tables = |port: u16, more: &str| {
            format!(
                "[[admin.tls]]\nlisten = [\"127.0.0.1:{port}\"]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n{more}"
            )
        };
        let mutual = tables(8446, &format!("client_ca = \"{ca}\"\n"));
        config.admin = format!("decision = \"admin/allow\"\n{}{mutual}", tables(8445, ""));
        Ok(())
    })
}

/// curl's answer: the body, and the status in its last line.
fn ask(w: &World, url: &str, headers: &str, more: &[&str]) -> Result<Finished> {
    let mut command = Command::new("curl");
    command.args(["-q", "-sS", "--max-time", "30", "-w", "\n%{http_code}", "-H", "@-", "--cacert"]);
    command.arg(w.dir.path("ca.pem")).args(more).arg(url);
    run(&w.net.server, &mut command, headers.as_bytes())
}

fn status(finished: &Finished) -> &str {
    finished.stdout.lines().last().unwrap_or_default()
}

#[test]
fn certificates_and_tokens_get_where_the_policy_lets_them_and_nobody_else_anywhere() -> Result<()> {
    if !is_root() || !has("curl") || !has("openssl") {
        return Ok(());
    }
    let w = world()?;
    let (admin, reader, old) = (w.mint.aged(0, "admin")?, w.mint.hs256()?, w.mint.expired("admin")?);
    let victim = w.mint.hs256()?;
    let bearer = |token: &str| format!("Authorization: Bearer {token}\n");
    let list = format!("{AT}/v1/revocations");
    let body = serde_json::json!({"token": victim, "ttl": "1h"}).to_string();
    let revoke = ["-X", "POST", "-d", &body];
    // Nobody, somebody else, a token that is over, one that was tampered with, two at once.
    for (headers, wanted) in [
        (String::new(), "401"),
        ("Authorization: Basic YTpi\n".to_owned(), "401"),
        (bearer(&old), "401"),
        (bearer(&portcullis_tests::tokens::forged(&admin)?), "401"),
        (format!("{}{}", bearer(&admin), bearer(&admin)), "401"),
        (bearer(&reader), "403"),
    ] {
        let got = ask(&w, &list, &headers, &revoke)?;
        assert_eq!(status(&got), wanted, "{headers}: {got:?}");
        assert!(!got.stdout.contains(&victim));
    }
    w.assert_passes(&victim);
    assert_eq!(status(&ask(&w, &list, &bearer(&reader), &[])?), "200", "it may list");
    assert_eq!(status(&ask(&w, &format!("{AT}/v1/status"), &bearer(&reader), &[])?), "403", "and no more");
    // Certificates: the operator's, another's of the same authority, a stranger's, none.
    let mutual = "https://127.0.0.1:8446/v1/revocations";
    let file = |name: &str| w.dir.path(name).display().to_string();
    for (who, wanted) in [("other", "403"), ("operator", "201")] {
        let (cert, key) = (file(&format!("{who}.pem")), file(&format!("{who}.key")));
        let got = ask(&w, mutual, "", &[&["--cert", &cert, "--key", &key][..], &revoke].concat())?;
        assert_eq!(status(&got), wanted, "{who}: {got:?}");
    }
    w.assert_refused(&victim);
    for more in [&["--cert", &file("impostor.pem"), "--key", &file("impostor.key")][..], &[]] {
        let got = ask(&w, mutual, &bearer(&admin), more)?;
        assert!(got.code != 0, "no handshake: {got:?}");
    }
    let listed = w.daemon.json(&["revocations"], "")?;
    let actor = listed[0]["actor"].as_str().context("an actor")?;
    assert!(actor.starts_with("certificate:") && actor.ends_with("@127.0.0.1"), "{actor}");
    // A token that is revoked has lost what it could do, in the kernel's time.
    let second = w.mint.hs256()?;
    let body = serde_json::json!({"token": second, "actor": "pager"}).to_string();
    assert_eq!(status(&ask(&w, &list, &bearer(&admin), &["-X", "POST", "-d", &body])?), "201");
    let listed = w.daemon.json(&["revocations"], "")?;
    let sub = claim(&admin, "sub")?;
    assert_eq!(listed[1]["actor"], format!("pager (sub:{sub} iss:{ISSUER}@127.0.0.1)"));
    // Who takes an order over signs it too, and cannot sign for another.
    let forged =
        serde_json::json!({"token": w.mint.hs256()?, "source": "import", "actor": "uid:0"}).to_string();
    assert_eq!(status(&ask(&w, &list, &bearer(&admin), &["-X", "POST", "-d", &forged])?), "201");
    let listed = w.daemon.json(&["revocations"], "")?;
    assert_eq!(listed[2]["actor"], format!("uid:0 (imported by sub:{sub} iss:{ISSUER}@127.0.0.1)"));
    w.daemon.revoke(&admin)?;
    assert_eq!(status(&ask(&w, &list, &bearer(&admin), &[])?), "401");
    Ok(())
}

/// curl at a stream, told by its standard error to be open.
fn follow(w: &World, token: &str, more: &[&str]) -> Result<Process> {
    let header = w.dir.write("bearer", &format!("Authorization: Bearer {token}\n"))?;
    let mut command = Command::new("curl");
    command.args(["-q", "-sSNv", "--max-time", "120", "--cacert"]).arg(w.dir.path("ca.pem"));
    command.arg("-H").arg(format!("@{}", header.display())).args(more);
    let process = Process::start(&w.net.server, &mut command)?;
    process.await_line(0, |line| line.starts_with("< HTTP/") && line.contains("200"))?;
    Ok(process)
}

#[test]
fn a_stream_ends_with_its_callers_token() -> Result<()> {
    if !is_root() || !has("curl") || !has("openssl") {
        return Ok(());
    }
    let w = world()?;
    let watch = format!("{AT}/v1/revocations/watch");
    let cut = |process: &Process| {
        let lines = process.lines();
        let said = |line: &String| line.starts_with("curl: (92)") || line.starts_with("curl: (18)");
        assert!(lines.iter().any(said), "cut off, so that it does not look whole: {lines:#?}");
    };
    // Over by itself: nothing comes that would make anybody look.
    for http in ["--http2", "--http1.1"] {
        let process = follow(&w, &w.mint.lasting(4, "admin")?, &[http, &watch])?;
        assert!(process.await_lines(|_| false) && process.has_ended(), "{http}: {:#?}", process.lines());
        cut(&process);
    }
    // Revoked while it is open, by itself and by a selector.
    for by_selector in [false, true] {
        let token = w.mint.aged(0, "admin")?;
        let process = follow(&w, &token, &["--http2", &watch])?;
        if by_selector {
            let sub = claim(&token, "sub")?;
            w.daemon.json(&["revoke", "--issuer", ISSUER, "--sub", &sub, "--ttl", "1h"], "")?;
        } else {
            w.daemon.revoke(&token)?;
        }
        assert!(process.await_lines(|_| false) && process.has_ended(), "{:#?}", process.lines());
        cut(&process);
    }
    // What is not over goes on.
    let process = follow(&w, &w.mint.aged(0, "admin")?, &["--http2", &watch])?;
    w.daemon.revoke(&w.mint.hs256()?)?;
    assert!(!process.has_ended());
    Ok(())
}

#[test]
fn the_api_is_what_its_openapi_document_says() -> Result<()> {
    let Some(schemathesis) = gateway::python("schemathesis") else { return Ok(()) };
    if !is_root() || !has("openssl") {
        return Ok(());
    }
    let w = world()?;
    let admin = w.mint.aged(0, "admin")?;
    let document =
        ask(&w, &format!("{AT}/v1/openapi.json"), &format!("Authorization: Bearer {admin}\n"), &[])?;
    let text = document.stdout.rsplit_once('\n').context("a status")?.0;
    let parsed: Value = serde_json::from_str(text)?;
    assert_eq!(parsed["openapi"], "3.1.0");
    let file = w.dir.write("openapi.json", text)?;
    // Lines of JSON are a text to it; most are no orders, and some are.
    let hooks = w.dir.write("hooks.py", HOOKS)?;
    // What never ends, or would end the test's own way in, is asked elsewhere.
    let mut command = Command::new(schemathesis);
    command
        .args(["run", "--url", AT, "--tls-verify"])
        .arg(w.dir.path("ca.pem"))
        .args(["-H", &format!("Authorization: Bearer {admin}")])
        // A head that is none ends its connection, and the next request would find it closed.
        .args(["-H", "Connection: close"])
        .args([
            "--exclude-path-regex",
            "/v1/(events|revocations/watch|openapi.json|policy/(promote|rollback))",
        ])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        .args(["--max-examples", "25", "--seed", "7", "--workers", "1", "--no-color"])
        .args(["--request-timeout", "20", "--generation-database", "none"])
        .arg(file)
        .env("SCHEMATHESIS_HOOKS", hooks.file_name().context("a name")?)
        .current_dir(w.dir.path(""));
    let mut finished = run(&w.net.server, &mut command, b"")?;
    // A connection that the server had just given up, after a head that was none, is no fault of the API's.
    if finished.code != 0
        && finished.stdout.contains("Network Error")
        && !finished.stdout.contains("Failures:")
    {
        finished = run(&w.net.server, &mut command, b"")?;
    }
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    assert_eq!(w.daemon.status()?["ready"], true);
    Ok(())
}
