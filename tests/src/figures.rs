//! Figures that a benchmark prints and writes.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::json;

/// The figures of one run, in the order they were taken.
#[derive(Debug, Default)]
pub struct Figures(Vec<serde_json::Value>);

impl Figures {
    /// Notes a figure.
    pub fn add(&mut self, name: &str, value: f64, unit: &str, note: &str) {
        println!("{name:<58} {value:>12.2} {unit:<6} {note}");
        self.0.push(json!({"name": name, "value": value, "unit": unit, "note": note}));
    }

    /// Notes a figure that is not to be above `limit`.
    pub fn at_most(&mut self, name: &str, value: f64, unit: &str, limit: f64, note: &str) {
        self.bounded(name, value, unit, limit, value <= limit, &format!("≤ {limit:.2} {note}"));
    }

    /// Notes a figure that is not to be below `limit`.
    pub fn at_least(&mut self, name: &str, value: f64, unit: &str, limit: f64, note: &str) {
        self.bounded(name, value, unit, limit, value >= limit, &format!("≥ {limit:.2} {note}"));
    }

    fn bounded(&mut self, name: &str, value: f64, unit: &str, limit: f64, holds: bool, note: &str) {
        let mark = if holds { "holds" } else { "MISSED" };
        println!("{name:<58} {value:>12.2} {unit:<6} {note}: {mark}");
        self.0.push(
            json!({"name": name, "value": value, "unit": unit, "note": note, "limit": limit, "holds": holds}),
        );
    }

    /// Writes them as JSON.
    pub fn write(&self, path: Option<&Path>) -> Result<()> {
        let Some(path) = path else { return Ok(()) };
        fs::write(path, serde_json::to_vec_pretty(&self.0)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The middle of some measurements.
pub fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v.get(v.len() / 2).copied().unwrap_or(f64::NAN)
}
