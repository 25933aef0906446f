//! `portcullis policy bench`

use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use serde_json::json;

use super::source::{InputArg, Source};
use crate::{
    cli::{FAILED, Failure, OK, Outcome, print, print_json},
    policy::Input,
};

/// Most evaluations that are timed one by one.
const MOST: usize = 1_000_000;

/// Measure how long one decision takes, evaluated each time, on the engine that the daemon would use
///
/// Example: portcullis policy bench policies --input request.json
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    input: InputArg,
    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    seconds: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Outcome {
        let (set, input) = (self.source.load(true)?, Input::from(self.input.read()?));
        if let Err(e) = set.eval_decision(&input) {
            return Err(Failure::new(FAILED, format!("there is nothing to measure: {e}")));
        }
        let limit = Duration::from_secs(self.seconds.clamp(1, 60));
        let run = |limit: Duration| {
            let (begun, mut times) = (Instant::now(), Vec::new());
            while begun.elapsed() < limit && times.len() < MOST {
                let at = Instant::now();
                let _ = std::hint::black_box(set.eval_decision(std::hint::black_box(&input)));
                times.push(at.elapsed());
            }
            times
        };
        run(limit / 10);
        let mut times = run(limit);
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 1000];
        let micros = |d: Duration| d.as_secs_f64() * 1e6;
        let (median, p90, p99, least) = (at(500), at(900), at(990), at(0));
        if self.json {
            print_json(&json!({
                "engine": set.engine().name(), "evaluations": times.len(), "least_us": micros(least),
                "median_us": micros(median), "p90_us": micros(p90), "p99_us": micros(p99),
            }))?;
        } else {
            print(&format!(
                "{} evaluations on the {}: median {:.1} µs, least {:.1} µs, 90 % below {:.1} µs, 99 % below {:.1} µs",
                times.len(),
                set.engine().name(),
                micros(median),
                micros(least),
                micros(p90),
                micros(p99)
            ))?;
        }
        Ok(OK)
    }
}
