//! `portcullis run`

use std::path::PathBuf;

use clap::Args as ClapArgs;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{OK, Outcome};
use crate::{
    app,
    config::{self, LogFormat},
    policy, telemetry,
};

/// Run the daemon in the foreground
///
/// SIGTERM and SIGINT stop it; what the kernel enforces stays in force until `portcullis detach`.
///
/// Example: portcullis run --config /etc/portcullis/portcullis.toml
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = "/etc/portcullis/portcullis.toml")]
    config: PathBuf,
}

impl Args {
    pub fn run(self) -> Outcome {
        let config = config::load(&self.config)?;
        let json = match config.log.format {
            LogFormat::Auto => None,
            LogFormat::Human => Some(false),
            LogFormat::Json => Some(true),
        };
        telemetry::init_logs(&config.log.level, json).map_err(|m| super::Failure::new(super::FAILED, m))?;
        no_core_files();
        contain_panics();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_stack_size(policy::STACK)
            .build()?;
        runtime.block_on(async {
            let stop = CancellationToken::new();
            let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            let stopper = stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                stopper.cancel();
            });
            Box::pin(app::run(self.config, config, stop)).await
        })?;
        Ok(OK)
    }
}

/// Tokens pass through this process's memory: it leaves no core file.
fn no_core_files() {
    use nix::sys::resource::{Resource, setrlimit};
    if let Err(e) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::warn!(error = %e, "core files could not be switched off");
    }
    if let Err(e) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(error = %e, "core files could not be switched off");
    }
}

/// A panic is a fault of ours: it is logged where it happened, without its message, which may quote a request.
fn contain_panics() {
    std::panic::set_hook(Box::new(|info| {
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(at, "a task panicked; its request was denied");
    }));
}
