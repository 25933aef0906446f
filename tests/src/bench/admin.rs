//! A plain HTTP client of the admin API: one kept-alive connection, no crate that could hide time.

use std::{
    io::{BufRead, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// A connection to the admin socket.
pub struct Admin(BufReader<UnixStream>);

impl Admin {
    /// Connects.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("cannot reach the daemon at `{}`", socket.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Revokes a token and gives the time until the acknowledgement was read whole, in milliseconds.
    pub fn revoke(&mut self, token: &str) -> Result<f64> {
        let body = serde_json::json!({"token": token, "ttl": "1h", "reason": "bench"}).to_string();
        let request = format!(
            "POST /v1/revocations HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let start = Instant::now();
        self.0.get_mut().write_all(request.as_bytes())?;
        let (status, answer) = answer(&mut self.0)?;
        let took = start.elapsed().as_secs_f64() * 1e3;
        if status != "201" {
            bail!("a revocation was refused with {status}: {answer}");
        }
        Ok(took)
    }
}

/// Reads an answer: its status and its body.
pub fn answer(from: &mut impl BufRead) -> Result<(String, String)> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        line.clear();
        if from.read_line(&mut line)? == 0 {
            bail!("the daemon hung up");
        }
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().context("`content-length` is no number")?;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
