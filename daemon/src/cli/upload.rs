//! Many revocations from a file or a pipe: lines in, each one's result out, and a line of progress for people.

use std::{
    fs::File,
    io::{BufRead, BufReader, IsTerminal as _, Write as _, stderr, stdin},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::{
    FAILED, Failure, Outcome, REFUSED,
    client::Target,
    print,
    wait::{self, WaitArgs},
};
use crate::revoke::{IMPORTED_LOCKDOWN, is_lockdown};

/// Bytes sent at once.
const PART: usize = 64 << 10;
/// Refusals that are shown; more are counted.
const SHOWN: u64 = 20;

/// What is done with each line.
pub struct Upload<'a> {
    /// The daemon.
    pub target: &'a Target,
    /// What lines have that do not say otherwise: `ttl`, `reason`, `actor`, `ticket`.
    pub defaults: Map<String, Value>,
    /// Lines are those of an export.
    pub exported: bool,
    /// Print the daemon's lines.
    pub json: bool,
    /// How far all of it must have come.
    pub wait: &'a WaitArgs,
    /// Sent as `Idempotency-Key`.
    pub key: Option<&'a str>,
}

impl Upload<'_> {
    /// Sends every line of a file, or of standard input for `-`.
    pub fn run(&self, from: &Path) -> Outcome {
        let (input, bytes): (Box<dyn BufRead + Send>, u64) = if from.as_os_str() == "-" {
            (Box::new(BufReader::new(stdin())), 0)
        } else {
            let file = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
            let bytes = file.metadata()?.len();
            (Box::new(BufReader::with_capacity(PART, file)), bytes)
        };
        let (defaults, exported) = (self.defaults.clone(), self.exported);
        let read = Arc::new(AtomicU64::new(0));
        let mut lines = Lines { input, defaults, exported, read: Arc::clone(&read) };
        let start = Instant::now();
        let mut progress = Progress { start, shown: None, bytes, read, refused: 0, accepted: 0 };
        let path = if self.json { "/v1/revocations/batch" } else { "/v1/revocations/batch?results=errors" };
        let mut end = None;
        self.target.upload(
            &self.wait.path(path),
            self.key,
            move || lines.part(),
            |line| {
                if self.json {
                    print(line)?;
                }
                let told: Value = serde_json::from_str(line)?;
                if told["done"].is_boolean() {
                    end = Some(told);
                } else if told["code"].is_string() {
                    progress.refusal(&told, self.json);
                } else {
                    progress.show(&told["progress"]);
                }
                Ok(())
            },
        )?;
        progress.clear();
        let end = end.ok_or_else(|| {
            Failure::new(
                FAILED,
                "the daemon's answer was cut off: what it told of is revoked, the rest may be",
            )
        })?;
        let (accepted, refused) = (&end["accepted"], end["refused"].as_u64().unwrap_or(0));
        if !self.json {
            let there = match end["there"].as_u64() {
                Some(there) => format!(", there already: {there}"),
                None => String::new(),
            };
            print(&format!("revoked: {accepted}, refused: {refused}{there}"))?;
        }
        if let Some(why) = end["message"].as_str() {
            return Err(Failure::new(FAILED, format!("not all lines were read: {why}")));
        }
        let code = wait::finish(&end, self.json)?;
        Ok(if refused == 0 { code } else { REFUSED })
    }
}

/// Lines as the API takes them.
struct Lines {
    input: Box<dyn BufRead + Send>,
    defaults: Map<String, Value>,
    exported: bool,
    /// Bytes of the input so far.
    read: Arc<AtomicU64>,
}

