//! The `[kernel]` table.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::{
    section::section,
    values::{Port, Prefix, Span},
};

/// Whether the kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelMode {
    /// Refuse condemned tokens.
    Enforce,
    /// Count and tell, let through.
    Observe,
    /// No kernel programs: decide alone.
    Off,
}

/// What watches a control group's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateMode {
    /// Nothing.
    Off,
    /// A second door behind guard.
    Door,
    /// A reader in guard's place.
    Read,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// The best the kernel has.
    Auto,
    /// tcx.
    Tcx,
    /// clsact.
    Clsact,
}

/// What a refused request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReactionMode {
    /// An answer.
    Respond,
    /// A reset.
    Reset,
    /// Nothing.
    Drop,
}

/// How much guard keeps of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EnforcementMode {
    /// A head is read whole, however it is cut.
    Strict,
    /// Each segment by itself.
    Fast,
}

/// What TLS on a guarded port gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OpaqueMode {
    /// It passes, counted.
    Pass,
    /// A reset.
    Refuse,
}

/// What requests without a verdict get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownMode {
    /// They pass.
    Pass,
    /// They pass and are decided afterwards.
    Learn,
    /// They wait until they are decided.
    Hold,
}

/// What an interface that is named and not there means at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingMode {
    /// An error.
    Refuse,
    /// It is waited for.
    Wait,
}

/// What connections older than guard get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OlderMode {
    /// They are read segment by segment.
    Pass,
    /// They are ended.
    Reset,
}

/// What is shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShedMode {
    /// Nothing.
    Off,
    /// Sources.
    Source,
    /// Connections, each by itself.
    Flow,
}

/// How shed is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShedAttach {
    /// By the driver where it can, else by the kernel.
    Auto,
    /// By the driver.
    Native,
    /// By the kernel.
    Generic,
}

