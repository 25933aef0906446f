//! What a start makes of a configuration, made for `check-config` without a kernel, a store or a socket: a file that is
//! not there is to be found out before the daemon is stopped.

use std::sync::Arc;

use super::{outside, remote_admin_rule, settings, standards, traces};
use crate::{
    config::Config,
    policy::PolicySet,
    telemetry::Metrics,
    token::{FingerprintKey, Introspector, StatusLists, Verifier},
};

/// Everything that a start would end for, but for what its policies are refused for.
pub(crate) fn rehearse(config: &Config, set: Option<&PolicySet>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut look = |what: &str, done: anyhow::Result<()>| {
        faults.extend(
            done.err().map(|e| if what.is_empty() { format!("{e:#}") } else { format!("{what}: {e:#}") }),
        );
    };
    // Nothing is named by it.
    let key = Arc::new(FingerprintKey::from_bytes(&[0; 16]));
    look("", Verifier::new(settings::issuers(config), config.token.leeway.0).map(drop).map_err(Into::into));
    let asked =
        settings::introspection(config).and_then(|s| Ok(s.map(|s| Introspector::new(s, key)).transpose()?));
    look("the introspection server cannot be asked", asked.map(drop));
    let lists = settings::status_lists(config).map(StatusLists::new).transpose();
    look("status lists cannot be fetched", lists.map(drop).map_err(Into::into));
    look("", settings::geo(config).map(drop));
    look("", traces::export(config).map(drop));
    look("", Metrics::new().map_err(Into::into).and_then(|m| outside(config, &Arc::new(m))).map(drop));
    if let Some(set) = set {
        look("", remote_admin_rule(config, |rule| set.may_hold(rule)).map(drop));
    }
    faults.extend(standards::check(config));
    faults
}
