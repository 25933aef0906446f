//! OpenID AuthZEN, by the policies that decide for gateways.

use anyhow::Result;
use portcullis_tests::{World, client::http, config::DOORS, is_root};
use serde_json::{Value, json};

fn ask(w: &World, path: &str, body: &Value) -> Result<(u16, Value)> {
    let head = format!("POST /access/v1/{path} HTTP/1.1\r\nX-Request-ID: q1");
    let answer = http(&w.net.server, DOORS.parse()?, &head, body.to_string().as_bytes())?;
    if answer.status == 200 {
        assert_eq!(answer.header("x-request-id"), Some("q1"));
    }
    Ok((answer.status, serde_json::from_str(&answer.body)?))
}

fn evaluation(method: &str, token: &str) -> Value {
    json!({
        "subject": {"type": "identity", "id": "whoever"}, "action": {"name": method},
        "resource": {"type": "route", "id": "/v1/orders", "properties": {"path": "/v1/orders"}},
        "context": {"token": token},
    })
}

#[test]
fn evaluations_are_decided_one_by_one_and_in_batches() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (token, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    for _ in 0..2 {
        let (status, allowed) = ask(&w, "evaluation", &evaluation("GET", &token))?;
        assert_eq!((status, &allowed["decision"]), (200, &json!(true)), "{allowed}");
        assert!(allowed["context"]["subject"].as_str().is_some_and(|s| s.starts_with("sub-")), "{allowed}");
    }
    let (_, denied) = ask(&w, "evaluation", &evaluation("POST", &token))?;
    assert_eq!((&denied["decision"], &denied["context"]["status"]), (&json!(false), &json!(403)), "{denied}");
    assert_eq!(ask(&w, "evaluation", &evaluation("GET", ""))?.1["context"]["reason"], "token_missing");
    assert_eq!(ask(&w, "evaluation", &evaluation("GET", &revoked))?.1["decision"], true);
    w.daemon.revoke(&revoked)?;
    let (status, refused) = ask(&w, "evaluation", &evaluation("GET", &revoked))?;
    assert_eq!((status, &refused["context"]["reason"]), (200, &json!("token_revoked")));

    let mut batch = evaluation("GET", &token);
    batch["evaluations"] =
        json!([{}, {"action": {"name": "POST"}}, {"subject": 7}, {"context": {"token": revoked}}, {}]);
    let decisions = |answer: &Value| -> Vec<bool> {
        answer["evaluations"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|e| e["decision"].as_bool())
            .collect()
    };
    let (_, all) = ask(&w, "evaluations", &batch)?;
    assert_eq!(decisions(&all), [true, false, false, false, true], "{all}");
    assert_eq!(all["evaluations"][2]["context"]["error"]["status"], 400, "{all}");
    for (semantic, expected) in
        [("deny_on_first_deny", &[true, false][..]), ("permit_on_first_permit", &[true])]
    {
        batch["options"] = json!({"evaluations_semantic": semantic});
        assert_eq!(decisions(&ask(&w, "evaluations", &batch)?.1), expected, "{semantic}");
    }
    batch["options"] = json!({"evaluations_semantic": "whatever"});
    assert_eq!(ask(&w, "evaluations", &batch)?.0, 400);
    assert_eq!(
        ask(&w, "evaluations", &evaluation("GET", &token))?.1["decision"],
        true,
        "without a list it is one"
    );
    for bad in [json!([]), json!({}), json!({"subject": {"type": "user", "id": "a"}})] {
        let (status, error) = ask(&w, "evaluation", &bad)?;
        assert_eq!((status, error["message"].as_str().is_some()), (400, true), "{bad}: {error}");
    }
    Ok(())
}
