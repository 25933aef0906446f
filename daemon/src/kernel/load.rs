//! Loads the programs, adopts or makes the pinned maps, and attaches.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd as _,
    sync::{Arc, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, ProgramArray, RingBuf},
    programs::SchedClassifier,
};
use portcullis_common::{
    fingerprint::DenyFingerprint,
    layout::{
        Active, AddressKey, Flow, GuardConfig, PLACE_SLOTS, PORT_BY_ADDRESS, PORT_GUARDED, PORT_H2C,
        PORT_PROXY, PORT_SLOT, VERSION,
    },
    shed::{Shed, ShedConfig},
};

use super::{
    Connections, CounterReader, DenyMap, Enforcement, EventSource, Gate, GuardedView, KernelError, Older,
    Questions, Reaction, Settings,
    connections::{OlderFlows, Reaper, Storage, Stored},
    diag::Diag,
    guard_config::guard_config,
    pins,
    places::{Places, PlacesView},
    requests::Requests,
};

/// The programs, as `cargo xtask build-ebpf` made them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/portcullis.bpf.o"));

/// Strict mode's ingress program.
const GUARD_STRICT: &str = "guard";

/// The ingress program that is attached.
const fn guard_name(s: &Settings) -> &'static str {
    match (s.enforcement, s.reaction) {
        // Strict mode drops what it cannot vouch for, which is not observing.
        (Enforcement::Strict, Reaction::Respond | Reaction::Reset | Reaction::Drop) => GUARD_STRICT,
        (Enforcement::Fast, _) | (_, Reaction::Observe) => "guard_fast",
    }
}

/// Maps that outlive the daemon.
const PINNED: &[&str] = &[
    "DENY_SETS",
    "META",
    "ACTIVE",
    "COUNTERS",
    "EVENTS",
    "TOMBS",
    "TOMB_FILTER",
    "STREAMS",
    "ANSWERS",
    "FRAMES",
    "PROGRAMS",
    "GATE_PROGRAMS",
    "PENDING",
    "PENDING_FILTER",
    "OLDER",
    "BLOCKS",
    "TAGS",
    "DENIED",
    "VERDICTS",
    "ASKED",
    "LIMITS",
    "INQUIRIES",
    "INQUIRY_STATES",
    "INQUIRY_RING",
    "SOURCES",
    "SHED_TIMES",
];

/// The loaded kernel side: maps to write and read, programs to attach.
pub struct Kernel {
    pub(super) ebpf: Ebpf,
    /// The deny map.
    pub deny: DenyMap,
    active: Array<MapData, [u64; 3]>,
    pub(super) requests: Requests,
    pub(super) guard: &'static str,
    /// Pinned maps of an earlier daemon were adopted.
    pub adopted: bool,
    /// Maps of another layout are pinned beside: their connections are not known here.
    other_layout: bool,
    pub(super) verified: BTreeMap<&'static str, u32>,
    pub(super) view: GuardedView,
    pub(super) places: PlacesView,
    pub(super) settings: Settings,
    pub(super) reaper: Option<Reaper>,
    /// Connections that were there before guard.
    pub(super) older: OlderFlows,
    /// The guard of the other fingerprint key, while there is one.
    pub(super) beside: Option<Box<Self>>,
}

/// Plain-old-data wrapper for a type of `common`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Plain<T>(pub(super) T);

// SAFETY: both are `repr(C)` structs of integers without implicit padding (asserted in `common::layout`).
unsafe impl Pod for Plain<GuardConfig> {}
// SAFETY: as above.
unsafe impl Pod for Plain<AddressKey> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Flow> {}
// SAFETY: as above (asserted in `common::shed`).
unsafe impl Pod for Plain<ShedConfig> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Shed> {}

impl Kernel {
    /// Whether this daemon was built without the programs.
    pub(super) const fn is_absent() -> bool {
        OBJECT.is_empty()
    }

