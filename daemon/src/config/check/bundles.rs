//! Faults of the `[[policy.bundle]]` tables.

use super::{Config, Faults, is_name};

/// The `[[policy.bundle]]` tables.
pub(super) fn check(c: &Config, f: &mut Faults<'_>) {
    for (i, b) in c.policy.bundle.iter().enumerate() {
        let key = |k: &str| format!("policy.bundle[{i}].{k}");
        f.unless(is_name(&b.name, 60), &key("name"), "is not a name of letters, digits and dashes");
        let first = c.policy.bundle.iter().position(|o| o.name == b.name);
        f.unless(first == Some(i), &key("name"), "is given twice");
        f.unless(b.url.is_some() != b.file.is_some(), &key("url"), "or `file` must be given, one of them");
        f.unless(b.poll_min <= b.poll_max, &key("poll_min"), "is longer than `poll_max`");
        f.unless(!b.poll_min.0.is_zero(), &key("poll_min"), "must be longer than 0s");
        f.unless(b.long_poll.0.as_secs() <= 600, &key("long_poll"), "must be at most 10m");
        // Who says anything of a signature wants one: without a key none would be asked for.
        for (name, given) in [
            ("key_algorithm", b.key_algorithm.is_some()),
            ("key_id", b.key_id.is_some()),
            ("scope", b.scope.is_some()),
        ] {
            f.unless(
                !given || b.key_file.is_some(),
                &key(name),
                "is of a signature, and without `key_file` none is asked for: name the key, or take this out",
            );
        }
    }
}
