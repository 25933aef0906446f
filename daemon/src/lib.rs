//! The Portcullis daemon as a library: each module is one room of `docs/ARCHITECTURE.md`.

#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic"))]

pub mod policy;
pub mod token;
