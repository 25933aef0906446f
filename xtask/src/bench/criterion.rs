//! Reading what criterion leaves in the target directory.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// Figures that were promised, in nanoseconds.
const LIMITS: &[(&str, f64)] = &[
    ("decide/cached_request_1000_tokens", 500.0),
    ("decide/cached_data_1000_tokens", 500.0),
    ("decide/cached_request_100000_tokens", 1000.0),
    ("decide/cached_data_100000_tokens", 1000.0),
    ("decision/allow", 15_000.0),
];
/// How many times the second the first may take.
const RATIOS: &[(&str, &str, f64)] = &[("verify/ES256", "verify/ES256_signature_alone", 1.1)];

/// The figures of benches that ran since `started`; older ones belong to other runs.
pub fn gather(dir: &Path, started: SystemTime) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    walk(dir, &mut |new| {
        let estimates = new.join("estimates.json");
        let fresh = fs::metadata(&estimates).and_then(|meta| meta.modified()).is_ok_and(|at| at >= started);
        if fresh {
            found.push(row(&read(&new.join("benchmark.json"))?, &read(&estimates)?));
        }
        Ok(())
    })?;
    for (name, of, limit) in RATIOS {
        let value = |name: &str| found.iter().find(|row| row["name"] == name)?["value"].as_f64();
        if let (Some(value), Some(base)) = (value(name), value(of)) {
            let ratio = value / base;
            found.push(json!({
                "name": format!("{name} ÷ {of}"), "value": ratio, "unit": "×", "note": "medians of one run",
                "limit": limit, "holds": ratio <= *limit,
            }));
        }
    }
    found.sort_by_key(|row| row["name"].as_str().unwrap_or_default().to_owned());
    Ok(found)
}

fn row(benchmark: &Value, estimates: &Value) -> Value {
    let deviation = estimates["median_abs_dev"]["point_estimate"].as_f64().unwrap_or_default();
    let mut row = json!({
        "name": benchmark["full_id"],
        "value": estimates["median"]["point_estimate"],
        "unit": "ns",
        "note": format!("median, ± {deviation:.1}"),
    });
    if let Some((_, limit)) = LIMITS.iter().find(|(name, _)| row["name"] == *name) {
        row["limit"] = (*limit).into();
        row["holds"] = row["value"].as_f64().is_some_and(|value| value <= *limit).into();
    }
    row
}

fn read(file: &Path) -> Result<Value> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("`{}` is not JSON", file.display()))
}

/// Calls `each` with every directory named `new` below `dir`.
fn walk(dir: &Path, each: &mut impl FnMut(PathBuf) -> Result<()>) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        if entry.file_name() == "new" {
            each(entry.path())?;
        } else {
            walk(&entry.path(), each)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_median_in_nanoseconds() {
        let row = row(
            &json!({"full_id": "decide/cached"}),
            &json!({"median": {"point_estimate": 812.5}, "median_abs_dev": {"point_estimate": 3.0}}),
        );
        assert_eq!(row["name"], "decide/cached");
        assert_eq!(row["value"], 812.5);
        assert_eq!(row["note"], "median, ± 3.0");
    }

    #[test]
    fn what_was_promised_has_its_limit() {
        let estimates = |ns: f64| json!({"median": {"point_estimate": ns}});
        let row = |ns| row(&json!({"full_id": LIMITS[0].0}), &estimates(ns));
        assert_eq!((row(400.0)["holds"].clone(), row(1400.0)["holds"].clone()), (true.into(), false.into()));
    }

    #[test]
    fn no_directory_means_no_figures() {
        assert!(gather(Path::new("/no/such/dir"), SystemTime::UNIX_EPOCH).unwrap().is_empty());
    }
}