    /// Loads the programs for one key. What is in force is left as it is: see [`Self::join_programs`].
    pub(super) fn load_one(settings: Settings) -> Result<Self, KernelError> {
        pins::prepare(&settings.pin_dir)?;
        let found = pins::look(&settings)?;
        let mut loader = EbpfLoader::new();
        let maps = pins::maps_dir(&settings.pin_dir);
        for name in PINNED {
            loader.map_pin_path(name, maps.join(name));
        }
        let mut ebpf = loader.load(OBJECT).map_err(|e| KernelError::load(&e))?;
        let mut kernel = Self {
            deny: DenyMap::open(take(&mut ebpf, "DENY_SETS")?, &maps, settings.max_entries)?,
            active: Array::try_from(take(&mut ebpf, "ACTIVE")?).map_err(map_error)?,
            requests: Requests::new(|name| take(&mut ebpf, name))?,
            ebpf,
            adopted: found.maps,
            other_layout: found.other_layout,
            guard: guard_name(&settings),
            verified: BTreeMap::new(),
            view: Arc::default(),
            places: PlacesView::default(),
            settings,
            reaper: None,
            older: OlderFlows::default(),
            beside: None,
        };
        kernel.write_settings()?;
        kernel.prepare_shed()?;
        kernel.count_places()?;
        let guard = kernel.guard;
        kernel.load_program(guard)?;
        if kernel.is_strict() {
            kernel.load_program("guard_egress")?;
            if !kernel.settings.h2c_ports.is_empty() {
                kernel.load_program("guard_frames")?;
            }
        }
        Ok(kernel)
    }

    /// Has guard pass packets of ports where HTTP/2 is enabled on to the program that reads it, and that one pass back what
    /// it does not.
    pub(super) fn join_programs(&mut self) -> Result<(), KernelError> {
        if !self.is_strict() || self.settings.h2c_ports.is_empty() {
            return Ok(());
        }
        self.join("PROGRAMS", 1, "guard")?;
        self.join("PROGRAMS", 0, "guard_frames")
    }

    /// Lets go of an earlier daemon's programs where HTTP/2 is not enabled any more. To be called once this daemon's are in
    /// force.
    pub(super) fn part_programs(&mut self) -> Result<(), KernelError> {
        let frames = self.is_strict() && !self.settings.h2c_ports.is_empty();
        let gate = frames && self.settings.gate == Gate::Read;
        for (map, used) in [("PROGRAMS", frames), ("GATE_PROGRAMS", gate)] {
            if used {
                continue;
            }
            let mut programs = ProgramArray::try_from(self.map_mut(map)?).map_err(map_error)?;
            for slot in 0..2 {
                // Usually there is none.
                let _ = programs.clear_index(&slot);
            }
        }
        Ok(())
    }

    /// Puts a program that is loaded into a slot of a map of programs.
    pub(super) fn join(&mut self, map: &str, slot: u32, name: &str) -> Result<(), KernelError> {
        let what = || format!("join {name} with the other programs");
        let program = self.ebpf.program(name).ok_or_else(|| missing(name))?;
        let fd = program.fd().map_err(|e| KernelError::program(what(), &e))?;
        let fd = fd.try_clone().map_err(|e| KernelError::io(what(), e))?;
        let mut programs = ProgramArray::try_from(self.map_mut(map)?).map_err(map_error)?;
        programs.set(slot, &fd, 0).map_err(|e| KernelError::map(what(), e))
    }

    fn load_program(&mut self, name: &'static str) -> Result<(), KernelError> {
        let program = self.program(name)?;
        program.load().map_err(|e| KernelError::program(format!("load {name}"), &e))?;
        if let Some(n) = program.info().ok().and_then(|i| i.verified_instruction_count()) {
            self.verified.insert(name, n);
        }
        Ok(())
    }

    /// Whether strict mode's programs are the ones in use.
    pub(super) fn is_strict(&self) -> bool {
        self.guard == GUARD_STRICT
    }

    pub(super) fn program(&mut self, name: &str) -> Result<&mut SchedClassifier, KernelError> {
        let program = self.ebpf.program_mut(name).ok_or_else(|| missing(name))?;
        program.try_into().map_err(|e| KernelError::program(format!("find {name}"), &e))
    }

    fn write_settings(&mut self) -> Result<(), KernelError> {
        let s = self.settings.clone();
        let mut meta: Array<_, [u32; 2]> = Array::try_from(self.map_mut("META")?).map_err(map_error)?;
        meta.set(0, [VERSION, s.key_id], 0).map_err(map_error)?;
        let mut config: Array<_, Plain<GuardConfig>> =
            Array::try_from(self.map_mut("CONFIG")?).map_err(map_error)?;
        config.set(0, Plain(guard_config(&s)?), 0).map_err(map_error)?;
        let slots = port_slots(&s);
        let mut ports: Array<_, u64> = Array::try_from(self.map_mut("PORTS")?).map_err(map_error)?;
        for p in &s.ports {
            let everywhere = s.ports.iter().any(|q| q.port == p.port && q.address.is_none());
            let how = if everywhere { PORT_GUARDED } else { PORT_BY_ADDRESS };
            let proxy = if s.proxy_ports.contains(&p.port) { PORT_PROXY } else { 0 };
            let h2c = if s.h2c_ports.contains(&p.port) { PORT_H2C } else { 0 };
            let slot = slots.iter().position(|q| *q == Some(p.port)).unwrap_or(0) as u64;
            ports.set(u32::from(p.port), how | proxy | h2c | slot << PORT_SLOT, 0).map_err(map_error)?;
        }
        let mut addresses: HashMap<_, Plain<AddressKey>, u64> =
            HashMap::try_from(self.map_mut("ADDRESSES")?).map_err(map_error)?;
        for p in &s.ports {
            if let Some(address) = p.address {
                let address = match address {
                    IpAddr::V4(a) => a.to_ipv6_mapped(),
                    IpAddr::V6(a) => a,
                };
                let key = Plain(AddressKey { address: address_words(address), port: u64::from(p.port) });
                addresses.insert(key, 1, 0).map_err(map_error)?;
            }
        }
        Ok(())
    }

