//! Shed at XDP: attached where guard is, when it is configured, and what it has noted.
//!
//! It spares work and decides nothing, so an interface on which it cannot be attached is guarded all the same; that is
//! logged and shown.

use std::{
    fmt, io, mem,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::PoisonError,
    time::Duration,
};

use aya::{
    maps::{
        Array, HashMap, MapData,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{
        Xdp, XdpMode,
        links::{FdLink, LinkError, PinnedLink},
        xdp::XdpLink,
    },
};
use portcullis_common::{
    layout::Flow,
    shed::{SHED_FLOW, SHED_OFF, SHED_SOURCE, Shed, ShedConfig},
};
use serde::Serialize;

use super::{
    Kernel, KernelError, Reaction,
    attach::pin_name,
    error::os_error,
    load::{Plain, address_words, map_error, missing},
    pins::{self, LINK_PREFIX},
};

/// What the pins of the links begin with.
const NAME: &str = "shed";

/// Entries of the map of senders.
const ENTRIES: usize = 1 << 16;

/// What is shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShedBy {
    /// Nothing.
    Off,
    /// All that comes from a source.
    Source,
    /// A connection by itself.
    Flow,
}

/// How the driver runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShedHook {
    /// The driver runs it.
    Native,
    /// The kernel runs it for the driver.
    Generic,
}

impl ShedHook {
    /// Its label in metrics and pins.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Native => "shed",
            Self::Generic => "shed_generic",
        }
    }

    const fn mode(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// An address, or all that begin like it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Bits of it that count.
    pub len: u8,
}

/// What shed is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShedSettings {
    /// What is shed.
    pub by: ShedBy,
    /// How it may be attached, best first.
    pub hooks: Vec<ShedHook>,
    /// Refusals within the window that it takes.
    pub after: u32,
    /// The window.
    pub window: Duration,
    /// How long it lasts.
    pub time: Duration,
    /// Bits of an IPv6 address that tell a source from others.
    pub ipv6_prefix: u8,
    /// Who is never shed.
    pub never: Vec<Prefix>,
}

impl ShedSettings {
    /// Nothing is shed.
    pub const fn off() -> Self {
        Self {
            by: ShedBy::Off,
            hooks: Vec::new(),
            after: 1,
            window: Duration::ZERO,
            time: Duration::ZERO,
            ipv6_prefix: 128,
            never: Vec::new(),
        }
    }

    fn laid(&self, on: bool) -> ShedConfig {
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX / 2);
        let bits = u128::MAX.checked_shl(128 - u32::from(self.ipv6_prefix.min(128))).unwrap_or(0);
        ShedConfig {
            how: match self.by {
                ShedBy::Source if on => SHED_SOURCE,
                ShedBy::Flow if on => SHED_FLOW,
                _ => SHED_OFF,
            },
            after: self.after,
            window: nanos(self.window),
            time: nanos(self.time),
            mask: address_words(Ipv6Addr::from_bits(bits)),
        }
    }
}

/// An interface on which shed is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShedAt {
    /// Its name.
    pub interface: String,
    /// The hook.
    pub hook: ShedHook,
}

/// What is known of a sender that was refused.
#[derive(Clone, Debug, Serialize)]
pub struct Sender {
    /// Its address, or its connection's two ends.
    pub source: String,
    /// The interface's number.
    pub interface: u32,
    /// How much longer it is shed, in seconds; 0 where it is not.
    pub shed_for_seconds: u64,
    /// Refusals in the present window.
    pub refused: u32,
    /// How often it was shed.
    pub times_shed: u32,
    /// It carried many tokens within a window: likely a proxy.
    pub many_tokens: bool,
}

/// Reads what shed goes by; shared freely.
pub struct Senders(HashMap<MapData, Plain<Flow>, Plain<Shed>>);

impl Senders {
    /// Those that are shed at this boot time, or were refused and carried many tokens, at most so many.
    pub fn read(&self, now: u64, most: usize) -> Vec<Sender> {
        // Where entries go while they are read the kernel begins again: no more are read than there can be.
        let entries = self.0.iter().take(ENTRIES).filter_map(Result::ok);
        let told = entries.filter(|(_, s)| s.0.is_shed(now) || s.0.many != 0);
        told.take(most).map(|(flow, s)| sender(&flow.0, &s.0, now)).collect()
    }
}

impl fmt::Debug for Senders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Senders")
    }
}