impl Lines {
    /// Some lines, ready to be sent; empty at the end.
    fn part(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(PART + 4096);
        let mut line = zeroize::Zeroizing::new(Vec::new());
        while out.len() < PART {
            line.clear();
            if self.input.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            self.read.fetch_add(line.len() as u64, Ordering::Relaxed);
            // Blank lines count, so that the daemon's numbers are the file's. What is no order goes as it stands: the daemon
            // refuses it in its place among the others, and does not repeat it.
            match std::str::from_utf8(&line).map(str::trim) {
                Ok("") => {}
                Ok(text) => match self.order(text) {
                    Line::Order(order) => serde_json::to_writer(&mut out, &order)?,
                    Line::Unread => out.extend_from_slice(text.as_bytes()),
                    Line::Brought => {}
                },
                Err(_) => out.extend_from_slice(line.trim_ascii()),
            }
            out.push(b'\n');
        }
        Ok(out)
    }

    fn order(&self, text: &str) -> Line {
        let mut order = self.defaults.clone();
        if !text.starts_with('{') {
            order.insert("token".to_owned(), text.into());
            return Line::Order(order);
        }
        let Ok(given) = serde_json::from_str::<Map<String, Value>>(text) else { return Line::Unread };
        if !self.exported {
            let ends = ["until", "ttl", "until_expiry"];
            if ends.iter().any(|name| given.contains_key(*name)) {
                for name in ends {
                    order.remove(name);
                }
            }
            order.extend(given);
            return Line::Order(order);
        }
        if given.contains_key("parent") {
            return Line::Brought;
        }
        let is_lockdown = given.get("source").and_then(Value::as_str).is_some_and(is_lockdown);
        let source = if is_lockdown { IMPORTED_LOCKDOWN } else { "import" };
        order.insert("source".to_owned(), source.into());
        for name in ["fingerprint", "other", "selector", "until", "reason", "actor", "ticket"] {
            if let Some(value) = given.get(name) {
                order.insert(name.to_owned(), value.clone());
            }
        }
        if let Some(id) = given.get("key_id").and_then(Value::as_u64) {
            order.insert("key_id".to_owned(), json!(format!("{id:08x}")));
        }
        Line::Order(order)
    }
}

/// A line of the input.
#[derive(Debug, PartialEq)]
enum Line {
    /// An order.
    Order(Map<String, Value>),
    /// What another line brings along.
    Brought,
    /// No JSON.
    Unread,
}

/// One line on the terminal that is written over.
struct Progress {
    start: Instant,
    shown: Option<Instant>,
    /// The input's size; 0 where it is not known.
    bytes: u64,
    /// How much of it was sent.
    read: Arc<AtomicU64>,
    accepted: u64,
    refused: u64,
}

impl Progress {
    fn show(&mut self, told: &Value) {
        self.accepted = told["accepted"].as_u64().unwrap_or(self.accepted);
        if self.shown.is_some_and(|at| at.elapsed().as_millis() < 100) || !stderr().is_terminal() {
            return;
        }
        self.shown = Some(Instant::now());
        // Where it cannot be written, nobody reads it.
        let _ = write!(stderr(), "\r\x1b[K{}", self.line(self.start.elapsed()));
    }

    /// The line after so long.
    fn line(&self, elapsed: Duration) -> String {
        let (accepted, refused) = (self.accepted, self.refused);
        let seconds = elapsed.as_secs_f64().max(0.001);
        let rate = f64::from(u32::try_from(accepted).unwrap_or(u32::MAX)) / seconds;
        let told = format!("revoked {accepted} ({rate:.0}/s), refused {refused}");
        // A file that grows meanwhile is no more than whole.
        let read = self.read.load(Ordering::Relaxed).min(self.bytes);
        let Some(percent) = (read * 100).checked_div(self.bytes) else { return told };
        let filled = usize::try_from(percent / 5).unwrap_or(20);
        let left = match read {
            0 => String::new(),
            read => {
                let left = elapsed.as_secs().saturating_mul(self.bytes - read) / read;
                format!(", {} left", humantime::format_duration(Duration::from_secs(left)))
            }
        };
        format!("[{:-<20}] {percent:>3} %  {told}{left}", "#".repeat(filled))
    }

