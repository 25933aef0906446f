//! Log lines on standard error: for people on a terminal, JSON otherwise.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt as _};

/// Starts logging; `json` as asked for, or by what standard error is. Errors name the filter.
pub fn init(level: &str, json: Option<bool>) -> Result<(), String> {
    // What the fleet's client says of itself is said here in other words; asked for by name, it comes too.
    let quiet = if level.contains("async_nats") { "" } else { ",async_nats=warn" };
    let filter = EnvFilter::try_new(format!("{level}{quiet}")).map_err(|e| {
        format!("`log.level` \"{level}\" is not a filter such as \"info\" or \"portcullis=debug,warn\": {e}")
    })?;
    let terminal = stderr().is_terminal();
    let builder = fmt().with_env_filter(filter).with_writer(stderr);
    let started = if json.unwrap_or(!terminal) {
        builder.json().flatten_event(true).finish().try_init()
    } else {
        builder.with_ansi(terminal).with_target(false).finish().try_init()
    };
    // A second start in one process (tests) keeps the first.
    let _ = started;
    Ok(())
}
