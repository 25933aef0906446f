//! Spans reach a collector, in the gateway's own trace.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result};
use portcullis_tests::{PATIENCE, World, client::http, config::DOORS, is_root, net::Namespace};
use serde_json::Value;

/// A collector: what is posted to it, and to which path.
fn collector(ns: &Namespace) -> Result<(SocketAddr, mpsc::Receiver<(String, Value)>)> {
    let listener = ns.enter(|| Ok(TcpListener::bind("127.0.0.1:0")?))?;
    let address = listener.local_addr()?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            thread::spawn(move || take(stream, &sender).ok());
        }
    });
    Ok((address, receiver))
}

fn take(mut stream: TcpStream, sender: &mpsc::Sender<(String, Value)>) -> Result<()> {
    let mut bytes = Vec::new();
    loop {
        let mut part = [0; 4096];
        let n = stream.read(&mut part)?;
        if n == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&part[..n]);
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).context("a length")?;
        let length: usize = length.parse()?;
        if bytes.len() < end + 4 + length {
            continue;
        }
        let body = serde_json::from_slice(&bytes[end + 4..end + 4 + length])?;
        bytes.drain(..end + 4 + length);
        sender.send((head, body))?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")?;
    }
}

#[test]
fn a_decision_is_a_span_in_the_gateways_trace() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let (address, spans) = collector(&w.net.server)?;
    let mut config = w.config.clone();
    config.serve = format!("[trace]\nendpoint = \"http://{address}/v1/traces\"\nservice = \"gate\"");
    w.dir.write("portcullis.toml", &config.toml(&w.dir))?;
    w.daemon.stop()?;
    w.daemon.restart()?;
    let token = w.mint.hs256()?;
    let ask = |method: &str, traceparent: &str| -> Result<u16> {
        let head = format!(
            "GET /auth HTTP/1.1\r\nX-Original-Method: {method}\r\nX-Original-URI: /v1/orders\r\n{traceparent}\
             Authorization: Bearer {token}"
        );
        Ok(http(&w.net.server, DOORS.parse()?, &head, b"")?.status)
    };
    let trace = "0af7651916cd43dd8448eb211c80319c";
    assert_eq!(ask("GET", "")?, 200, "not in a trace, and none is begun");
    assert_eq!(ask("GET", &format!("traceparent: 00-{trace}-b7ad6b7169203331-00\r\n"))?, 200, "not sampled");
    assert_eq!(ask("GET", &format!("traceparent: 00-{trace}-b7ad6b7169203331-01\r\n"))?, 200);
    assert_eq!(ask("POST", &format!("traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n"))?, 403);
    let mut all = Vec::new();
    while all.len() < 2 {
        let (head, body) = spans.recv_timeout(PATIENCE)?;
        assert!(head.starts_with("post /v1/traces ") && head.contains("application/json"), "{head}");
        assert!(!body.to_string().contains(&token), "no token in it");
        let resource = &body["resourceSpans"][0];
        assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "gate", "{body}");
        all.extend(resource["scopeSpans"][0]["spans"].as_array().context("spans")?.clone());
    }
    assert_eq!(all.len(), 2, "{all:?}");
    for (span, (parent, decision, reason)) in all
        .iter()
        .zip([("b7ad6b7169203331", "allow", "allowed"), ("00f067aa0ba902b7", "deny", "policy_denied")])
    {
        assert_eq!((&span["traceId"], &span["parentSpanId"]), (&trace.into(), &parent.into()), "{span}");
        let attribute = |n: usize| span["attributes"][n]["value"]["stringValue"].as_str().unwrap_or_default();
        assert_eq!([attribute(0), attribute(1), attribute(2)], ["forward_auth", decision, reason], "{span}");
        let time = |name: &str| span[name].as_str().unwrap().parse::<u128>();
        assert!(time("startTimeUnixNano")? < time("endTimeUnixNano")?, "{span}");
    }
    // Counted once the collector has answered.
    let start = Instant::now();
    while !w.daemon.metrics()?.contains("portcullis_spans_total{result=\"sent\"} 2") {
        assert!(start.elapsed() < PATIENCE, "{}", w.daemon.metrics()?);
    }
    Ok(())
}
