//! The Rego part of a decision: the example policies on the compiled machine, as on a verdict cache's miss.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may panic and documents itself")]

use std::{fs, hint::black_box, path::Path};

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::policy::{EngineKind, Input, LoadOptions, load};
use serde_json::{Value, json};

fn asked(path: &str) -> Value {
    json!({
        "request": {
            "method": "GET", "path": path, "segments": path.split('/').skip(1).collect::<Vec<_>>(), "query": "",
            "host": "api.example", "headers": {"user-agent": "bench"}, "source": "192.0.2.7",
        },
        "time": 1_732_412_345.25,
        "token_status": "valid",
        "identity": {
            "iss": "https://issuer", "sub": "user", "client": "web", "jti": "7", "kid": "k", "alg": "ES256",
            "iat": 1_732_412_300, "exp": 1_732_415_900, "scopes": ["orders:read", "reports:read"], "claims": {},
        },
    })
}

fn decisions(c: &mut Criterion) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let set = load(&[dir], "portcullis/decision", &LoadOptions::default()).unwrap();
    assert_eq!(set.engine(), &EngineKind::Rvm);
    let mut group = c.benchmark_group("decision");
    for (name, path, allow) in [("allow", "/v1/orders", true), ("deny", "/v1/other", false)] {
        let json = asked(path);
        let input = Input::from(json.clone());
        assert_eq!(set.eval_decision(&input).unwrap().allow, allow);
        group.bench_function(name, |b| b.iter(|| set.eval_decision(black_box(&input))));
        group.bench_function(format!("{name}_with_input_from_json"), |b| {
            b.iter(|| set.eval_decision(&Input::from(black_box(&json).clone())));
        });
    }
    let input = Input::from(asked("/v1/orders"));
    // What an evaluation costs whatever the policy says: the floor under the figures above.
    let dir = std::env::temp_dir().join(format!("portcullis-bench-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("p.rego"), "package p\ndecision := input.token_status == \"valid\"").unwrap();
    let bare = load(std::slice::from_ref(&dir), "p/decision", &LoadOptions::default()).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    group.bench_function("bare", |b| b.iter(|| bare.eval_decision(black_box(&input))));
    group.bench_function("any_path_on_the_interpreter", |b| {
        b.iter(|| set.eval_path(&["portcullis", "scopes", "granted"], black_box(&input)));
    });
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
