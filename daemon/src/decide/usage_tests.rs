//! Uses of tokens, and the library's policy on dormant ones, with a clock that is moved on.

use std::{
    fs,
    path::Path as FilePath,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use portcullis_common::reason::Reason;
use serde_json::json;

use super::{
    Ruling,
    tests::{World, token_of},
};
use crate::{
    clock::{BootTime, Clock, SystemClock, WallTime},
    policy::{LoadOptions, PolicySet, load},
    usage::Book,
};

const DAY: i64 = 86_400;
const HOUR: i64 = 3600;

struct Moved(AtomicI64);

impl Clock for Moved {
    fn wall(&self) -> WallTime {
        WallTime::from_seconds(self.0.load(Ordering::Relaxed))
    }
    fn boot(&self) -> BootTime {
        BootTime(self.0.load(Ordering::Relaxed).unsigned_abs() * 1_000_000_000)
    }
}

/// A policy that asks the library's about dormancy, and allows what that does not deny.
fn dormancy(idle: u32, unused: u32) -> PolicySet {
    let dir = tempfile::tempdir().unwrap();
    let library = FilePath::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/dormant"));
    fs::create_dir(dir.path().join("dormant")).unwrap();
    for name in ["dormant.rego", "dormant_test.rego"] {
        fs::copy(library.join(name), dir.path().join("dormant").join(name)).unwrap();
    }
    let data = json!({"max_idle_days": idle, "max_unused_days": unused, "by_subject": false});
    fs::write(dir.path().join("dormant/data.json"), data.to_string()).unwrap();
    let main = "package p\n\nimport rego.v1\n\nimport data.portcullis.dormant\n\ndecision := dormant.denial if {\n\tdormant.denial\n} else := {\"allow\": true, \"ttl\": 60} if {\n\tinput.token_status == \"valid\"\n} else := {\"allow\": false}\n";
    fs::write(dir.path().join("p.rego"), main).unwrap();
    load(&[dir.path().to_owned()], "p/decision", &LoadOptions::default()).unwrap()
}

struct Years {
    world: World,
    clock: Arc<Moved>,
    book: Arc<Book>,
    start: i64,
}

impl Years {
    fn new(idle: u32, unused: u32) -> Self {
        let start = 20_000 * DAY;
        let clock = Arc::new(Moved(AtomicI64::new(start)));
        let book = Arc::new(Book::new([], u32::try_from(start / HOUR).unwrap(), 1000));
        let world =
            World::with(dormancy(idle, unused), None, Some(Arc::clone(&book)), Arc::clone(&clock) as _);
        Self { world, clock, book, start }
    }

    fn at_day(&self, day: i64) -> &Self {
        self.clock.0.store(self.start + day * DAY, Ordering::Relaxed);
        self
    }

    /// A token issued before the daemon was, that lives for years.
    fn old_token(&self, jti: &str) -> String {
        token_of(jti, self.start - 300 * DAY, self.start + 3000 * DAY)
    }

    async fn is_let_in(&self, token: &str) -> bool {
        match self.world.auth(token).await {
            Ruling::Allow(_) => true,
            Ruling::Deny(refusal) => {
                assert_eq!((refusal.reason, refusal.status), (Reason::PolicyDenied, 401));
                false
            }
        }
    }
}

#[tokio::test]
async fn a_token_that_is_not_used_for_long_is_dormant_and_one_in_use_is_not() {
    let years = Years::new(90, 0);
    let (idle, busy) = (years.old_token("idle"), years.old_token("busy"));
    assert!(years.is_let_in(&idle).await && years.is_let_in(&busy).await);
    for day in (0..=180).step_by(60) {
        assert!(years.at_day(day).is_let_in(&busy).await, "day {day}");
        // From the cache, and still noted.
        assert!(years.is_let_in(&busy).await);
    }
    assert!(!years.is_let_in(&idle).await, "not used for 180 days");
    assert!(!years.is_let_in(&idle).await, "a denied request is no use");
    assert!(years.at_day(181).is_let_in(&busy).await);
}

#[tokio::test]
async fn what_a_fresh_host_has_not_seen_is_unknown_and_only_later_never_used() {
    let years = Years::new(90, 30);
    let (first, second) = (years.old_token("1"), years.old_token("2"));
    assert!(years.is_let_in(&first).await, "issued 300 days ago, but observed since today");
    assert!(years.at_day(29).is_let_in(&second).await);
    let third = years.old_token("3");
    assert!(!years.at_day(32).is_let_in(&third).await, "not once used in 31 days that were observed");
    assert!(years.is_let_in(&second).await && years.is_let_in(&first).await);
    // A token issued now has not had the time.
    let young = token_of("4", years.start + 32 * DAY, years.start + 3000 * DAY);
    assert!(years.is_let_in(&young).await);
}

#[tokio::test]
async fn uses_are_noted_for_allowed_requests_alone_and_once_an_hour() {
    let years = Years::new(0, 0);
    let token = years.old_token("1");
    assert_eq!(years.book.counts().0, 0);
    years.world.auth(&format!("{token}x")).await;
    assert_eq!(years.book.counts().0, 0, "a forged one");
    years.world.auth(&token).await;
    assert_eq!(years.book.counts().0, 2, "the token and its subject");
    years.world.data(&["p", "decision"], &token).await;
    assert_eq!(years.book.counts().0, 2);
}

#[tokio::test]
async fn an_allow_that_says_so_is_no_use() {
    let book = Arc::new(Book::new([], 1, 1000));
    let rules = "decision := {\"allow\": true, \"ttl\": 60, \"use\": input.request.path != \"/health\"}";
    let (world, t) = (
        World::with(super::tests::set(rules), None, Some(Arc::clone(&book)), Arc::new(SystemClock)),
        super::tests::token("1"),
    );
    for _ in 0..2 {
        assert!(matches!(world.auth_of(&t, "/health").await, Ruling::Allow(_)));
    }
    assert_eq!(book.counts().0, 0);
    assert!(matches!(world.auth_of(&t, "/v1").await, Ruling::Allow(_)));
    assert_eq!(book.counts().0, 2);
}
