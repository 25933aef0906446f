//! What the benchmark programs share: their arguments, keys and tokens, the daemon, the load, the disk.

pub mod admin;
pub mod bulk;
pub mod daemon;
pub mod deaths;
pub mod disk;
pub mod fleet;
pub mod flood;
pub mod grpc;
pub mod h2c;
pub mod kernel;
pub mod load;
pub mod loaded;
pub mod policy;
pub mod through_envoy;
pub mod tokens;

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result, bail};

/// Arguments of a benchmark program.
#[derive(Debug, Default)]
pub struct Args {
    /// Fewer rounds: to see that it runs, not for figures of record.
    pub quick: bool,
    /// Where to write the figures.
    pub json: Option<PathBuf>,
    /// The one part of several to run.
    pub only: Option<String>,
    /// Directory on the disk to measure.
    pub dir: Option<PathBuf>,
}

impl Args {
    /// Reads the program's own.
    pub fn read() -> Result<Self> {
        let mut args = Self::default();
        let mut given = env::args().skip(1);
        while let Some(arg) = given.next() {
            let mut value = || given.next().with_context(|| format!("`{arg}` needs a value"));
            match arg.as_str() {
                "--quick" => args.quick = true,
                "--json" => args.json = Some(value()?.into()),
                "--only" => args.only = Some(value()?),
                "--dir" => args.dir = Some(value()?.into()),
                _ => bail!("`{arg}` is not known; known are --quick, --json FILE, --only PART, --dir DIR"),
            }
        }
        Ok(args)
    }
}

/// The value below which `share` of the sorted measurements lie.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an index into the measurements"
)]
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measurements() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        let found = [0.0, 0.5, 0.99, 1.0].map(|p| format!("{:.0}", percentile(&sorted, p)));
        assert_eq!(found, ["1", "100", "198", "200"]);
        assert!(percentile(&[], 0.5).is_nan());
    }
}
