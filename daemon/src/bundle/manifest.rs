//! `.manifest`: a bundle's revision, and the parts of `data` that are its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::BundleError;
use crate::policy;

pub(super) const MANIFEST: &str = ".manifest";

/// What a bundle says of itself. Other members than these are passed over, as OPA does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Manifest {
    /// The revision, in its maker's words.
    pub revision: String,
    /// Paths of `data` that it owns, such as `portcullis/scopes`; the empty one is all.
    pub roots: Vec<String>,
    /// The version of Rego it is written in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rego_version: Option<u8>,
    /// Compiled policies, which are not run here.
    #[serde(skip_serializing)]
    wasm: Vec<Value>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self { revision: String::new(), roots: vec![String::new()], rego_version: None, wasm: Vec::new() }
    }
}

impl Manifest {
    pub(super) fn read(text: &[u8]) -> Result<Self, BundleError> {
        let mut manifest: Self = serde_json::from_slice(text)
            .map_err(|e| BundleError::entry(MANIFEST, format!("is not well formed: {e}")))?;
        for root in &mut manifest.roots {
            *root = root.trim_matches('/').to_owned();
        }
        if !manifest.wasm.is_empty() {
            return Err(BundleError::entry(
                MANIFEST,
                "names compiled policies (wasm), which are not run here: build it with `--target rego`",
            ));
        }
        if let Some(version) = manifest.rego_version.filter(|v| *v != 1) {
            return Err(BundleError::entry(
                MANIFEST,
                format!(
                    "says Rego version {version}; policies are read as version 1 (`opa fmt --rego-v1` or `import rego.v1` rewrites them)"
                ),
            ));
        }
        for (i, root) in manifest.roots.iter().enumerate() {
            if let Some(other) = manifest.roots[i + 1..].iter().find(|other| meets(root, other)) {
                return Err(BundleError::entry(
                    MANIFEST,
                    format!("has roots that overlap: `{root}` and `{other}`"),
                ));
            }
        }
        Ok(manifest)
    }

    /// Refuses a bundle that holds what its roots do not.
    pub(super) fn check(&self, files: &BTreeMap<String, Vec<u8>>) -> Result<(), BundleError> {
        if self.roots.iter().any(String::is_empty) {
            return Ok(());
        }
        for (path, content) in files {
            let name = path.rsplit('/').next().unwrap_or(path);
            let text = std::str::from_utf8(content).map_err(|_| BundleError::entry(path, "is not UTF-8"));
            if std::path::Path::new(name).extension().is_some_and(|e| e == "rego") {
                let package = policy::package_of(path, text?)
                    .map_err(|e| BundleError::entry(path, format!("does not parse: {e}")))?;
                let place = package.strip_prefix("data.").unwrap_or(&package).replace('.', "/");
                if !self.owns(&place) {
                    return Err(self.foreign(path, &place));
                }
            } else if matches!(name, "data.json" | "data.yaml" | "data.yml") {
                let value = policy::read_document(text?)
                    .map_err(|e| BundleError::entry(path, format!("does not parse: {e}")))?;
                let place = path.rsplit_once('/').map_or("", |(dir, _)| dir);
                if let Some(place) = self.beyond(place, &value) {
                    return Err(self.foreign(path, &place));
                }
            }
        }
        Ok(())
    }

    fn foreign(&self, path: &str, place: &str) -> BundleError {
        BundleError::entry(
            path,
            format!(
                "writes to data/{place}, which is outside of the manifest's roots ({})",
                self.roots.join(", ")
            ),
        )
    }

    fn owns(&self, place: &str) -> bool {
        self.roots.iter().any(|root| is_within(place, root))
    }

    /// A place in the document that no root covers.
    fn beyond(&self, place: &str, value: &Value) -> Option<String> {
        if self.owns(place) {
            return None;
        }
        match value {
            Value::Object(members) if self.roots.iter().any(|root| is_within(root, place)) => members
                .iter()
                .find_map(|(name, value)| self.beyond([place, name].join("/").trim_matches('/'), value)),
            _ => Some(place.to_owned()),
        }
    }
}

/// Whether a path is another, or below it.
fn is_within(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| above.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

fn meets(a: &str, b: &str) -> bool {
    is_within(a, b) || is_within(b, a)
}

/// Roots of two bundles that claim the same part of `data`.
pub fn overlap<'a>(a: &'a Manifest, b: &'a Manifest) -> Option<(&'a str, &'a str)> {
    a.roots.iter().find_map(|x| b.roots.iter().find(|y| meets(x, y)).map(|y| (x.as_str(), y.as_str())))
}
