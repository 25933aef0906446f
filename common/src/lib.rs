//! What the kernel programs and the daemon must agree on, to the byte.
//!
//! * [`fingerprint`]: the keyed hash that is a token's only name outside the process that read it.
//! * [`head`]: where a token sits in an HTTP/1 byte stream. One scanner serves both sides.
//! * [`h2`]: where it sits in the header blocks of an HTTP/2 byte stream, likewise.
//! * [`layout`]: keys and values of the shared BPF maps, with their size asserts and version.
//! * [`stream`]: which bytes of a connection were passed, taken and read.
//! * [`reason`]: the one numbered list of reasons and outcomes that users see.
//! * [`shed`]: what is noted of floods.
//!
//! This crate allocates nothing, imports no other crate of the workspace, and runs unchanged inside a BPF
//! program. It does no I/O and knows neither policies nor tokens' meaning.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![warn(missing_docs)]
#![allow(
    clippy::inline_always,
    reason = "a BPF program is one function as far as can be: calls cost, and their stack is shared"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic"))]

pub mod fingerprint;
pub mod h2;
pub mod head;
pub mod layout;
pub mod reason;
pub mod shed;
pub mod stream;
pub mod word;