fn sender(flow: &Flow, s: &Shed, now: u64) -> Sender {
    let at = |words: [u64; 2]| {
        let mut octets = [0; 16];
        let (low, high) = octets.split_at_mut(8);
        low.copy_from_slice(&words[0].to_ne_bytes());
        high.copy_from_slice(&words[1].to_ne_bytes());
        Ipv6Addr::from(octets).to_canonical()
    };
    let source = at(flow.source);
    let source = if flow.destination_port == 0 {
        source.to_string()
    } else {
        let (from, to) = (
            SocketAddr::new(source, flow.source_port),
            SocketAddr::new(at(flow.destination), flow.destination_port),
        );
        format!("{from} to {to}")
    };
    Sender {
        source,
        interface: flow.interface,
        shed_for_seconds: s.until.saturating_sub(now).div_ceil(1_000_000_000),
        refused: s.refused,
        times_shed: s.times,
        many_tokens: s.many != 0,
    }
}

impl Kernel {
    /// Whether shed is to be attached: where nothing is refused, nothing is shed.
    pub(super) fn sheds(&self) -> bool {
        self.settings.shed.by != ShedBy::Off && self.settings.reaction != Reaction::Observe
    }

    /// Tells the programs what is shed, and loads the one that does it.
    pub(super) fn prepare_shed(&mut self) -> Result<(), KernelError> {
        let on = self.sheds();
        let s = self.settings.shed.clone();
        let mut config: Array<_, Plain<ShedConfig>> =
            Array::try_from(self.map_mut("SHED_CONFIG")?).map_err(map_error)?;
        config.set(0, Plain(s.laid(on)), 0).map_err(map_error)?;
        let mut never: LpmTrie<_, [u64; 2], u64> =
            LpmTrie::try_from(self.map_mut("NEVER_SHED")?).map_err(map_error)?;
        for p in &s.never {
            let (address, len) = match p.address {
                IpAddr::V4(a) => (a.to_ipv6_mapped(), 96 + p.len),
                IpAddr::V6(a) => (a, p.len),
            };
            never.insert(&Key::new(len.into(), address_words(address)), 1, 0).map_err(map_error)?;
        }
        if on {
            for hook in s.hooks {
                self.load_shed(hook)?;
            }
        }
        Ok(())
    }

    pub(super) fn load_shed(&mut self, hook: ShedHook) -> Result<(), KernelError> {
        let name = hook.program();
        let program = self.xdp(hook)?;
        program.load().map_err(|e| KernelError::program(format!("load {name}"), &e))?;
        if let Some(n) = program.info().ok().and_then(|i| i.verified_instruction_count()) {
            self.verified.insert(name, n);
        }
        Ok(())
    }

    pub(super) fn xdp(&mut self, hook: ShedHook) -> Result<&mut Xdp, KernelError> {
        let name = hook.program();
        let program = self.ebpf.program_mut(name).ok_or_else(|| missing(name))?;
        program.try_into().map_err(|e| KernelError::program(format!("find {name}"), &e))
    }

    /// Attaches to an interface in the calling thread's network namespace, as far as that can be, and notes it.
    pub(super) fn attach_shed(&mut self, name: &str, index: u32, label: &str) {
        // What comes by loopback comes from this host, whose gateway must not be shed.
        if !self.sheds() || index == 1 {
            return;
        }
        let done = self.attach_shed_by_best(name, label);
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        view.shed.retain(|s| s.interface != label);
        view.shed_failed.remove(label);
        match done {
            Ok(hook) => view.shed.push(ShedAt { interface: label.to_owned(), hook }),
            Err(e) => {
                tracing::warn!(interface = label, error = %e, "guarded, but floods are not shed there");
                view.shed_failed.insert(label.to_owned(), e.to_string());
            }
        }
    }

