//! The policy that is measured: the work of `opa-bench-policy.md`, in Portcullis's shape.
//!
//! The daemon verifies the token (algorithm, key, issuer, audience, `exp`). The policy looks `jti` up among 10,000
//! revoked ids, finds the scope that method and path need in a table of 80 routes, and wants it among the token's.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

/// The decision's path, as the configuration and the data API name it.
pub const DECISION: &str = "apiauthz/decision";
/// Ids in the set of revoked ones.
const REVOKED: usize = 10_000;
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];

const REGO: &str = r#"package apiauthz

import rego.v1

default decision := {"allow": false}

# As the data API asks, and as forward-auth does.
decision := {"allow": true, "ttl": 60} if {
	permit(input.method, input.path)
} else := {"allow": true, "ttl": 60} if {
	permit(input.request.method, input.request.segments)
}

permit(method, path) if {
	input.token_status == "valid"
	not data.revoked[input.identity.jti]
	needed := data.routes[method][path[0]][path[1]]
	needed in input.identity.scopes
}
"#;

/// One of the 80 routes.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its method.
    pub method: &'static str,
    /// Its path's two segments.
    pub path: [String; 2],
    /// The scope it needs.
    pub scope: String,
}

/// The routes: four methods on four actions of five resources.
pub fn routes() -> Vec<Route> {
    let mut routes = Vec::new();
    for method in METHODS {
        for resource in 0..5 {
            for action in 0..4 {
                let path = [format!("resource{resource}"), format!("action{action}")];
                let scope = format!("r{resource}a{action}:{}", method.to_lowercase());
                routes.push(Route { method, path, scope });
            }
        }
    }
    routes
}

/// An id that is in the set of revoked ones.
pub fn revoked_id(n: usize) -> String {
    format!("revoked-{n:06}")
}

/// Writes the policy and its data into `dir`.
pub fn write(dir: &Path) -> Result<()> {
    let mut table = Map::new();
    for route in routes() {
        let [resource, action] = &route.path;
        table.entry(route.method).or_insert_with(|| json!({}))[resource][action] = route.scope.into();
    }
    let revoked: Map<String, Value> = (0..REVOKED).map(|n| (revoked_id(n), true.into())).collect();
    let data = json!({"routes": table, "revoked": revoked});
    for (name, text) in [("apiauthz.rego", REGO), ("data.json", &data.to_string())] {
        let file = dir.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_80_routes_each_with_a_scope_of_its_own() {
        let scopes: std::collections::BTreeSet<String> = routes().into_iter().map(|r| r.scope).collect();
        assert_eq!(scopes.len(), 80);
    }
}
