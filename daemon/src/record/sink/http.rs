//! Lines to a server, as OPA sends them: a JSON array of them, compressed by gzip, by `POST`.
//!
//! Bounded: so many batches wait while one is sent, and one is tried again for so long; what has no room or runs out of
//! time is lost and counted. The token is read from its file for each try, so that it may be renewed.

use std::{
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{Method, header::CONTENT_ENCODING};
use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::Flushed;
use crate::fetch::{Bounds, Client, FetchError, Request, Secret, Settings, Url};

/// Batches that wait beside the one that is sent.
const WAITING: usize = 8;
/// The first wait before another try, and the longest.
const WAITS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(30)];
/// How long the last batches may take when the daemon stops.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Where to send, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// The address.
    pub url: String,
    /// A file with the token for `Authorization: Bearer`.
    pub bearer_file: Option<PathBuf>,
    /// The only authorities that are believed.
    pub ca_file: Option<PathBuf>,
    /// Bytes of lines after which a batch is sent.
    pub batch_bytes: usize,
    /// Time after which it is sent whatever it holds.
    pub batch_time: Duration,
    /// How long a batch is tried.
    pub retry_for: Duration,
    /// How long one try may take.
    pub timeout: Duration,
}

struct Batch {
    body: Bytes,
    lines: u64,
}

/// What the sending task came to since it was asked last.
#[derive(Default)]
struct Outcome {
    sent: AtomicU64,
    lost: AtomicU64,
    error: Mutex<Option<String>>,
}

/// Lines that wait, and the task that sends them.
pub struct HttpSink {
    settings: HttpSettings,
    pending: Vec<u8>,
    lines: u64,
    begun: Option<Instant>,
    batches: mpsc::Sender<Batch>,
    outcome: Arc<Outcome>,
    hurry: CancellationToken,
    runtime: Handle,
    task: Option<JoinHandle<()>>,
}

impl HttpSink {
    /// Starts the task on the current runtime.
    pub fn open(settings: HttpSettings) -> Result<Self, FetchError> {
        let url: Url = settings.url.parse()?;
        let client = Client::new(&Settings { ca_file: settings.ca_file.clone(), ..Settings::default() })?;
        let (batches, receiver) = mpsc::channel(WAITING);
        let (outcome, hurry, runtime) = (Arc::default(), CancellationToken::new(), Handle::current());
        let sender = Sender {
            client,
            url,
            settings: settings.clone(),
            outcome: Arc::clone(&outcome),
            hurry: hurry.clone(),
        };
        let task = Some(runtime.spawn(sender.run(receiver)));
        let (pending, lines, begun) = (Vec::new(), 0, None);
        Ok(Self { settings, pending, lines, begun, batches, outcome, hurry, runtime, task })
    }

    pub(super) fn put(&mut self, line: &str) {
        self.pending.push(if self.lines == 0 { b'[' } else { b',' });
        self.pending.extend(line.as_bytes());
        self.lines += 1;
        self.begun.get_or_insert_with(Instant::now);
        if self.pending.len() >= self.settings.batch_bytes {
            self.seal();
        }
    }

    pub(super) fn flush(&mut self) -> Flushed {
        if self.begun.is_some_and(|begun| begun.elapsed() >= self.settings.batch_time) {
            self.seal();
        }
        let error = self.outcome.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        let taken = |n: &AtomicU64| n.swap(0, Ordering::Relaxed);
        Flushed { written: taken(&self.outcome.sent), lost: taken(&self.outcome.lost), error }
    }

    /// Hands what waits to the task.
    fn seal(&mut self) {
        let (lines, mut text) = (std::mem::take(&mut self.lines), std::mem::take(&mut self.pending));
        self.begun = None;
        if lines == 0 {
            return;
        }
        text.push(b']');
        let mut gzip = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
        let body = gzip.write_all(&text).and_then(|()| gzip.finish());
        let sent = body.is_ok_and(|body| self.batches.try_send(Batch { body: body.into(), lines }).is_ok());
        if !sent {
            self.outcome.lose(lines, "batches wait for the server, and there is no room for more".to_owned());
        }
    }

    /// Sends the last of it: one more try for each batch.
    pub(super) fn finish(&mut self) -> Flushed {
        self.seal();
        self.hurry.cancel();
        // The task ends when the last sender is gone.
        let (closed, _) = mpsc::channel(1);
        self.batches = closed;
        if let Some(task) = self.task.take() {
            let ended = self.runtime.block_on(async { tokio::time::timeout(LAST_WORDS, task).await });
            if ended.is_err() {
                self.outcome.lose(0, "the server did not take the last batches in time".to_owned());
            }
        }
        self.flush()
    }
}

impl Outcome {
    fn lose(&self, lines: u64, why: String) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }
}

struct Sender {
    client: Client,
    url: Url,
    settings: HttpSettings,
    outcome: Arc<Outcome>,
    hurry: CancellationToken,
}