    fn attach_shed_by_best(&mut self, name: &str, label: &str) -> Result<ShedHook, KernelError> {
        let (pin_dir, hooks) = (self.settings.pin_dir.clone(), self.settings.shed.hooks.clone());
        for hook in [ShedHook::Native, ShedHook::Generic] {
            let path = pin(&pin_dir, hook, label);
            if !hooks.contains(&hook) {
                pins::remove(&path)?;
            } else if self.replace_shed(hook, &path)? {
                return Ok(hook);
            }
        }
        let mut last = None;
        for hook in hooks {
            match self.attach_shed_anew(name, hook, &pin(&pin_dir, hook, label)) {
                Ok(()) => return Ok(hook),
                // Another's program is there, whichever way is tried.
                Err(e @ KernelError::Shed { busy: true, .. }) => return Err(e),
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or(KernelError::Shed {
            interface: name.to_owned(),
            busy: false,
            message: "no hook is configured".to_owned(),
        }))
    }

    /// Puts the program in an earlier one's place; `false` where there is none that could still carry packets.
    fn replace_shed(&mut self, hook: ShedHook, path: &Path) -> Result<bool, KernelError> {
        let what = || format!("replace {NAME} at {}", path.display());
        let broken = |e: LinkError| KernelError::Program { what: what(), message: e.to_string() };
        let old = match PinnedLink::from_pin(path) {
            Ok(old) => FdLink::from(old),
            Err(LinkError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => {
                return Ok(false);
            }
            Err(e) => return Err(broken(e)),
        };
        let link: XdpLink = old.try_into().map_err(broken)?;
        let program = self.xdp(hook)?;
        match program.attach_to_link(link) {
            Ok(id) => {
                // The pin keeps it; dropping this handle must not detach it.
                mem::forget(program.take_link(id).map_err(|e| KernelError::program(what(), &e))?);
                Ok(true)
            }
            // The interface went away under the link.
            Err(e) if os_error(&e) == Some(libc::ENOLINK) => pins::remove(path).map(|()| false),
            Err(e) => Err(KernelError::program(what(), &e)),
        }
    }

    fn attach_shed_anew(&mut self, name: &str, hook: ShedHook, path: &Path) -> Result<(), KernelError> {
        let broken = |e: &dyn fmt::Display, busy| KernelError::Shed {
            interface: name.to_owned(),
            busy,
            message: format!("{} XDP: {e}", hook.label()),
        };
        let program = self.xdp(hook)?;
        let id = program.attach(name, hook.mode()).map_err(|e| {
            let busy = matches!(os_error(&e), Some(libc::EBUSY | libc::EEXIST));
            broken(&super::error::chain(&e), busy)
        })?;
        let link = program.take_link(id).map_err(|e| broken(&e, false))?;
        let link: FdLink = link.try_into().map_err(|e: LinkError| broken(&e, false))?;
        let pinned = link.pin(path).map_err(|e| broken(&e, false))?;
        mem::forget(pinned);
        Ok(())
    }

    /// A reader of what shed goes by.
    pub fn senders(&mut self) -> Result<Senders, KernelError> {
        let map = self.ebpf.take_map("SOURCES").ok_or_else(|| missing("SOURCES"))?;
        HashMap::try_from(map).map(Senders).map_err(map_error)
    }
}

fn pin(pin_dir: &Path, hook: ShedHook, label: &str) -> PathBuf {
    pin_dir.join(format!("{LINK_PREFIX}{NAME}-{}-{}", hook.label(), pin_name(label)))
}

/// Detaches shed from what was an interface with this label.
pub(super) fn forget(pin_dir: &Path, label: &str) -> Result<(), KernelError> {
    [ShedHook::Native, ShedHook::Generic].into_iter().try_for_each(|h| pins::remove(&pin(pin_dir, h, label)))
}

/// Detaches shed from interfaces whose labels are not in `keep`.
pub(super) fn detach_others(pin_dir: &Path, keep: &[String]) -> Result<(), KernelError> {
    let wanted: Vec<PathBuf> = [ShedHook::Native, ShedHook::Generic]
        .into_iter()
        .flat_map(|hook| keep.iter().map(move |label| pin(pin_dir, hook, label)))
        .collect();
    for entry in pins::list(pin_dir)? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&format!("{LINK_PREFIX}{NAME}-")) && !wanted.contains(&entry) {
            pins::remove(&entry)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_source_is_known_by_its_prefix() {
        let settings = |bits| ShedSettings { ipv6_prefix: bits, by: ShedBy::Source, ..ShedSettings::off() };
        assert_eq!(settings(64).laid(true).mask, [u64::MAX, 0]);
        assert_eq!(settings(128).laid(true).mask, [u64::MAX, u64::MAX]);
        assert_eq!(
            settings(56).laid(true).mask,
            [u64::from_ne_bytes([255, 255, 255, 255, 255, 255, 255, 0]), 0]
        );
        assert_eq!(settings(64).laid(false).how, SHED_OFF);
    }

    #[test]
    fn senders_are_told_by_source_or_connection() {
        let v4 = |a: [u8; 4]| address_words(std::net::Ipv4Addr::from(a).to_ipv6_mapped());
        let mut flow = Flow {
            source: v4([192, 0, 2, 7]),
            destination: [0; 2],
            source_port: 0,
            destination_port: 0,
            interface: 3,
        };
        let s = Shed { until: 1_500_000_000, times: 2, ..Shed::default() };
        let told = sender(&flow, &s, 0);
        assert_eq!((told.source.as_str(), told.shed_for_seconds, told.times_shed), ("192.0.2.7", 2, 2));
        flow.destination = address_words("2001:db8::1".parse().unwrap());
        (flow.source_port, flow.destination_port) = (9, 80);
        assert_eq!(sender(&flow, &s, 0).source, "192.0.2.7:9 to [2001:db8::1]:80");
    }
}
