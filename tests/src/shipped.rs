//! What is shipped beside the daemon names only what the daemon has.

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    const DASHBOARD: &str = include_str!("../../deploy/grafana/portcullis.json");
    const RULES: &str = include_str!("../../deploy/prometheus/rules.yml");
    const METRICS: &str = include_str!("../../docs/metrics.md");
    const REASONS: &str = include_str!("../../docs/reasons.md");

    /// Words that begin with the daemon's prefix, without what Prometheus adds to a histogram's name.
    fn metrics(text: &str) -> BTreeSet<&str> {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("portcullis_"))
            .map(|word| word.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count"))
            .collect()
    }

    /// Every `"expr"` and `"query"` of the dashboard.
    fn expressions<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    match (name.as_str(), value) {
                        ("expr" | "definition", Value::String(text)) => found.push(text),
                        (_, value) => expressions(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
            _ => {}
        }
    }

    /// Codes that an expression picks by a label, such as `outcome=~"a|b"`.
    fn picked<'a>(text: &'a str, label: &str) -> Vec<&'a str> {
        let begin = format!("{label}=");
        text.match_indices(&begin)
            .filter_map(|(at, _)| text[at + begin.len()..].trim_start_matches('~').strip_prefix('"'))
            .filter_map(|rest| rest.split('"').next())
            .flat_map(|codes| codes.split('|'))
            .collect()
    }

    #[test]
    fn dashboard_and_rules_name_documented_metrics_and_codes() {
        let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
        let mut asked = Vec::new();
        expressions(&dashboard, &mut asked);
        assert!(asked.len() > 20, "{asked:?}");
        asked.push(RULES);
        for text in asked {
            for metric in metrics(text) {
                assert!(
                    METRICS.contains(&format!("`{metric}`")),
                    "{metric} is not in docs/metrics.md: {text}"
                );
            }
            for code in picked(text, "outcome").into_iter().chain(picked(text, "reason")) {
                assert!(REASONS.contains(&format!("`{code}`")), "{code} is not in docs/reasons.md: {text}");
            }
        }
    }

    #[test]
    fn the_dashboard_shows_what_operators_ask_first() {
        for metric in [
            "portcullis_decisions_total",
            "portcullis_decision_seconds",
            "portcullis_verdict_cache_hits_total",
            "portcullis_kernel_outcomes_total",
            "portcullis_deny_map_entries",
            "portcullis_revocations_total",
            "portcullis_policy_generation",
            "portcullis_ready",
        ] {
            assert!(metrics(DASHBOARD).contains(metric), "{metric}");
        }
    }

    #[test]
    fn panels_have_an_id_of_their_own() {
        let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let ids: BTreeSet<u64> = panels.iter().filter_map(|p| p["id"].as_u64()).collect();
        assert_eq!(ids.len(), panels.len());
    }
}
