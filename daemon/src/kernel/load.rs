//! Loads the programs, adopts or makes the pinned maps, and attaches.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::SchedClassifier,
};
use portcullis_common::layout::{
    ANSWER_MAX, Active, AddressKey, GuardConfig, Meta, PORT_BY_ADDRESS, PORT_GUARDED, ScanConfig,
    ScanConfigError, VERSION,
};

use super::{
    Attachment, CounterReader, DenyMap, EventSource, KernelError, Settings,
    attach::{attach, detach_others, remove_all},
};

/// The programs, as `cargo xtask build-ebpf` made them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/portcullis.bpf.o"));

/// The program that is attached.
const GUARD: &str = "guard";

/// Maps that outlive the daemon.
const PINNED: &[&str] = &["DENY", "META", "ACTIVE", "COUNTERS", "EVENTS", "TOMBS", "TOMB_FILTER"];

/// `BPF_FS_MAGIC`.
const BPFFS: i64 = 0xcafe_4a11;

/// The loaded kernel side: maps to write and read, programs to attach.
pub struct Kernel {
    ebpf: Ebpf,
    /// The deny map.
    pub deny: DenyMap,
    active: Array<MapData, [u64; 1]>,
    attachments: Vec<Attachment>,
    /// Pinned maps of an earlier daemon were adopted.
    pub adopted: bool,
    verified_instructions: Option<u32>,
}

/// Plain-old-data wrapper for a type of `common`.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Plain<T>(T);

// SAFETY: both are `repr(C)` structs of integers without implicit padding (asserted in `common::layout`).
unsafe impl Pod for Plain<GuardConfig> {}
// SAFETY: as above.
unsafe impl Pod for Plain<AddressKey> {}

impl Kernel {
    /// Loads the programs and fills their settings; nothing is attached yet, so that the deny map can be
    /// filled before the first packet is judged.
    pub fn load(settings: &Settings) -> Result<Self, KernelError> {
        if OBJECT.is_empty() {
            return Err(KernelError::NotBuilt);
        }
        prepare_pin_dir(&settings.pin_dir)?;
        let adopted = check_pinned(settings)?;
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("DENY", settings.max_entries);
        for name in PINNED {
            loader.map_pin_path(name, settings.pin_dir.join(name));
        }
        let mut ebpf = loader.load(OBJECT).map_err(|e| KernelError::load(&e))?;
        let mut kernel = Self {
            deny: deny_map(&mut ebpf)?,
            active: Array::try_from(take(&mut ebpf, "ACTIVE")?).map_err(map_error)?,
            ebpf,
            attachments: Vec::new(),
            adopted,
            verified_instructions: None,
        };
        kernel.write_settings(settings)?;
        let guard = kernel.program(GUARD)?;
        guard.load().map_err(|e| KernelError::program("load guard", &e))?;
        kernel.verified_instructions =
            kernel.program(GUARD)?.info().ok().and_then(|i| i.verified_instruction_count());
        Ok(kernel)
    }

    fn program(&mut self, name: &str) -> Result<&mut SchedClassifier, KernelError> {
        let program = self.ebpf.program_mut(name).ok_or_else(|| missing(name))?;
        program.try_into().map_err(|e| KernelError::program(format!("find {name}"), &e))
    }