section! {
    /// What the kernel programs guard, and what a refused request gets.
    Kernel as "kernel" {
        /// `"enforce"` refuses requests with condemned tokens, `"observe"` only counts them, `"off"` runs
        /// without kernel programs: then the decision path alone refuses, and `status` and a metric say so.
        mode: KernelMode = KernelMode::Enforce,
        /// `"strict"` follows each connection, so that no head with a condemned token is completed in the
        /// server's receive queue, however it is cut or repeated; `"fast"` reads each segment by itself, costs less
        /// and can be evaded by splitting a request.
        enforcement: EnforcementMode = EnforcementMode::Strict,
        /// Interfaces whose incoming packets are guarded, in the network namespace the daemon runs in: `lo` for
        /// a service behind a proxy on the same host. `*` stands for any characters: `veth*` guards those that
        /// come later too. In another network namespace they stand behind its path: `/run/netns/blue:eth0`, or
        /// `/proc/4711/ns/net:eth0` for a container by one of its processes. That takes CAP_SYS_ADMIN, and such
        /// namespaces are looked at every five seconds: what comes there is not guarded before.
        interfaces: Vec<String> = Vec::new(),
        /// Further network namespaces, by path, whose connections end with their token; those that `interfaces`
        /// names are among them anyway.
        namespaces: Vec<PathBuf> = Vec::new(),
        /// A program at the sockets of `gate_cgroup`, in strict mode: `"door"` drops what guard has not read and
        /// passed, whichever way it came; `"read"` reads in guard's place, where guard cannot (behind DNAT and
        /// tunnels), and can drop and end connections but not answer. `"off"` attaches none.
        gate: GateMode = GateMode::Off,
        /// The control group (version 2), with all below it.
        gate_cgroup: PathBuf = PathBuf::from("/sys/fs/cgroup"),
        /// `"refuse"` takes an interface that is named in full and not there for a mistake; `"wait"` starts without
        /// it and guards it when it comes. One that goes away while the daemon runs is waited for in either case.
        missing_interfaces: MissingMode = MissingMode::Refuse,
        /// Guard also attaches to the host's end of a container's veth. There it sees what the container sends, not
        /// what it is sent: that is refused unless it is said to be meant.
        container_veth: bool = false,
        /// TCP ports of plaintext HTTP/1 services: numbers, or `"address:port"` to guard one address alone.
        ports: Vec<Port> = Vec::new(),
        /// `"respond"` answers the client with 401 and resets the server's side, `"reset"` resets both,
        /// `"drop"` drops in silence (the client then retransmits for minutes).
        reaction: ReactionMode = ReactionMode::Respond,
        /// Longest request head read, in bytes, at most 65536. Strict mode refuses longer ones with 431.
        max_head: u32 = 16 * 1024,
        /// Guarded ports whose connections begin with a PROXY protocol header (version 1 or 2).
        proxy_protocol_ports: Vec<u16> = Vec::new(),
        /// Guarded ports whose connections may speak HTTP/2 in the clear from their first byte (h2c by prior knowledge:
        /// gRPC, mostly): strict mode reads their header blocks. On other ports it refuses HTTP/2, and `Upgrade: h2c` on
        /// all. What is refused is a whole connection: the streams beside the refused one end with it, counted as
        /// `streams_lost`. So leave it off behind a proxy that sends many clients' requests over one connection. A port
        /// cannot be among `proxy_protocol_ports` too.
        h2c_ports: Vec<u16> = Vec::new(),
        /// What connections that begin with TLS get in strict mode: nothing in them can be read. `"pass"` lets them
        /// through and counts them, `"refuse"` resets them.
        opaque: OpaqueMode = OpaqueMode::Pass,
        /// What requests get that have no verdict yet, in strict mode: `"pass"` lets them through, for a gateway or the
        /// application asks the daemon; `"learn"` lets them through and has the daemon decide each afterwards, so that
        /// the next one of the same token, method and target meets the verdict; `"hold"` lets none through before the
        /// daemon has decided: the client's own TCP sends it again, so a first one waits about 200 ms and later ones not
        /// at all. Neither needs a change to application or gateway.
        unknown: UnknownMode = UnknownMode::Pass,
        /// What connections that were there before guard get in strict mode: `"pass"` reads their segments by
        /// themselves, as fast mode does, and counts them as `unguarded`; `"reset"` ends them.
        older_connections: OlderMode = OlderMode::Pass,
        /// Body of the kernel's 401 for revoked and expired tokens; with its header it must stay below 512 bytes.
        answer_body: String = r#"{"error":"invalid_token"}"#.to_owned(),
        /// `WWW-Authenticate` of that answer (RFC 6750).
        answer_challenge: String = r#"Bearer error="invalid_token""#.to_owned(),
        /// Body of the kernel's 403 for tokens that a policy denies.
        denied_body: String = r#"{"error":"insufficient_scope"}"#.to_owned(),
        /// Body of the kernel's 429 for tokens over their rate limit.
        limited_body: String = r#"{"error":"rate_limited"}"#.to_owned(),
        /// `Retry-After` of that answer.
        retry_after: Span = Span::seconds(1),
        /// What is dropped at XDP, before the kernel works on it, once it was refused `shed_after` times within
        /// `shed_window`: `"source"` drops all that an address sends to guarded ports, its good tokens too; `"flow"`
        /// drops what still comes by a connection that was refused, and touches nobody else; `"off"` sheds nothing.
        shed: ShedMode = ShedMode::Off,
        /// Refusals that it takes.
        shed_after: u32 = 100,
        /// Within this time.
        shed_window: Span = Span::seconds(10),
        /// How long it is dropped then.
        shed_time: Span = Span::seconds(60),
        /// Addresses and prefixes that are never shed: every proxy, load balancer and NAT before the guarded ports
        /// that brings the requests of more than one client. Loopback, and ports that speak the PROXY protocol, are
        /// never shed by source anyway.
        shed_never: Vec<Prefix> = Vec::new(),
        /// Bits of an IPv6 address that make a source, from 32 to 128: whoever has one address of a network mostly
        /// has all.
        shed_ipv6_prefix: u8 = 64,
        /// `"native"` has the network card's driver drop, `"generic"` the kernel, later and at a higher cost to what
        /// passes, but with every driver; `"auto"` takes the first that works.
        shed_attach: ShedAttach = ShedAttach::Auto,
        /// `"tcx"` needs Linux 6.6, `"clsact"` works from 6.1, `"auto"` takes the first that is there.
        attach: AttachMode = AttachMode::Auto,
        /// Directory on a BPF file system where maps and links are pinned, so that enforcement outlives the daemon.
        pin_dir: PathBuf = PathBuf::from("/sys/fs/bpf/portcullis"),
        /// Tokens that can be condemned at once. The memory is taken at start: about 90 bytes an entry.
        max_entries: u32 = 1 << 20,
        /// How many of them policies may condemn, so that they never crowd out revocations.
        policy_entries: u32 = 1 << 18,
    }
}
