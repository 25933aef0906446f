//! The Portcullis daemon as a library: each module is one room of `docs/ARCHITECTURE.md`.
//!
//! Data goes one way: `serve → decide → {token, policy, revoke} → kernel`. `app` alone wires them.

#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic"))]

pub mod app;
pub mod bundle;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decide;
pub mod fetch;
pub mod geo;
mod hex;
pub mod journal;
pub mod kernel;
pub mod outside;
mod percent;
mod plain;
pub mod policy;
pub mod record;
pub mod revoke;
pub mod serve;
pub mod ssf;
pub mod telemetry;
pub mod token;
pub mod trace;
pub mod usage;
