//! The configuration: one tree of plain structs, each key documented with its default.
//!
//! [`load`] reads a TOML file and returns every fault it finds at once, each with file, line and key. The
//! reference page `docs/configuration.md` is generated from the same declarations by [`reference`]. Raw types
//! are for this room and for `app`, which turns them into each room's own settings.

mod check;
mod reference;
mod section;
mod tables;
mod values;

pub use check::{ConfigError, Fault, host_port, load, parse};
pub use reference::reference;
pub use tables::{
    Acknowledge, Admin, ApiKeys, AttachMode, Binding, CertificateForm, ClientRevokes, Config, Decide,
    DecisionLog, EnforcementMode, FailOpenDoor, Fleet, GateMode, Host, HttpSend, Introspection, Issuer,
    Kernel, KernelMode, Log, LogFormat, LogSink, MissingMode, Observe, OlderMode, OpaqueMode, Policy,
    PolicyBundle, PublishedList, ReactionMode, Revocation, Serve, ServeTls, ShedAttach, ShedMode, Ssf,
    SsfAction, SsfDelivery, SsfTransmitter, Standards, StandardsClient, Token, TokenStatusList, Trace,
    UnavailableMode, UnknownMode, Usage,
};
pub use values::{Endpoint, Port, Prefix, Span};
