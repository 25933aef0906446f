//! The kernel as a front door: in learn and hold mode it asks about requests that it has no verdict on.
//!
//! A question is the request's head as it came. It is read strictly: whatever parsers might read differently is
//! denied, and the kernel refuses most of that by itself. The answer goes into the kernel's map of verdicts.

use std::{net::IpAddr, sync::Arc, time::Instant};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zeroize::Zeroizing;

use super::doors::{DoorSettings, Doors};
use crate::{
    decide::{self, Asked, Path},
    kernel::{Question, Questions},
    telemetry::Door,
    token::{Evidence, Once},
};

/// Most header lines of a head.
const HEADERS: usize = 128;
/// Questions that are decided at once; more wait, and their requests with them.
const AT_ONCE: usize = 256;

/// Answers the kernel's questions until `stop`. `held` tells whether requests wait for the answer; `address` turns the
/// kernel's form of an address into one.
pub async fn answer_kernel(
    doors: Arc<Doors>,
    mut questions: Questions,
    held: impl Fn() -> bool + Send,
    address: fn([u64; 2]) -> IpAddr,
    stop: CancellationToken,
) {
    let (tasks, permits) = (TaskTracker::new(), Arc::new(Semaphore::new(AT_ONCE)));
    loop {
        let mut asked = Vec::new();
        tokio::select! {
            () = stop.cancelled() => break,
            read = questions.next(|q| asked.push(q)) => if let Err(e) = read {
                tracing::error!(error = %e, "the kernel's questions cannot be read any more: requests without a verdict get none");
                break;
            }
        }
        for question in asked {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
            let (doors, held) = (Arc::clone(&doors), held());
            tasks.spawn(async move {
                doors.question(question, held, address).await;
                drop(permit);
            });
        }
    }
    tasks.close();
    tasks.wait().await;
}

impl Doors {
    async fn question(&self, question: Question, held: bool, address: fn([u64; 2]) -> IpAddr) {
        let start = Instant::now();
        let source = address(question.flow.source).to_string();
        let asked = Asked { key: question.key, held };
        let mut lines = [httparse::EMPTY_HEADER; HEADERS];
        let reason = match read(&question.head, &mut lines, &self.settings, &source) {
            Ok((request, headers)) => {
                let credential =
                    self.settings.extraction.from_headers(headers.iter().map(|h| (h.name, h.value)));
                self.decider.settle(asked, Some(&request), credential).await
            }
            Err(Malformed) => self.decider.settle(asked, None, Ok(None)).await,
        };
        self.metrics.decision(Door::Wire, reason, start.elapsed());
    }
}

#[derive(Debug)]
struct Malformed;

type Head<'a, 'b> = (decide::Request<'a>, &'b [httparse::Header<'a>]);

/// Reads a request's head.
fn read<'a, 'b>(
    head: &'a Zeroizing<Vec<u8>>,
    lines: &'b mut [httparse::Header<'a>; HEADERS],
    settings: &'a DoorSettings,
    source: &'a str,
) -> Result<Head<'a, 'b>, Malformed> {
    let mut parsed = httparse::Request::new(lines);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(n)) if n == head.len() => {}
        _ => return Err(Malformed),
    }
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return Err(Malformed) };
    let headers: &'b [httparse::Header<'a>] = parsed.headers;
    let host = one(headers, "host")?.unwrap_or_default();
    let (host, target) = match authority(target) {
        Some((authority, rest)) => (authority, rest),
        None => (host, target),
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut read = Vec::with_capacity(settings.headers.len());
    for name in &settings.headers {
        if let Some(value) = one(headers, name)? {
            read.push((name.as_str(), value));
        }
    }
    let path = Path::new(path).map_err(|_| Malformed)?;
    let once = |name: &str| match one(headers, name) {
        Ok(None) => Once::None,
        Ok(Some(value)) => Once::One(value),
        Err(Malformed) => Once::Bad,
    };
    // A certificate's header is a gateway's word, and this is the client's own.
    let evidence = Evidence { certificate: Once::None, ..settings.evidence(once) };
    Ok((
        decide::Request { method, path, query, host, headers: read, source, foreign: None, evidence },
        headers,
    ))
}

/// Authority and rest of a target in absolute form (RFC 9112 §3.2.2), whose authority counts and not `Host`.
fn authority(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    Some(rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())))
}

/// The value of the one header of this name; two are malformed, as are bytes that are no text.
fn one<'a>(headers: &[httparse::Header<'a>], name: &str) -> Result<Option<&'a str>, Malformed> {
    let mut values = headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name));
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Malformed);
    }
    str::from_utf8(value.value).map(Some).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(head: &str) -> Result<(String, String, String, String), Malformed> {
        let head = Zeroizing::new(head.as_bytes().to_vec());
        let mut lines = [httparse::EMPTY_HEADER; HEADERS];
        let settings = DoorSettings { headers: vec!["x-tenant".to_owned()], ..DoorSettings::default() };
        let (r, _) = read(&head, &mut lines, &settings, "192.0.2.1")?;
        let tenant = r.headers.first().map_or("", |(_, v)| v);
        Ok((r.method.into(), format!("{}|{}", r.path.as_str(), r.query), r.host.into(), tenant.into()))
    }

    #[test]
    fn a_head_is_read_as_the_server_reads_it() {
        let got = of("POST /v1/orders?a=b HTTP/1.1\r\nHost: api.example\r\nX-Tenant: acme\r\n\r\n").unwrap();
        assert_eq!(got, ("POST".into(), "/v1/orders|a=b".into(), "api.example".into(), "acme".into()));
        let got = of("GET http://one.example/x HTTP/1.1\r\nHost: two.example\r\n\r\n").unwrap();
        assert_eq!((got.1.as_str(), got.2.as_str()), ("/x|", "one.example"));
    }

    #[test]
    fn what_could_be_read_otherwise_is_malformed() {
        for bad in [
            "GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET /a HTTP/1.1\r\nX-Tenant: a\r\nX-Tenant: b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET",
            "GET /a HTTP/1.1\r\nHost: a\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