    pub(super) fn map_mut(&mut self, name: &str) -> Result<&mut Map, KernelError> {
        self.ebpf.map_mut(name).ok_or_else(|| missing(name))
    }

    /// Instructions the verifier walked of the ingress program, where the kernel tells.
    pub fn verified_instructions(&self) -> Option<u32> {
        self.verified.get(self.guard).copied()
    }

    pub(super) fn set_own_generation(&mut self, generation: u64) -> Result<(), KernelError> {
        self.change_active("set the policy generation", |a| a.generation = generation)
    }

    pub(super) fn end_own_connections(&mut self, tokens: Vec<DenyFingerprint>) -> Result<(), KernelError> {
        if let Some(reaper) = &self.reaper {
            reaper.end(tokens);
        }
        self.change_active("tell connections of a revocation", |a| a.epoch = a.epoch.wrapping_add(1))
    }

    pub(super) fn count_own_connections(
        &self,
        tokens: std::collections::HashSet<DenyFingerprint>,
        tell: Box<dyn FnOnce(Option<usize>) + Send>,
    ) {
        match &self.reaper {
            Some(reaper) => reaper.count(tokens, tell),
            None => tell(None),
        }
    }

    /// Has the programs look for what there is one of from now on: a `FEATURE_` mark.
    pub(super) fn look_for(&mut self, feature: u64) -> Result<(), KernelError> {
        if self.active.get(&0, 0).map_err(map_error)?[2] & feature != 0 {
            return Ok(());
        }
        self.change_active("tell the programs what to look for", |a| a.features |= feature)
    }

    fn change_active(&mut self, what: &str, change: impl FnOnce(&mut Active)) -> Result<(), KernelError> {
        let [generation, epoch, features] = self.active.get(&0, 0).map_err(map_error)?;
        let mut active = Active { generation, epoch, features };
        change(&mut active);
        self.active
            .set(0, [active.generation, active.epoch, active.features], 0)
            .map_err(|e| KernelError::map(what, e))
    }

    /// Ends connections that gate lets nothing more through of.
    pub fn end_flows(&self, flows: Vec<Flow>) {
        if let Some(reaper) = &self.reaper {
            reaper.end_flows(flows);
        }
    }

    /// The active generation, as pinned.
    pub fn generation(&self) -> u64 {
        self.active.get(&0, 0).map_or(0, |[g, ..]| g)
    }

    /// A way to look at living connections; `None` in fast mode, which keeps nothing of them.
    pub fn connections(&mut self) -> Result<Option<Connections>, KernelError> {
        if !self.is_strict() {
            return Ok(None);
        }
        let diag = Diag::open().map_err(|e| KernelError::io("open a socket to list connections", e))?;
        let s = &self.settings;
        let mut others: Vec<_> = s.interfaces.iter().filter_map(|i| i.namespace.clone()).collect();
        others.extend(s.namespaces.iter().cloned());
        others.sort_unstable();
        others.dedup();
        let mut ports: Vec<u16> = self.settings.ports.iter().map(|p| p.port).collect();
        ports.sort_unstable();
        ports.dedup();
        let stored = Stored {
            streams: self.storage("STREAMS")?,
            answers: self.storage("ANSWERS")?,
            frames: self.storage("FRAMES")?,
        };
        Ok(Some(Connections::new(diag, others, ports, stored)))
    }

    fn storage(&mut self, name: &str) -> Result<Storage, KernelError> {
        let (Map::SkStorage(data) | Map::Unsupported(data)) = self.map_mut(name)? else {
            return Err(missing(name));
        };
        let id = data.info().map_err(map_error)?.id();
        let fd = data.fd().as_fd().try_clone_to_owned();
        Ok(Storage { fd: fd.map_err(|e| KernelError::io(format!("use {name}"), e))?, id })
    }