    fn write_settings(&mut self, s: &Settings) -> Result<(), KernelError> {
        let mut meta: Array<_, [u32; 2]> = Array::try_from(self.map_mut("META")?).map_err(map_error)?;
        meta.set(0, [VERSION, s.key_id], 0).map_err(map_error)?;
        let mut config: Array<_, Plain<GuardConfig>> =
            Array::try_from(self.map_mut("CONFIG")?).map_err(map_error)?;
        config.set(0, Plain(guard_config(s)?), 0).map_err(map_error)?;
        let mut ports: Array<_, u64> = Array::try_from(self.map_mut("PORTS")?).map_err(map_error)?;
        for p in &s.ports {
            let everywhere = s.ports.iter().any(|q| q.port == p.port && q.address.is_none());
            let how = if everywhere { PORT_GUARDED } else { PORT_BY_ADDRESS };
            ports.set(u32::from(p.port), how, 0).map_err(map_error)?;
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

    fn map_mut(&mut self, name: &str) -> Result<&mut Map, KernelError> {
        self.ebpf.map_mut(name).ok_or_else(|| missing(name))
    }

    /// Attaches to every configured interface, in place of an earlier daemon's programs, and detaches from
    /// those that are no longer configured.
    pub fn attach(&mut self, settings: &Settings) -> Result<(), KernelError> {
        let guard = self.program(GUARD)?;
        let attachments: Result<Vec<_>, _> = settings
            .interfaces
            .iter()
            .map(|i| attach(guard, i, settings.attach, &settings.pin_dir))
            .collect();
        self.attachments = attachments?;
        for interface in detach_others(&settings.pin_dir, &settings.interfaces)? {
            tracing::warn!(interface, "no longer configured: guard detached");
        }
        Ok(())
    }

    /// What is attached where.
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// Instructions the verifier walked, where the kernel tells.
    pub fn verified_instructions(&self) -> Option<u32> {
        self.verified_instructions
    }

    /// Makes a policy generation the active one: condemnations of all others lapse at once.
    pub fn set_generation(&mut self, generation: u64) -> Result<(), KernelError> {
        let Active { generation } = Active { generation };
        self.active.set(0, [generation], 0).map_err(|e| KernelError::map("set the policy generation", e))
    }

    /// The active generation, as pinned.
    pub fn generation(&self) -> u64 {
        self.active.get(&0, 0).map_or(0, |[g]| g)
    }

    /// A reader of the counters.
    pub fn counters(&mut self) -> Result<CounterReader, KernelError> {
        PerCpuArray::try_from(take(&mut self.ebpf, "COUNTERS")?).map(CounterReader::new).map_err(map_error)
    }

    /// The reader of the ring buffer; there is one.
    pub fn events(&mut self) -> Result<EventSource, KernelError> {
        let ring = RingBuf::try_from(take(&mut self.ebpf, "EVENTS")?).map_err(map_error)?;
        EventSource::new(ring).map_err(|e| KernelError::io("read the kernel's events", e))
    }
}

/// Takes everything away: links, filters, maps and their directory. Enforcement ends.
pub fn detach_all(pin_dir: &Path, interfaces: &[String]) -> Result<(), KernelError> {
    remove_all(pin_dir, interfaces)
}

/// An address as the kernel programs keep it: two words that hold its bytes in network order.
fn address_words(a: Ipv6Addr) -> [u64; 2] {
    let bits = u128::from_ne_bytes(a.octets());
    #[allow(clippy::cast_possible_truncation, reason = "the two halves")]
    let (low, high) = (bits as u64, (bits >> 64) as u64);
    if cfg!(target_endian = "little") { [low, high] } else { [high, low] }
}

fn missing(name: &str) -> KernelError {
    KernelError::Program {
        what: format!("use {name} of the kernel programs"),
        message: "the embedded object does not have it; it was built from another version".to_owned(),
    }
}

fn map_error(e: MapError) -> KernelError {
    KernelError::map("use the kernel programs' maps", e)
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or_else(|| missing(name))
}

fn deny_map(ebpf: &mut Ebpf) -> Result<DenyMap, KernelError> {
    let map = take(ebpf, "DENY")?;
    let Map::HashMap(data) = &map else { return Err(missing("DENY")) };
    let capacity = data.info().map_err(map_error)?.max_entries();
    Ok(DenyMap::new(HashMap::try_from(map).map_err(map_error)?, capacity))
}

fn guard_config(s: &Settings) -> Result<GuardConfig, KernelError> {
    let schemes: Vec<&str> = s.schemes.iter().map(String::as_str).collect();
    let headers: Vec<&str> = s.key_headers.iter().map(String::as_str).collect();
    let scan = ScanConfig::new(s.key, &schemes, &headers).map_err(|e| match e {
        ScanConfigError::TooMany => KernelError::Names(
            "guard has room for eight `token.schemes` and four `token.key_headers`: name fewer",
        ),
        ScanConfigError::TooLong => KernelError::Names(
            "guard reads schemes of up to 15 and header names of up to 31 characters: name shorter ones",
        ),
    })?;
    let mut answer = [0u8; ANSWER_MAX];
    let bytes = s.answer.bytes();
    for (slot, b) in answer.iter_mut().zip(bytes) {
        *slot = *b;
    }
    Ok(GuardConfig {
        scan,
        reaction: s.reaction.number(),
        answer_len: u32::try_from(bytes.len().min(ANSWER_MAX - 4)).unwrap_or(0),
        answer_sum: s.answer.sum(),
        pad: 0,
        answer,
    })
}

fn prepare_pin_dir(path: &Path) -> Result<(), KernelError> {
    if !path.exists() {
        fs::DirBuilder::new().mode(0o700).create(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => KernelError::NotBpffs { path: path.to_owned() },
            _ => KernelError::io(format!("create {}", path.display()), e),
        })?;
    }
    let fs_kind = nix::sys::statfs::statfs(path)
        .map_err(|e| KernelError::io(format!("look at {}", path.display()), e.into()))?
        .filesystem_type();
    if fs_kind.0 & 0xffff_ffff != BPFFS {
        let _ = fs::remove_dir(path);
        return Err(KernelError::NotBpffs { path: path.to_owned() });
    }
    // Others must not open the maps: whoever may write the deny map decides who is locked out.
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(|e| KernelError::io(format!("restrict {}", path.display()), e))
}

/// Reads what an earlier daemon pinned: `true` if it is there and fits.
fn check_pinned(s: &Settings) -> Result<bool, KernelError> {
    let path = s.pin_dir.join("META");
    if !path.exists() {
        return Ok(false);
    }
    let data = MapData::from_pin(&path).map_err(map_error)?;
    let map: Array<_, [u32; 2]> =
        Array::try_from(Map::from_map_data(data).map_err(map_error)?).map_err(map_error)?;
    let [version, key_id] = map.get(&0, 0).map_err(map_error)?;
    let found = Meta { version, key_id };
    // A daemon that died between pinning and writing left zeros.
    if found == (Meta { version: 0, key_id: 0 }) {
        return Ok(true);
    }
    if found.version != VERSION {
        return Err(KernelError::Layout { path: s.pin_dir.clone(), found: found.version, expected: VERSION });
    }
    if found.key_id != s.key_id {
        return Err(KernelError::KeyMismatch {
            path: s.pin_dir.clone(),
            found: found.key_id,
            expected: s.key_id,
        });
    }
    Ok(true)
}

/// What tests and benchmarks of the programs need beside the daemon's own interface.
pub mod test_support {
    use std::time::Duration;

