//! `cargo xtask bench revoke`: from an order to its acknowledgement, on disk and in the kernel's deny map.
//!
//! A daemon that enforces in a network namespace and a BPF file system of its own; a plain client on its admin
//! socket. The disk's own write and sync is measured in the same run, so that the ratio travels.

use std::{
    fs::{self, DirBuilder},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use portcullis_tests::{
    bench::{
        Args,
        admin::Admin,
        bulk,
        daemon::{Daemon, Setting, quoted},
        deaths, disk, fleet, loaded, percentile,
    },
    figures::Figures,
};

/// On the disk: `/tmp` is memory on many hosts.
const DEFAULT_DIR: &str = "/var/tmp";
/// What was promised, for the 99th percentile.
const LIMIT_MS: f64 = 5.0;

fn main() -> Result<()> {
    let args = Args::read()?;
    let mut figures = Figures::default();
    if geteuid().is_root() {
        measure(&args, &mut figures)?;
    } else {
        println!("SKIPPED bench-revoke: not root");
    }
    figures.write(args.json.as_deref())
}

fn measure(args: &Args, figures: &mut Figures) -> Result<()> {
    let (orders, syncs) = if args.quick { (200, 100) } else { (2000, 500) };
    let parent = args.dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DIR));
    let dir = tempfile::Builder::new().prefix("portcullis-bench-").tempdir_in(&parent)?;
    if args.only.as_deref() == Some("loaded") {
        let _pins = isolate(dir.path())?;
        let tables = tables(dir.path(), None)?;
        return loaded::measure(figures, dir.path(), &tables, &Orders::default().take(orders));
    }
    if args.only.as_deref() == Some("bulk") {
        let _pins = isolate(dir.path())?;
        return measure_bulk(figures, dir.path(), if args.quick { &[100_000] } else { &[1_000_000] });
    }
    // It makes namespaces of its own, which are to be seen from all of this process.
    fleet::measure(figures, &dir.path().join("fleet"), args.quick)?;
    if args.only.as_deref() == Some("fleet") {
        return Ok(());
    }
    let _pins = isolate(dir.path())?;
    let daemon = start(dir.path())?;
    let disk = format!("{}, {}", parent.display(), disk::file_system(&parent));

    // Before and after, so that a disk that changes its mind in between is seen.
    let before = disk::syncs(dir.path(), syncs)?;
    let mut fresh = Orders::default();
    let mut admin = Admin::connect(&daemon.socket)?;
    let mut took = fresh.take(orders).iter().map(|token| admin.revoke(token)).collect::<Result<Vec<_>>>()?;
    let after = disk::syncs(dir.path(), syncs)?;
    took.sort_by(f64::total_cmp);
    let sync = percentile(&before, 0.5).midpoint(percentile(&after, 0.5));
    figures.add("4 KiB write and fdatasync: p50", sync, "ms", &disk);
    figures.add(
        "4 KiB write and fdatasync: p99",
        percentile(&before, 0.99).max(percentile(&after, 0.99)),
        "ms",
        &disk,
    );
    let one = "one after the other, one connection";
    figures.add("revocation acknowledged: p50", percentile(&took, 0.5), "ms", one);
    figures.add("revocation acknowledged: p90", percentile(&took, 0.9), "ms", one);
    figures.at_most("revocation acknowledged: p99", percentile(&took, 0.99), "ms", LIMIT_MS, one);
    figures.add("revocation acknowledged: max", percentile(&took, 1.0), "ms", one);
    figures.add(
        "revocation acknowledged: p50 ÷ write and fdatasync",
        percentile(&took, 0.5) / sync,
        "×",
        "of this run",
    );

    for at_once in [8, 64] {
        let each = orders / at_once.min(16);
        let started = Instant::now();
        let mut took = concurrent(&daemon.socket, &mut fresh, at_once, each)?;
        let seconds = started.elapsed().as_secs_f64();
        took.sort_by(f64::total_cmp);
        let name = format!("revocations, {at_once} at once");
        #[allow(clippy::cast_precision_loss, reason = "thousands")]
        figures.add(
            &format!("{name}: throughput"),
            took.len() as f64 / seconds,
            "/s",
            "orders that wait share a sync",
        );
        figures.add(&format!("{name}: p50"), percentile(&took, 0.5), "ms", "");
        figures.at_most(&format!("{name}: p99"), percentile(&took, 0.99), "ms", LIMIT_MS, "");
    }
    let guarded = SocketAddr::from(([127, 0, 0, 1], 8080));
    let token = || fresh.take(1).remove(0);
    deaths::measure(figures, &daemon.socket, guarded, token, if args.quick { 3 } else { 50 })?;
    drop(daemon);
    {
        let own = dir.path().join("loaded");
        fs::create_dir(&own)?;
        let _pins = Pins::mount(&own)?;
        loaded::measure(figures, &own, &tables(&own, None)?, &fresh.take(orders))?;
    }
    measure_bulk(figures, dir.path(), if args.quick { &[100_000] } else { &[1_000_000, 10_000_000] })
}

