//! Names of decisions.

use std::fmt;

/// A decision's id: random, so that no two hosts need to agree. Written as sixteen hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionId(pub u64);

impl DecisionId {
    /// A fresh one, never 0.
    pub fn make() -> Self {
        let mut bytes = [0; 8];
        // Without randomness ids repeat, which harms nothing but the log's readers.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        Self(u64::from_ne_bytes(bytes) | 1)
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
