//! `portcullis import`: an OPA or opa-envoy-plugin configuration, written as one of ours.

mod convert;
mod source;

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use clap::Args as ClapArgs;
use serde_json::json;

use self::convert::{Imported, Kind};
use super::{FAILED, Failure, OK, Outcome, print, print_json};
use crate::{config, policy};

/// Write an OPA configuration as one of Portcullis
///
/// Reads what `opa run --config-file` or the Envoy plugin takes (YAML or JSON; `${NAME}` is filled in from the
/// environment, as OPA does) and writes `portcullis.toml`, with keys and tokens in files of their own. Every setting is
/// listed: what became of it, or why it was not taken over. Nothing is overwritten.
///
/// Example: portcullis import opa-config.yaml --out /etc/portcullis
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// OPA's configuration
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Directory to write to; without it the configuration is printed, and files of secrets are named but not written
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Outcome {
        let text = fs::read_to_string(&self.file)
            .map_err(|e| Failure::new(FAILED, format!("`{}` cannot be read: {e}", self.file.display())))?;
        let text = source::substituted(&text, |name| std::env::var(name).ok());
        let opa = policy::read_document(&text).map_err(|e| {
            Failure::new(FAILED, format!("`{}` is neither YAML nor JSON: {e}", self.file.display()))
        })?;
        // Paths in a configuration are relative to its own directory, so those that are written here are whole.
        let dir = self.out.as_deref().unwrap_or(Path::new("/etc/portcullis"));
        let dir = std::path::absolute(dir).map_err(|e| {
            Failure::new(FAILED, format!("`{}` is no directory to write to: {e}", dir.display()))
        })?;
        let imported = convert::convert(opa, &dir).map_err(|e| Failure::new(FAILED, e))?;
        let path = dir.join("portcullis.toml");
        // What is written must be good: a fault here is ours, and is said before anything is written.
        let faults = config::parse(&path, &imported.toml).err();
        if self.out.is_some() {
            write(&dir, &imported)?;
        }
        self.tell(&imported, &path)?;
        match faults {
            None => Ok(OK),
            Some(faults) => {
                Err(Failure::new(FAILED, format!("the result is not a good configuration:\n{faults}")))
            }
        }
    }

    fn tell(&self, imported: &Imported, path: &Path) -> Result<(), Failure> {
        if self.json {
            let notes: Vec<_> = imported
                .notes
                .iter()
                .map(|n| json!({"setting": n.setting, "became": n.kind.name(), "note": n.text}))
                .collect();
            let files: Vec<_> = imported.files.iter().map(|(path, _)| path).collect();
            return print_json(&json!({"configuration": imported.toml, "files": files, "settings": notes}));
        }
        if self.out.is_none() {
            print(&imported.toml)?;
        }
        for kind in [Kind::Kept, Kind::Changed, Kind::Missing] {
            let of: Vec<_> = imported.notes.iter().filter(|n| n.kind == kind).collect();
            if of.is_empty() {
                continue;
            }
            eprintln!("{}:", kind.title());
            for n in of {
                eprintln!("  {:<42} {}", n.setting, n.text);
            }
        }
        if self.out.is_some() {
            eprintln!("written: {}", path.display());
        }
        for (file, _) in &imported.files {
            let done = if self.out.is_some() { "written" } else { "to be written (with --out)" };
            eprintln!("{done}: {}", file.display());
        }
        eprintln!(
            "next: name the issuers of your tokens (`[[token.issuer]]`), then `portcullis check-config {}`",
            path.display()
        );
        Ok(())
    }
}

fn write(out: &Path, imported: &Imported) -> Result<(), Failure> {
    let failed = |path: &Path, e: &std::io::Error| {
        Failure::new(FAILED, format!("`{}` cannot be written: {e}", path.display()))
    };
    let config = (out.join("portcullis.toml"), imported.toml.as_bytes());
    let files = imported.files.iter().map(|(path, content)| (path.clone(), content.as_bytes()));
    let all: Vec<_> = std::iter::once(config).chain(files).collect();
    if let Some((path, _)) = all.iter().find(|(path, _)| path.exists()) {
        return Err(Failure::new(
            FAILED,
            format!("`{}` is there already; nothing was written", path.display()),
        ));
    }
    for (path, content) in all {
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(|e| failed(parent, &e))?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| failed(&path, &e))?;
        file.write_all(content).map_err(|e| failed(&path, &e))?;
    }
    Ok(())
}