fn measure_bulk(figures: &mut Figures, dir: &Path, counts: &[usize]) -> Result<()> {
    for count in counts {
        let own = dir.join(count.to_string());
        fs::create_dir(&own)?;
        let _pins = Pins::mount(&own)?;
        bulk::measure(figures, &own, &tables(&own, Some(count + count / 8))?, *count)?;
    }
    Ok(())
}

/// A mounted BPF file system; unmounted when dropped, or its directory could not be removed.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        // Fails only where it is not mounted any more.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Network and mount namespaces of this process's own: they and what is in them end with it.
fn isolate(dir: &Path) -> Result<Pins> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("cannot make namespaces")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make mounts private")?;
    let pins = Pins::mount(dir)?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("cannot start `ip`")?;
    ensure!(up.success(), "`ip link set lo up` failed");
    Ok(pins)
}

impl Pins {
    fn mount(dir: &Path) -> Result<Self> {
        let pins = dir.join("bpf");
        DirBuilder::new().mode(0o700).create(&pins)?;
        mount(Some("bpf"), &pins, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .with_context(|| format!("cannot mount a BPF file system at `{}`", pins.display()))?;
        Ok(Self(pins))
    }
}

fn start(dir: &Path) -> Result<Daemon> {
    Daemon::start(&Setting { dir, tables: tables(dir, None)?, core: None })
}

/// The configuration of a daemon that enforces, with room for so many revocations.
fn tables(dir: &Path, room: Option<usize>) -> Result<String> {
    let policies = dir.join("policies");
    fs::create_dir(&policies)?;
    let rego = "package p\n\nimport rego.v1\n\ndefault decision := {\"allow\": false}\n\n\
        decision := {\"allow\": true, \"ttl\": 600} if input.token_status == \"valid\"\n";
    fs::write(policies.join("p.rego"), rego)?;
    let room = room.map_or_else(String::new, |n| {
        let policy = n / 16;
        format!("max_entries = {}\npolicy_entries = {policy}\n", n + policy)
    });
    Ok(format!(
        "[kernel]\n{room}mode = \"enforce\"\ninterfaces = [\"lo\"]\nports = [8080]\npin_dir = {}\n[policy]\ndirs = [{}]\ndecision = \"p/decision\"\n[token]\nfingerprint_key = {}\n",
        quoted(&dir.join("bpf/portcullis")),
        quoted(&policies),
        quoted(&dir.join("fingerprint.key")),
    ))
}

/// Tokens that were not revoked before.
#[derive(Default)]
struct Orders(usize);

impl Orders {
    fn take(&mut self, count: usize) -> Vec<String> {
        let from = self.0;
        self.0 += count;
        // The length of an ES256 token.
        (from..self.0).map(|n| format!("ey{n:0>420}.{n:0>12}.{}", "s".repeat(86))).collect()
    }
}

/// Clients that each revoke `each` tokens, all at once; the time of every acknowledgement.
fn concurrent(socket: &Path, fresh: &mut Orders, clients: usize, each: usize) -> Result<Vec<f64>> {
    let work: Vec<Vec<String>> = (0..clients).map(|_| fresh.take(each)).collect();
    let done: Vec<Result<Vec<f64>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = work
            .iter()
            .map(|tokens| {
                scope.spawn(|| {
                    let mut admin = Admin::connect(socket)?;
                    tokens.iter().map(|token| admin.revoke(token)).collect()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| bail!("a client panicked"))).collect()
    });
    done.into_iter().try_fold(Vec::new(), |mut all, one| {
        all.extend(one?);
        Ok(all)
    })
}