    pub(super) fn look_for_own_older(&mut self) -> Result<(), KernelError> {
        let Some(mut connections) = self.connections()? else { return Ok(()) };
        let list = |e| KernelError::io("list the connections at guarded ports", e);
        // Of another layout's connections nothing is known, and nothing will be: they end at their next segment.
        if self.settings.older == Older::Reset || self.other_layout {
            let ended = connections.destroy_unseen().map_err(list)?;
            if ended != 0 {
                tracing::warn!(connections = ended, "connections older than guard were ended");
            }
            return Ok(());
        }
        let flows = connections.unseen().map_err(list)?;
        let mut older: HashMap<_, Plain<Flow>, u64> =
            HashMap::try_from(self.map_mut("OLDER")?).map_err(map_error)?;
        // What an earlier daemon noted and is closed by now.
        let closed: Vec<_> = older.keys().flatten().filter(|k| !flows.contains(&k.0)).collect();
        for flow in closed {
            older.remove(&flow).map_err(|e| KernelError::map("forget an older connection", e))?;
        }
        for (noted, flow) in flows.iter().enumerate() {
            if let Err(e) = older.insert(Plain(*flow), 1, 0) {
                tracing::warn!(
                    error = %e,
                    connections = flows.len() - noted,
                    "there is no room to note more connections older than guard: these end at their next segment"
                );
                break;
            }
        }
        self.view.write().unwrap_or_else(PoisonError::into_inner).set_older(&flows);
        *self.older.lock().unwrap_or_else(PoisonError::into_inner) = flows;
        Ok(())
    }

    /// Sets the counters by place up, in place of those of the programs before.
    fn count_places(&mut self) -> Result<(), KernelError> {
        let interfaces = Array::try_from(take(&mut self.ebpf, "INTERFACES")?).map_err(map_error)?;
        let counters = PerCpuArray::try_from(take(&mut self.ebpf, "PLACES")?).map_err(map_error)?;
        let places = Places::new(interfaces, counters, port_slots(&self.settings));
        self.places.put(Some(places));
        Ok(())
    }

    /// A reader of the counters by place.
    pub fn places(&self) -> PlacesView {
        self.places.clone()
    }

    /// A reader of the counters.
    pub fn counters(&mut self) -> Result<CounterReader, KernelError> {
        let counters =
            |k: &mut Self| PerCpuArray::try_from(take(&mut k.ebpf, "COUNTERS")?).map_err(map_error);
        let beside = self.beside.as_mut().map(|b| counters(b)).transpose()?;
        Ok(CounterReader::new(counters(self)?, beside))
    }

    /// The reader of the ring buffer; there is one.
    pub fn events(&mut self) -> Result<EventSource, KernelError> {
        let ring = RingBuf::try_from(take(&mut self.ebpf, "EVENTS")?).map_err(map_error)?;
        EventSource::new(ring).map_err(|e| KernelError::io("read the kernel's events", e))
    }
}

impl Kernel {
    /// The reader of what learn and hold mode ask; there is one, and it goes on over changes of the configuration.
    pub fn questions(&mut self) -> Result<Questions, KernelError> {
        let ring = RingBuf::try_from(take(&mut self.ebpf, "INQUIRY_RING")?).map_err(map_error)?;
        let states = Array::try_from(take(&mut self.ebpf, "INQUIRY_STATES")?).map_err(map_error)?;
        let Map::Array(slots) = take(&mut self.ebpf, "INQUIRIES")? else { return Err(missing("INQUIRIES")) };
        Questions::new(ring, slots, states).map_err(|e| KernelError::io("read what the kernel asks", e))
    }
}

/// The ports that are counted by themselves, by slot; slot 0 is for all others.
fn port_slots(s: &Settings) -> Vec<Option<u16>> {
    let mut ports: Vec<u16> = s.ports.iter().map(|p| p.port).collect();
    ports.sort_unstable();
    ports.dedup();
    std::iter::once(None).chain(ports.into_iter().map(Some)).take(PLACE_SLOTS as usize).collect()
}

/// An address as the kernel programs keep it: two words that hold its bytes in network order.
pub(super) fn address_words(a: Ipv6Addr) -> [u64; 2] {
    let bits = u128::from_ne_bytes(a.octets());
    #[allow(clippy::cast_possible_truncation, reason = "the two halves")]
    let (low, high) = (bits as u64, (bits >> 64) as u64);
    if cfg!(target_endian = "little") { [low, high] } else { [high, low] }
}

pub(super) fn missing(name: &str) -> KernelError {
    KernelError::Program {
        what: format!("use {name} of the kernel programs"),
        message: "the embedded object does not have it; it was built from another version".to_owned(),
    }
}

pub(super) fn map_error(e: MapError) -> KernelError {
    KernelError::map("use the kernel programs' maps", e)
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or_else(|| missing(name))
}
