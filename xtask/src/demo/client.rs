//! The demo's client: curl, in its own namespace, and what it saw.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::{
    daemon::GUARDED_PORT,
    expect::{Answerer, Seen},
    net::SERVER_ADDRESS,
    server,
    stage::Stage,
};

/// Sends one request with the token named `who` and says what came back and what the server noticed of it.
pub fn request(stage: &Stage, method: &str, path: &str, who: &str) -> Result<Seen> {
    let log = stage.path("server.log");
    let before = logged(&log)?;
    println!("      $ curl -X {method} http://{SERVER_ADDRESS}:{GUARDED_PORT}{path}   # with {who}'s token");
    let output = stage
        .net
        .in_client()
        .args(["curl", "-sS", "--noproxy", "*", "--max-time", "5", "--dump-header", "-", "--output"])
        .arg(stage.path("body"))
        .args(["-X", method, "-H"])
        .arg(format!("@{}", stage.path(&format!("{who}.header")).display()))
        .arg(format!("http://{SERVER_ADDRESS}:{GUARDED_PORT}{path}"))
        .output()?;
    let head = String::from_utf8_lossy(&output.stdout);
    let Some(status) = status(&head) else {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("the client got no HTTP answer: {}", said.trim());
    };
    let by = if has_server_header(&head) { Answerer::Server } else { Answerer::Kernel };
    Ok(Seen { status, by, before, after: logged(&log)? })
}

/// The number of requests the server has read.
fn logged(log: &Path) -> Result<usize> {
    let text = std::fs::read_to_string(log).with_context(|| format!("cannot read `{}`", log.display()))?;
    Ok(text.lines().count())
}

fn status(head: &str) -> Option<u16> {
    head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.trim().parse().ok()
}

/// Every answer of the example server carries its name; what the kernel writes does not.
fn has_server_header(head: &str) -> bool {
    head.lines().any(|line| {
        line.split_once(':')
            .is_some_and(|(name, value)| name.eq_ignore_ascii_case("server") && value.trim() == server::NAME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answered_is_read_from_the_head() {
        let server = format!("HTTP/1.1 401 Unauthorized\r\nServer: {}\r\n\r\n", server::NAME);
        let kernel = "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\r\n";
        assert_eq!((status(&server), has_server_header(&server)), (Some(401), true));
        assert_eq!((status(kernel), has_server_header(kernel)), (Some(401), false));
        assert_eq!(status(""), None);
    }
}