    use aya::programs::{TestRun, TestRunOptions};

    use super::{Kernel, KernelError};

    /// What became of a packet.
    #[derive(Debug)]
    pub struct Ran {
        /// The program's verdict: -1 next, 2 drop, 7 redirect.
        pub action: i32,
        /// The packet afterwards.
        pub packet: Vec<u8>,
        /// Mean time of one run.
        pub time: Duration,
    }

    /// A program of the object.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Which {
        /// The guard itself.
        Guard,
        /// A program that does nothing.
        Empty,
        /// One that hashes as many bytes as the packet has behind its Ethernet header, and looks that up.
        Hash,
    }

    impl Which {
        const fn name(self) -> &'static str {
            match self {
                Self::Guard => "guard",
                Self::Empty => "bench_empty",
                Self::Hash => "bench_hash",
            }
        }
    }

    impl Kernel {
        /// Loads the yardsticks of the benchmark beside guard.
        pub fn load_yardsticks(&mut self) -> Result<(), KernelError> {
            for which in [Which::Empty, Which::Hash] {
                let what = || format!("load {}", which.name());
                self.program(which.name())?.load().map_err(|e| KernelError::program(what(), &e))?;
            }
            Ok(())
        }

        /// Runs a program over a packet (`BPF_PROG_TEST_RUN`), `repeat` times.
        pub fn test_run(&mut self, which: Which, packet: &[u8], repeat: u32) -> Result<Ran, KernelError> {
            let mut out = vec![0; 65536];
            let options = TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut out),
                repeat,
                ..TestRunOptions::new()
            };
            let result = self
                .program(which.name())?
                .test_run(options)
                .map_err(|e| KernelError::program(format!("run {}", which.name()), &e))?;
            out.truncate(result.data_size_out as usize);
            Ok(Ran { action: result.return_value.cast_signed(), packet: out, time: result.duration })
        }
    }
}
