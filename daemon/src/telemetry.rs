//! Metrics and log lines. Knows none of the stages: they import it and hand it plain values.

mod logs;
mod metrics;
mod rules;

pub use logs::init as init_logs;
pub use metrics::{Door, Fleet, IssuerKeys, KernelSide, Metrics};
pub use rules::Counted;
