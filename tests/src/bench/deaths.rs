//! How long a live connection outlives the acknowledgement of its token's revocation: one that is silent after an
//! upgrade, and one to which its server streams.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};

use super::{admin::Admin, percentile};
use crate::{PATIENCE, figures::Figures};

/// What was promised, on an idle machine.
const LIMIT_MS: f64 = 50.0;
const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: quiet\r\n\r\n";
const STREAM: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
/// Between two events of the stream.
const BEAT: Duration = Duration::from_millis(5);

/// Measures both, with a token each time, at the guarded port `to` of this network namespace.
pub fn measure(
    figures: &mut Figures,
    socket: &Path,
    to: SocketAddr,
    mut token: impl FnMut() -> String,
    rounds: usize,
) -> Result<()> {
    let mut admin = Admin::connect(socket)?;
    for (name, head, beats) in [("a silent upgraded connection", UPGRADED, false), ("a stream", STREAM, true)]
    {
        let mut late = Vec::new();
        for _ in 0..rounds {
            late.push(one(&mut admin, to, &token(), head, beats)?);
        }
        late.sort_by(f64::total_cmp);
        let what = "from the acknowledgement to the client's end of it";
        figures.add(&format!("{name} ends: p50"), percentile(&late, 0.5), "ms", what);
        figures.at_most(&format!("{name} ends: max"), percentile(&late, 1.0), "ms", LIMIT_MS, what);
    }
    Ok(())
}

/// Milliseconds; 0 where it ended before the acknowledgement came.
fn one(admin: &mut Admin, to: SocketAddr, token: &str, head: &str, beats: bool) -> Result<f64> {
    let listener = TcpListener::bind(to)?;
    thread::scope(|scope| {
        let server = scope.spawn(|| -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut request = [0; 4096];
            let _ = stream.read(&mut request)?;
            stream.write_all(head.as_bytes())?;
            // Ends with the connection.
            if beats {
                while stream.write_all(b"1\r\nx\r\n").is_ok() {
                    thread::sleep(BEAT);
                }
            } else {
                let _ = stream.read(&mut request);
            }
            Ok(())
        });
        let mut client = TcpStream::connect(to)?;
        client.set_read_timeout(Some(PATIENCE))?;
        let request = format!(
            "GET /live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: quiet\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        client.write_all(request.as_bytes())?;
        let mut answer = [0; 1024];
        let n = client.read(&mut answer)?;
        (n >= 12).then_some(()).context("the server did not answer")?;
        let watch = scope.spawn(move || {
            let mut part = [0; 1024];
            loop {
                match client.read(&mut part) {
                    Ok(n) if n > 0 => {}
                    _ => return Instant::now(),
                }
            }
        });
        admin.revoke(token)?;
        let acknowledged = Instant::now();
        let ended = watch.join().map_err(|_| anyhow!("the client panicked"))?;
        server.join().map_err(|_| anyhow!("the server panicked"))??;
        Ok(ended.saturating_duration_since(acknowledged).as_secs_f64() * 1e3)
    })
}
