//! End-to-end tests: real kernel, real servers, real clients, in namespaces of their own. And what they and
//! the benchmarks share.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic"))]

pub mod bench;
pub mod figures;
mod shipped;