impl Sender {
    async fn run(self, mut batches: mpsc::Receiver<Batch>) {
        while let Some(batch) = batches.recv().await {
            match self.send(&batch.body).await {
                Ok(()) => {
                    self.outcome.sent.fetch_add(batch.lines, Ordering::Relaxed);
                }
                Err(why) => self.outcome.lose(batch.lines, why),
            }
        }
    }

    /// Tries until it is taken, refused for good, or out of time.
    async fn send(&self, body: &Bytes) -> Result<(), String> {
        let (begun, [mut wait, longest]) = (Instant::now(), WAITS);
        loop {
            let (why, again) = match self.once(body.clone()).await {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            if !again || self.hurry.is_cancelled() || begun.elapsed() + wait > self.settings.retry_for {
                return Err(why);
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.hurry.cancelled() => {}
            }
            wait = (wait * 2).min(longest);
        }
    }

    /// One try; the error says whether another may help.
    async fn once(&self, body: Bytes) -> Result<(), (String, bool)> {
        let request = Request::new(Method::POST, self.url.clone())
            .body("application/json", body)
            .header(CONTENT_ENCODING, "gzip");
        let request = match &self.settings.bearer_file {
            None => request,
            // One line of a local file, read once a batch.
            Some(path) => match Secret::read(path) {
                Ok(token) => request.bearer(&token),
                Err(e) => return Err((e.to_string(), true)),
            },
        };
        let bounds = Bounds { deadline: self.settings.timeout, max_body: 64 * 1024 };
        match self.client.send(request, bounds).await {
            Err(e) => Err((e.to_string(), true)),
            Ok(answer) => {
                let status = answer.status;
                let again = status.is_server_error() || [408, 425, 429].contains(&status.as_u16());
                answer.success().map(drop).map_err(|e| (e.to_string(), again))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use serde_json::Value;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// A server that gives these statuses in turn, then 200; what it was sent is decoded.
    async fn server(statuses: Vec<u16>) -> (String, mpsc::UnboundedReceiver<(String, Value)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/logs", listener.local_addr().unwrap());
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut statuses = statuses.into_iter();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut all = Vec::new();
                let (head, body) = loop {
                    let mut part = [0; 4096];
                    let n = stream.read(&mut part).await.unwrap();
                    all.extend(&part[..n]);
                    let Some(end) = all.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
                    let head = String::from_utf8_lossy(&all[..end]).to_ascii_lowercase();
                    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap();
                    if all.len() >= end + 4 + length.parse::<usize>().unwrap() {
                        break (head, all[end + 4..].to_vec());
                    }
                };
                let mut text = String::new();
                GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
                tell.send((head, serde_json::from_str(&text).unwrap())).unwrap();
                let status = statuses.next().unwrap_or(200);
                let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (url, told)
    }

    fn settings(url: String) -> HttpSettings {
        HttpSettings {
            url,
            bearer_file: None,
            ca_file: None,
            batch_bytes: 1 << 20,
            batch_time: Duration::ZERO,
            retry_for: Duration::from_secs(20),
            timeout: Duration::from_secs(10),
        }
    }

    async fn settled(sink: &mut HttpSink) -> Flushed {
        loop {
            let flushed = sink.flush();
            if flushed.written + flushed.lost > 0 {
                return flushed;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn batches_are_gzipped_arrays_tried_again_and_carry_the_token_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "sesame\n").unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let (url, mut told) = server(vec![503, 429]).await;
        let mut sink = HttpSink::open(HttpSettings { bearer_file: Some(file), ..settings(url) }).unwrap();
        sink.put("{\"a\":1}");
        sink.put("{\"a\":2}");
        assert_eq!(settled(&mut sink).await, Flushed { written: 2, ..Flushed::default() });
        for _ in 0..3 {
            let (head, body) = told.recv().await.unwrap();
            assert_eq!(body, serde_json::json!([{"a": 1}, {"a": 2}]));
            assert!(head.starts_with("post /logs") && head.contains("content-encoding: gzip"), "{head}");
            assert!(head.contains("authorization: bearer sesame"), "{head}");
        }
        assert!(told.try_recv().is_err());
    }

    #[tokio::test]
    async fn what_is_refused_for_good_is_lost_and_counted() {
        let (url, _told) = server(vec![400]).await;
        let mut sink = HttpSink::open(settings(url)).unwrap();
        sink.put("{}");
        let flushed = settled(&mut sink).await;
        assert_eq!((flushed.written, flushed.lost), (0, 1));
        assert!(flushed.error.unwrap().contains("400"));
    }

    #[tokio::test]
    async fn a_server_that_is_away_bounds_what_waits() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", free.local_addr().unwrap());
        drop(free);
        let mut sink = HttpSink::open(HttpSettings { batch_bytes: 1, ..settings(url) }).unwrap();
        (0..50).for_each(|_| sink.put("{}"));
        let flushed = sink.flush();
        assert!((50 - 1 - WAITING as u64..=50).contains(&flushed.lost), "{flushed:?}");
        let rest = tokio::task::spawn_blocking(move || sink.finish()).await.unwrap();
        assert_eq!(flushed.lost + rest.lost, 50);
        assert!(rest.error.is_some());
    }
}
