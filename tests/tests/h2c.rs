//! HTTP/2, segment by segment (`BPF_PROG_TEST_RUN` on real connections), against the reader on the host.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::{
    cell::RefCell,
    collections::HashSet,
    net::{TcpListener, TcpStream},
};

use portcullis::kernel::{
    CounterReader, Enforcement, GuardedPort, Kernel,
    test_support::{Which, expected},
};
use portcullis_common::{
    fingerprint::DenyFingerprint,
    h2::{H2, Names, read},
    head::{ODD_ANY, Sink, Step},
    layout::{DenyValue, FOREVER, ScanConfig},
    reason::Outcome,
};
use portcullis_tests::{
    bpffs::Bpffs,
    frames::{Frame, jws},
    guard::{KEY, settings},
    h2::{Coding, PREFACE, Writer, frame},
    is_root, is_thorough,
};
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, TestRunner},
};

const PASS: i32 = -1;

/// What was read of a segment.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    step: Step,
    requests: u64,
    tokens: u64,
}

struct Refuse(DenyFingerprint);

impl Sink for Refuse {
    fn token(&mut self, f: DenyFingerprint) -> bool {
        f == self.0
    }
}

fn host(bytes: &[u8], dead: DenyFingerprint) -> Reading {
    let mut config = ScanConfig::new(KEY, &["Bearer", "DPoP"], &["X-Api-Key"]).unwrap();
    config.refuse = ODD_ANY;
    config.max_token = config.max_head;
    let names = Names::new(&config);
    let mut h = H2::new();
    let step = read(&mut h, &bytes[PREFACE.len()..], &config, &names, &mut Refuse(dead));
    Reading { step, requests: h.requests.into(), tokens: h.tokens.into() }
}

struct Kernels {
    kernel: Kernel,
    counters: CounterReader,
    listener: TcpListener,
    used: HashSet<u16>,
}

impl Kernels {
    fn read(&mut self, bytes: &[u8]) -> Reading {
        let to = self.listener.local_addr().unwrap();
        let (client, server, from) = loop {
            let client = TcpStream::connect(to).unwrap();
            let (server, from) = self.listener.accept().unwrap();
            // No SYN comes by here, so a port's tombstone stays: each is used once.
            if self.used.insert(from.port()) {
                break (client, server, from);
            }
        };
        let packet = Frame {
            addresses: [[127, 0, 0, 1]; 2],
            source_port: from.port(),
            port: to.port(),
            seq: expected(&server).unwrap(),
            ..Frame::default()
        }
        .build(bytes);
        let before = self.counters.read().unwrap();
        let ran = self.kernel.test_run(Which::Guard, &packet, 1).unwrap();
        let after = self.counters.read().unwrap();
        drop((client, server));
        let grown = |o| after.get(o) - before.get(o);
        let steps = [
            (Outcome::Revoked, Step::Refused),
            (Outcome::RefusedFrames, Step::Broken),
            (Outcome::RefusedAmbiguous, Step::Odd),
            (Outcome::RefusedTooLong, Step::TooLong),
        ];
        let counted: Vec<_> = steps.iter().filter(|(o, _)| grown(*o) != 0).map(|(_, s)| *s).collect();
        assert!(counted.len() <= 1, "{counted:?}");
        let step = counted.first().copied().unwrap_or(Step::More);
        assert_eq!(ran.packet == packet, step == Step::More, "{step:?}: what passes is not touched");
        assert_eq!(ran.action, PASS, "{step:?}: the server gets it, or a reset in its place");
        assert_eq!(grown(Outcome::H2c), 1);
        Reading { step, requests: grown(Outcome::Requests), tokens: grown(Outcome::Tokens) }
    }
}

#[derive(Clone, Debug)]
struct Case {
    requests: Vec<(u8, bool, bool)>,
    junk: Vec<u8>,
    changes: Vec<(Index, u8)>,
}

fn cases() -> impl Strategy<Value = Case> {
    let requests = prop::collection::vec((0..6u8, any::<bool>(), any::<bool>()), 1..6);
    let junk = prop::collection::vec(any::<u8>(), 0..40);
    let changes = prop_oneof![
        2 => Just(Vec::new()),
        2 => prop::collection::vec((any::<Index>(), any::<u8>()), 1..3),
    ];
    (requests, junk, changes).prop_map(|(requests, junk, changes)| Case { requests, junk, changes })
}

#[test]
fn the_kernel_reads_frames_as_the_host_does() {
    if !is_root() {
        return;
    }
    let bpffs = Bpffs::mount().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut settings = settings(&bpffs);
    settings.enforcement = Enforcement::Strict;
    settings.ports = vec![GuardedPort { address: None, port }];
    settings.h2c_ports = vec![port];
    let mut kernel = Kernel::load(settings).unwrap();
    let tokens = [jws(300, 1), jws(120, 2), jws(700, 3), "opaque".to_owned(), "x".to_owned()];
    let dead = KEY.deny(tokens[0].as_bytes());
    let value =
        DenyValue { revoked_until: FOREVER, condemned_until: 0, generation: 0, answer: 0, decision: 0 };
    kernel.deny.put(dead, value).unwrap();
    let counters = kernel.counters().unwrap();
    let kernels = RefCell::new(Kernels { kernel, counters, listener, used: HashSet::new() });
    let cases_to_run = if is_thorough() { 10_000 } else { 1_000 };
    let mut runner = TestRunner::new(Config {
        cases: cases_to_run,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    let found = RefCell::new([0_u32; 16]);
    runner
        .run(&cases(), |case| {
            let mut writer = Writer::default();
            let mut bytes = [PREFACE, &frame(4, 0, 0, &[])].concat();
            for (which, plain, key) in &case.requests {
                // The dead token is the rarest.
                let token = &tokens[usize::from(*which).saturating_sub(1).min(4)];
                let token = if *which == 1 { &tokens[4] } else { token };
                let coding = if *plain { Coding::Plain } else { Coding::Usual };
                let bearer = format!("Bearer {token}");
                let field =
                    if *key { ("x-api-key", token.as_str()) } else { ("authorization", bearer.as_str()) };
                bytes.extend(writer.request("/v1/orders", &[("user-agent", "curl"), field], coding).unwrap());
            }
            bytes.extend(&case.junk);
            for (at, b) in &case.changes {
                let at = PREFACE.len() + at.index(bytes.len() - PREFACE.len());
                bytes[at] = *b;
            }
            bytes.truncate(3_500);
            let ours = host(&bytes, dead);
            found.borrow_mut()[ours.step as usize] += 1;
            prop_assert_eq!(kernels.borrow_mut().read(&bytes), ours, "{:02x?}", &bytes);
            Ok(())
        })
        .unwrap();
    let found = found.into_inner();
    for step in [Step::More, Step::Refused, Step::Broken] {
        assert!(found[step as usize] > 20, "{step:?} came {} times of {found:?}", found[step as usize]);
    }
}
