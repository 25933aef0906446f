//! Load on `ext_authz` by gRPC: a few connections on one thread, each asking one check after the other, every answer compared.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::{daemon::Daemon, load::Run};

/// Connections at once, as for the other front doors.
const CONNECTIONS: usize = 16;

/// Runs `checks` (framed messages) in turn against the daemon; the median of several runs.
pub fn median(daemon: &Daemon, checks: &[Bytes], core: usize, runs: usize, seconds: u32) -> Result<Run> {
    run(daemon, checks, core, 1)?;
    let mut done = (0..runs).map(|_| run(daemon, checks, core, seconds)).collect::<Result<Vec<_>>>()?;
    done.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    done.get(done.len() / 2).copied().context("no run was made")
}

fn run(daemon: &Daemon, checks: &[Bytes], core: usize, seconds: u32) -> Result<Run> {
    let (address, checks) = (daemon.doors, checks.to_vec());
    let before = daemon.cpu()?;
    // A thread of its own, so that the process is not left on one core.
    let load = std::thread::spawn(move || -> Result<(Vec<Duration>, Duration)> {
        let mut cores = CpuSet::new();
        cores.set(core)?;
        sched_setaffinity(Pid::from_raw(0), &cores)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(all(address, checks, Duration::from_secs(seconds.into())))
    });
    let (mut times, took) = load.join().ok().context("the load ended badly")??;
    let used = daemon.cpu()? - before;
    ensure!(!times.is_empty(), "no check was answered");
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).map_or(0.0, |t| t.as_secs_f64() * 1e3);
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let count = times.len() as f64;
    Ok(Run {
        rate: count / took.as_secs_f64(),
        cpu: used / count * 1e6,
        busy: used / took.as_secs_f64(),
        p50: at(50),
        p99: at(99),
    })
}

async fn all(address: SocketAddr, checks: Vec<Bytes>, time: Duration) -> Result<(Vec<Duration>, Duration)> {
    let start = Instant::now();
    let clients = (0..CONNECTIONS).map(|n| {
        // Each begins elsewhere in the list.
        let mut own = checks.clone();
        own.rotate_left(n * checks.len() / CONNECTIONS);
        tokio::spawn(one(address, own, start + time))
    });
    let mut times = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        times.extend(client.await??);
    }
    Ok((times, start.elapsed()))
}

async fn one(address: SocketAddr, checks: Vec<Bytes>, until: Instant) -> Result<Vec<Duration>> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (mut times, mut checks) = (Vec::new(), checks.iter().cycle());
    while Instant::now() < until {
        let check = checks.next().context("no checks")?.clone();
        let request = Request::post(format!("http://{address}/envoy.service.auth.v3.Authorization/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(check))?;
        let begun = Instant::now();
        sender.ready().await?;
        let answer = sender.send_request(request).await?.into_body().collect().await?;
        let status = answer.trailers().and_then(|t| t.get("grpc-status")).map(|v| v.as_bytes().to_vec());
        let message = answer.to_bytes();
        times.push(begun.elapsed());
        if status.as_deref() != Some(b"0") || !is_allow(&message) {
            bail!("not an allow: {:?}", String::from_utf8_lossy(&message));
        }
    }
    Ok(times)
}

/// Whether a framed `CheckResponse` begins with a status without a code, and says that it was allowed.
fn is_allow(message: &[u8]) -> bool {
    let allowed = b"portcullis_reason\x12\x09\x1a\x07allowed";
    message.get(5..7) == Some(&[0x0a, 0]) && message.windows(allowed.len()).any(|w| w == allowed)
}

/// A framed `CheckRequest`, with the headers that Envoy sends for a request of curl's.
pub fn check(method: &str, path: &str, token: &str) -> Bytes {
    let mut http = field(2, method.as_bytes());
    for (name, value) in [
        (":authority", "api.example.org"),
        (":method", method),
        (":path", path),
        (":scheme", "https"),
        ("accept", "*/*"),
        ("authorization", &format!("Bearer {token}")),
        ("user-agent", "curl/8.5.0"),
        ("x-envoy-internal", "true"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "5a6f5f0c-3b51-4f0e-9d40-3f0e4a3ff2c1"),
    ] {
        http.extend(field(3, &[field(1, name.as_bytes()), field(2, value.as_bytes())].concat()));
    }
    http.extend([field(4, path.as_bytes()), field(5, b"api.example.org")].concat());
    let source = field(1, &field(1, &field(2, b"192.0.2.7")));
    let attributes = [field(1, &source), field(4, &field(2, &http))].concat();
    let message = field(1, &attributes);
    let length = u32::try_from(message.len()).unwrap_or_default().to_be_bytes();
    [&[0], &length[..], &message].concat().into()
}

/// A length-delimited field of protobuf.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        #[allow(clippy::cast_possible_truncation, reason = "seven bits are meant")]
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    #[allow(clippy::cast_possible_truncation, reason = "it is below 0x80")]
    bytes.push(length as u8);
    bytes.extend_from_slice(content);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_their_length_in_sevens() {
        assert_eq!(field(1, b"ab"), b"\x0a\x02ab");
        assert_eq!(field(2, &[7; 300])[..3], [0x12, 0xac, 0x02]);
    }
}