    fn refusal(&mut self, told: &Value, quiet: bool) {
        self.refused += 1;
        if self.refused <= SHOWN && !quiet {
            self.clear();
            eprintln!("line {}: {}", told["line"], told["message"].as_str().unwrap_or_default());
        } else if self.refused == SHOWN + 1 && !quiet {
            eprintln!("and others");
        }
    }

    fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_orders() {
        let text = "tok\n\n{\"fingerprint\":\"f\",\"until\":7}\n";
        let mut defaults = Map::new();
        defaults.insert("ttl".to_owned(), "1h".into());
        let mut lines = Lines {
            input: Box::new(BufReader::new(text.as_bytes())),
            defaults,
            exported: false,
            read: Arc::default(),
        };
        let part = String::from_utf8(lines.part().unwrap()).unwrap();
        let all: Vec<&str> = part.lines().collect();
        assert_eq!(all, [r#"{"token":"tok","ttl":"1h"}"#, "", r#"{"fingerprint":"f","until":7}"#]);
        assert!(lines.part().unwrap().is_empty());
        // What cannot be read keeps its place, for the daemon to refuse.
        let bytes = b"tok\n\xff\xfe x\r\n{bad\ntok".as_slice();
        let mut lines = Lines { input: Box::new(BufReader::new(bytes)), defaults: Map::new(), ..lines };
        let part = lines.part().unwrap();
        assert_eq!(part, b"{\"token\":\"tok\"}\n\xff\xfe x\n{bad\n{\"token\":\"tok\"}\n");
    }

    #[test]
    fn progress_says_how_much_of_a_file_is_done_and_how_fast() {
        let read = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        let mut p =
            Progress { start, shown: None, bytes: 1000, read: Arc::clone(&read), accepted: 0, refused: 0 };
        let after = Duration::from_secs(10);
        assert_eq!(p.line(after), "[--------------------]   0 %  revoked 0 (0/s), refused 0");
        read.store(250, Ordering::Relaxed);
        (p.accepted, p.refused) = (500, 1);
        assert_eq!(p.line(after), "[#####---------------]  25 %  revoked 500 (50/s), refused 1, 30s left");
        read.store(2000, Ordering::Relaxed);
        assert_eq!(p.line(after), "[####################] 100 %  revoked 500 (50/s), refused 1, 0s left");
        p.bytes = 0;
        assert_eq!(p.line(after), "revoked 500 (50/s), refused 1", "a pipe has no size");
        let text = "tok\n\n{\"fingerprint\":\"f\"}";
        let input = Box::new(BufReader::new(text.as_bytes()));
        let mut lines = Lines { input, defaults: Map::new(), exported: false, read };
        let before = lines.read.load(Ordering::Relaxed);
        lines.part().unwrap();
        assert_eq!(lines.read.load(Ordering::Relaxed) - before, text.len() as u64);
    }

    #[test]
    fn an_export_is_taken_back_without_what_follows_from_selectors() {
        let lines = Lines {
            input: Box::new(std::io::empty()),
            defaults: Map::new(),
            exported: true,
            read: Arc::default(),
        };
        let line = r#"{"id":3,"fingerprint":"f","key_id":255,"created":1,"until":9,"reason":"r","actor":"a","ticket":"INC-7","source":"admin"}"#;
        let Line::Order(order) = lines.order(line) else { panic!("{line}") };
        assert_eq!(
            Value::Object(order),
            json!({"fingerprint": "f", "key_id": "000000ff", "until": 9, "reason": "r", "actor": "a", "ticket": "INC-7", "source": "import"})
        );
        assert_eq!(lines.order(r#"{"id":4,"parent":3}"#), Line::Brought);
        for lockdown in ["lockdown", "import/lockdown", "fleet/00000000000000000000000000000000/7/lockdown"] {
            let line = json!({"id": 5, "selector": {"everything": true}, "source": lockdown}).to_string();
            let Line::Order(order) = lines.order(&line) else { panic!("{line}") };
            assert_eq!(order["source"], "import/lockdown", "it stays one");
        }
    }
}
