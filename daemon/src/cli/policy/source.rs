//! Which policy set a command is about, and what it is asked.

use std::{fs, io::Read as _, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use crate::{
    app,
    cli::{FAILED, Failure},
    config,
    policy::{self, LoadOptions, PolicySet},
};

/// Longest input read.
const MAX_INPUT: u64 = 64 << 20;

/// The set.
#[derive(Debug, Args)]
pub struct Source {
    /// Policy directories; those of the configuration if none is named
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The configuration that names them
    #[arg(long, value_name = "FILE", default_value = "/etc/portcullis/portcullis.toml")]
    config: PathBuf,
    /// The rule that gives decisions
    #[arg(long, value_name = "PATH")]
    decision: Option<String>,
    /// Take a set that calls `http.send`, though no configuration allows it; nothing is sent
    #[arg(long)]
    http_send: bool,
    /// Read modules as Rego v0, but for those with `import rego.v1`
    #[arg(long)]
    v0_compatible: bool,
}

/// The set, found.
pub struct Chosen {
    pub dirs: Vec<PathBuf>,
    pub decision: String,
    pub options: LoadOptions,
}

impl Source {
    /// Finds out where the set is.
    pub fn choose(&self) -> Result<Chosen, Failure> {
        let (dirs, decision, options) = if self.dirs.is_empty() {
            let c = config::load(&self.config)
                .context("no directory is named, and the configuration cannot be read")?;
            let options = app::policy_options(&c);
            (c.policy.dirs, c.policy.decision, options)
        } else {
            (self.dirs.clone(), config::Policy::default().decision, LoadOptions::default())
        };
        let options = LoadOptions {
            http_send: options.http_send || self.http_send,
            rego_v0: options.rego_v0 || self.v0_compatible,
            ..options
        };
        Ok(Chosen { dirs, decision: self.decision.clone().unwrap_or(decision), options })
    }

    /// Loads the set; its tests are run only where they are asked for.
    pub fn load(&self, tests: bool) -> Result<PolicySet, Failure> {
        let Chosen { dirs, decision, mut options } = self.choose()?;
        options.run_tests &= tests;
        Ok(policy::load(&dirs, &decision, &options)?)
    }
}

/// The input.
#[derive(Debug, Args)]
pub struct InputArg {
    /// The input, as JSON or YAML; `-` is standard input. None is an empty object
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
}

impl InputArg {
    pub fn read(&self) -> Result<Value, Failure> {
        let Some(path) = &self.input else { return Ok(Value::Object(serde_json::Map::new())) };
        let mut text = String::new();
        let read = if path.as_os_str() == "-" {
            std::io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text)
        } else {
            fs::File::open(path).and_then(|f| f.take(MAX_INPUT).read_to_string(&mut text))
        };
        read.with_context(|| format!("the input {} cannot be read", path.display()))?;
        policy::read_document(&text).map_err(|e| {
            Failure::new(FAILED, format!("the input {} is neither JSON nor YAML: {e}", path.display()))
        })
    }
}
