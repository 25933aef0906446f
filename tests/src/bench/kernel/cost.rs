//! Fast mode beside what no guard can do without: the hash of the token and one lookup, in the same run. The host's
//! own way to do the same, with crates made for it, is shown beside.

use std::{hash::Hasher as _, hint::black_box, time::Instant};

use anyhow::Result;
use portcullis::kernel::{ShedBy, ShedHook, ShedSettings, test_support::Which};
use portcullis_common::fingerprint::DenyFingerprint;

use super::{Effort, SIZES, VALUE, time};
use crate::{
    bpffs::Bpffs,
    figures::{Figures, median},
    frames::{Frame, jws, request},
    guard::{KEY, load, settings},
};

/// Tokens that are condemned while this is measured.
const CONDEMNED: u64 = 1000;

pub(super) fn measure(figures: &mut Figures, effort: Effort) -> Result<()> {
    let bpffs = Bpffs::mount()?;
    let mut kernel = load(&bpffs)?;
    kernel.load_yardsticks()?;
    // Tokens of others, so that a lookup meets what it meets in use.
    for i in 0..CONDEMNED {
        kernel.deny.put(KEY.deny(jws(300, 2 * i + 20_001).as_bytes()), VALUE)?;
    }
    let open = Frame { port: 81, ..Frame::default() }.build(&request(&jws(300, 1), 500));
    let runs = time(&mut kernel, &[(Which::Empty, &open), (Which::Guard, &open)], effort)?;
    figures.add("empty program", runs[0], "ns", "");
    figures.at_most("guard, unguarded port", runs[1], "ns", 1.5 * runs[0] + 15.0, "(1.5 × empty + 15)");
    let bare = Frame::default()
        .build(b"GET /v1/orders/7 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: curl/7.88.1\r\n\r\n");
    let ack = Frame::default().build(b"");
    let runs = time(&mut kernel, &[(Which::Guard, &ack), (Which::Guard, &bare)], effort)?;
    figures.add("guard, segment without payload", runs[0], "ns", "");
    figures.add("guard, 72-byte request without a token", runs[1], "ns", "");
    for (request_len, token_len) in SIZES {
        let token = jws(token_len, 1);
        let text = request(&token, request_len);
        let live = Frame::default().build(&text);
        let same = vec![0; 14 + token_len];
        let runs = time(&mut kernel, &[(Which::Hash, &same), (Which::Guard, &live)], effort)?;
        let name = format!("{request_len}-byte request, {token_len}-byte token");
        figures.add(&format!("{name}: hash and lookup alone"), runs[0], "ns", "");
        figures.add(&format!("{name}: guard"), runs[1], "ns", "");
        figures.add(
            &format!("{name}: memchr and siphasher on the host"),
            host(&text, effort),
            "ns",
            "no map",
        );
        let ratio = format!("{name}: ratio");
        if token_len <= 1100 {
            figures.at_most(&ratio, runs[1] / runs[0], "", 1.5, "× hash and lookup");
        } else {
            figures.add(&ratio, runs[1] / runs[0], "", "× hash and lookup");
        }
    }
    shed(figures, effort)
}

/// The same on the host: lines found by `memchr`, the token hashed by `siphasher`, a set of as many entries asked.
fn host(text: &[u8], effort: Effort) -> f64 {
    let set: std::collections::HashSet<DenyFingerprint> =
        (0..CONDEMNED).map(|i| KEY.deny(jws(300, 2 * i + 20_001).as_bytes())).collect();
    let mut times = Vec::new();
    for _ in 0..effort.rounds {
        let start = Instant::now();
        let mut found = 0_u32;
        for _ in 0..effort.repeat {
            found += u32::from(fingerprint(black_box(text)).is_some_and(|f| set.contains(&f)));
        }
        times.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(effort.repeat));
        black_box(found);
    }
    median(times)
}

/// The deny fingerprint of a request's bearer token, by the crates that are made for it.
fn fingerprint(mut text: &[u8]) -> Option<DenyFingerprint> {
    use siphasher::sip128::{Hasher128 as _, SipHasher13};
    while let Some(end) = memchr::memchr(b'\n', text) {
        let (line, rest) = text.split_at_checked(end + 1)?;
        if let Some(token) = line.strip_prefix(b"Authorization: Bearer ") {
            let token = token.strip_suffix(b"\r\n")?;
            // Its signing input: up to the second dot.
            let named = token.get(..memchr::memrchr(b'.', token)?)?;
            let mut hasher = SipHasher13::new_with_keys(KEY.k0, KEY.k1);
            hasher.write(named);
            let hash = hasher.finish128();
            return Some(DenyFingerprint([hash.h1, hash.h2]));
        }
        text = rest;
    }
    None
}

/// What shed costs a packet: nobody is shed, another is, this one is.
fn shed(figures: &mut Figures, effort: Effort) -> Result<()> {
    let bpffs = Bpffs::mount()?;
    let mut s = settings(&bpffs);
    s.shed = ShedSettings { by: ShedBy::Source, hooks: vec![ShedHook::Native], ..ShedSettings::off() };
    let mut kernel = portcullis::kernel::Kernel::load(s)?;
    let packet = Frame::default().build(b"GET / HTTP/1.1\r\n\r\n");
    let mut take = |kernel: &mut portcullis::kernel::Kernel, name: &str, dropped: bool| -> Result<()> {
        let mut times = Vec::new();
        for _ in 0..effort.rounds {
            let (drops, took) = kernel.sheds_packet(&packet, effort.repeat)?;
            anyhow::ensure!(drops == dropped, "{name}");
            #[allow(clippy::cast_precision_loss, reason = "nanoseconds of one run")]
            times.push(took.as_nanos() as f64);
        }
        figures.add(name, median(times), "ns", "");
        Ok(())
    };
    take(&mut kernel, "shed, nobody is shed", false)?;
    kernel.shed_until(super::super::flood::sender([192, 0, 2, 9]), u64::MAX)?;
    take(&mut kernel, "shed, another source is shed", false)?;
    kernel.shed_until(super::super::flood::sender([192, 0, 2, 1]), u64::MAX)?;
    take(&mut kernel, "shed, the source is shed: dropped", true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_way_comes_to_the_same_name() {
        let token = jws(300, 5);
        assert_eq!(fingerprint(&request(&token, 500)), Some(KEY.deny(token.as_bytes())));
    }
}
