//! The demo's example API server: HTTP/1.1 over the standard library, a thread a connection, keep-alive.
//!
//! It logs every request line it has read to a file, before it answers: that file is the witness for what the
//! kernel kept away. Each request is put to the daemon's forward-auth, and the daemon's status is the answer;
//! when no one can be asked the answer is 503. Not a server to build on.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read as _, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

/// The value of the `Server` header, by which the demo knows who answered.
pub const NAME: &str = "demo-orders-api";
/// Printed once connections are accepted.
pub const LISTENING: &str = "listening";
const LONGEST_LINE: u64 = 16 * 1024;
const MOST_HEADERS: usize = 100;
const LONGEST_BODY: u64 = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub struct Args {
    /// Where to serve
    #[arg(long)]
    listen: SocketAddr,
    /// The daemon's forward-auth
    #[arg(long)]
    auth: SocketAddr,
    /// Where to log the request lines
    #[arg(long)]
    log: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    let listener =
        TcpListener::bind(args.listen).with_context(|| format!("cannot listen at {}", args.listen))?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(&args.log)
        .with_context(|| format!("cannot open `{}`", args.log.display()))?;
    println!("{LISTENING} at {}", args.listen);
    serve(&listener, args.auth, &Arc::new(log));
    Ok(())
}

fn serve(listener: &TcpListener, auth: SocketAddr, log: &Arc<File>) {
    for stream in listener.incoming().flatten() {
        let log = Arc::clone(log);
        thread::spawn(move || {
            // A connection that the kernel reset ends here, which is the point of the demo.
            if let Err(error) = converse(&stream, auth, &log) {
                eprintln!("connection ended: {error:#}");
            }
        });
    }
}

/// Answers requests until the client leaves.
fn converse(stream: &TcpStream, auth: SocketAddr, log: &File) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader)? {
        writeln!(&*log, "{}", request.line).context("cannot write the request log")?;
        let status = ask(auth, &request).unwrap_or_else(|error| {
            eprintln!("cannot ask the daemon: {error:#}");
            503
        });
        answer(stream, status)?;
        if request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            break;
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Request {
    line: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// The next request, its body read and thrown away; `None` when the client has left.
    fn read(reader: &mut impl BufRead) -> Result<Option<Self>> {
        let Some(line) = read_line(reader)? else { return Ok(None) };
        let mut headers = Vec::new();
        loop {
            let line = read_line(reader)?.context("the client left inside a request head")?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').context("a header line without a colon")?;
            headers.push((name.to_owned(), value.trim().to_owned()));
            if headers.len() > MOST_HEADERS {
                bail!("more than {MOST_HEADERS} headers");
            }
        }
        let request = Self { line, headers };
        if request.header("transfer-encoding").is_some() {
            bail!("this example reads bodies of a known length only");
        }
        let length = match request.header("content-length") {
            Some(length) => length.parse().context("a `Content-Length` that is no number")?,
            None => 0,
        };
        if length > LONGEST_BODY {
            bail!("a body of {length} bytes");
        }
        std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
        Ok(Some(request))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A line without its end; `None` at the end of the stream.
fn read_line(reader: &mut impl BufRead) -> Result<Option<String>> {
    let mut line = String::new();
    let read = reader.take(LONGEST_LINE).read_line(&mut line)?;
    if read == 0 {
        return Ok(None);
    }
    let Some(line) = line.strip_suffix('\n') else { bail!("a line that is too long or cut off") };
    Ok(Some(line.strip_suffix('\r').unwrap_or(line).to_owned()))
}

/// What the daemon says of a request.
fn ask(auth: SocketAddr, request: &Request) -> Result<u16> {
    let mut words = request.line.split(' ');
    let (method, uri) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut stream = TcpStream::connect_timeout(&auth, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = format!(
        "GET /auth HTTP/1.1\r\nHost: {auth}\r\nConnection: close\r\n\
         X-Original-Method: {method}\r\nX-Original-URI: {uri}\r\n"
    );
    // All of them: to pick one of two would hide from the daemon what it must refuse.
    for (name, value) in request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("authorization"))
    {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    let line = read_line(&mut BufReader::new(stream))?.context("the daemon closed without an answer")?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.with_context(|| format!("the daemon's answer begins with {line:?}"))
}

fn answer(mut stream: &TcpStream, status: u16) -> Result<()> {
    let (status, text, body) = match status {
        200..=299 => (200, "OK", r#"{"orders":[{"id":1,"item":"portcullis"}]}"#),
        401 => (401, "Unauthorized", r#"{"error":"unauthorized"}"#),
        403 => (403, "Forbidden", r#"{"error":"forbidden"}"#),
        _ => (503, "Service Unavailable", r#"{"error":"no decision"}"#),
    };
    let answer = format!(
        "HTTP/1.1 {status} {text}\r\nServer: {NAME}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    Ok(stream.write_all(answer.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A daemon that answers `status`, and gives back the heads it was asked with.
    fn daemon(status: u16, requests: usize) -> (SocketAddr, thread::JoinHandle<Vec<Request>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = thread::spawn(move || {
            (0..requests)
                .map(|_| {
                    let (stream, _) = listener.accept().unwrap();
                    let request = Request::read(&mut BufReader::new(&stream)).unwrap().unwrap();
                    (&stream).write_all(format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes()).unwrap();
                    request
                })
                .collect()
        });
        (address, asked)
    }

    /// What a client reads that sends `bytes`, and the request log.
    fn exchange(auth: SocketAddr, bytes: &str) -> (String, String) {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("portcullis-xtask-server-{}-{n}", std::process::id()));
        let log = File::create(&path).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        client.write_all(bytes.as_bytes()).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = converse(&stream, auth, &log);
        drop(stream);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        let logged = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        (answer, logged)
    }

    #[test]
    fn the_daemon_is_told_method_uri_and_authorization() {
        let (auth, asked) = daemon(200, 1);
        let (answer, log) = exchange(
            auth,
            "POST /v1/orders?x=1 HTTP/1.1\r\nauthorization: Bearer t\r\nContent-Length: 2\r\n\r\n{}",
        );
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\nServer: demo-orders-api\r\n"), "{answer}");
        assert_eq!(log, "POST /v1/orders?x=1 HTTP/1.1\n");
        let asked = &asked.join().unwrap()[0];
        assert_eq!(asked.line, "GET /auth HTTP/1.1");
        assert_eq!(asked.header("X-Original-Method"), Some("POST"));
        assert_eq!(asked.header("X-Original-URI"), Some("/v1/orders?x=1"));
        assert_eq!(asked.header("Authorization"), Some("Bearer t"));
    }

    #[test]
    fn requests_on_one_connection_are_answered_in_turn() {
        let (auth, asked) = daemon(403, 2);
        let (answer, log) =
            exchange(auth, "POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\n\r\n");
        assert_eq!(answer.matches("HTTP/1.1 403 Forbidden").count(), 2);
        assert_eq!(log, "POST /a HTTP/1.1\nGET /b HTTP/1.1\n");
        assert_eq!(asked.join().unwrap().len(), 2);
    }

    #[test]
    fn without_a_daemon_the_answer_is_503() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (answer, _) = exchange(closed, "GET / HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }

    #[test]
    fn a_head_cut_off_is_neither_logged_nor_answered() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(exchange(closed, "GET / HTTP/1.1\r\nHost: x"), (String::new(), String::new()));
    }
}
