//! A server that knows tokens, and all the ways in which it may not answer well.

use super::*;
use crate::{
    clock::{Clock as _, SystemClock},
    token::{
        Verifier,
        remote::tests::{Behaviour, Server},
    },
};

fn now() -> i64 {
    SystemClock.wall().seconds()
}

fn settings(server: &Server) -> IntrospectionSettings {
    IntrospectionSettings {
        url: format!("http://{}/introspect", server.address).parse().unwrap(),
        issuer: "https://as".into(),
        audience: Vec::new(),
        credential: Credential::Client("me".into(), Secret::new("hush".into())),
        ca_file: None,
        plain_http: false,
        timeout: Duration::from_millis(300),
        ttl: Duration::from_mins(10),
        negative_ttl: Duration::from_mins(10),
        entries: 1000,
        failures: 1000,
        pause: Duration::from_mins(10),
        leeway: Duration::ZERO,
        require_bound: false,
    }
}

fn make(settings: IntrospectionSettings) -> Introspector {
    Introspector::new(settings, Arc::new(FingerprintKey::from_bytes(&[1; 16]))).unwrap()
}

fn says(body: &str) -> Behaviour {
    Behaviour::Say(200, "content-type: application/json; charset=utf-8\r\n", body.to_owned())
}

async fn ask(i: &Introspector, token: &str, at: i64) -> Judgement {
    i.judge(&Token::new(token.to_owned()), || at).await
}

#[tokio::test]
async fn an_active_token_is_an_identity_that_is_kept_no_longer_than_allowed() {
    let exp = now() + 100;
    let server = Server::new(says(&format!(
        r#"{{"active":true,"sub":"u","client_id":"c","scope":"a b","jti":"j","iss":"https://as","exp":{exp},"x":[1]}}"#
    ))).await;
    let i = make(settings(&server));
    for _ in 0..3 {
        let judged = ask(&i, "opaque+1", now()).await;
        let seen = judged.status.unwrap().document();
        assert_eq!(
            (&seen["sub"], &seen["client"], &seen["iss"]),
            (&"u".into(), &"c".into(), &"https://as".into())
        );
        assert_eq!(
            (&seen["scopes"][1], &seen["alg"], &seen["claims"]["x"][0]),
            (&"b".into(), &"introspection".into(), &1.into())
        );
        let vouched = judged.vouched.unwrap();
        assert!(vouched.is_current(exp - 1) && !vouched.is_current(exp), "never beyond `exp`");
    }
    assert_eq!(server.asked(), 1);
    let last = server.last.lock().unwrap().clone();
    assert!(
        last.starts_with("POST /introspect ")
            && last.ends_with("\r\n\r\ntoken=opaque%2B1&token_type_hint=access_token"),
        "{last}"
    );
    assert!(
        last.contains("authorization: Basic bWU6aHVzaA==") && last.contains("accept: application/json"),
        "{last}"
    );
    // Its time is over: it is asked again.
    assert_eq!(ask(&i, "opaque+1", exp).await.status.err(), Some(Reason::TokenExpired));
    assert_eq!(server.asked(), 2);
    let status = i.status();
    assert_eq!((status.active, status.kept, status.failed), (2, 2, 0));
}

#[tokio::test]
async fn what_is_not_called_active_in_so_many_words_is_not() {
    let server = Server::new(says("{}")).await;
    let i = make(settings(&server));
    let soon = now() + 1000;
    for (n, (body, want)) in [
        (r#"{"active":false}"#, Reason::TokenInactive),
        (r#"{"active":"true"}"#, Reason::TokenInactive),
        (r#"{"active":1}"#, Reason::TokenInactive),
        (r#"{"sub":"u"}"#, Reason::TokenInactive),
        (r#"{"active":true,"iss":"https://other"}"#, Reason::IssuerUnknown),
        (r#"{"active":true,"exp":"soon"}"#, Reason::ClaimsInvalid),
        (r#"{"active":true,"exp":1}"#, Reason::TokenExpired),
        (r#"{"active":true,"sub":1}"#, Reason::ClaimsInvalid),
        (&format!(r#"{{"active":true,"nbf":{soon}}}"#), Reason::TokenNotYetValid),
        (r#"{"active":true,"active":true}"#, Reason::IntrospectionFailed),
        ("[true]", Reason::IntrospectionFailed),
        ("", Reason::IntrospectionFailed),
    ]
    .into_iter()
    .enumerate()
    {
        server.now(says(body));
        let token = format!("t{n}");
        assert_eq!(ask(&i, &token, now()).await.status.err(), Some(want), "{body}");
    }
    let asked = server.asked();
    assert_eq!(ask(&i, "t0", now()).await.status.err(), Some(Reason::TokenInactive));
    assert_eq!(server.asked(), asked, "it is kept that a token is not active");
    for bad in [
        Behaviour::Say(200, "content-type: text/html\r\n", r#"{"active":true}"#.to_owned()),
        Behaviour::Say(200, "", r#"{"active":true}"#.to_owned()),
        Behaviour::Say(500, "content-type: application/json\r\n", r#"{"active":true}"#.to_owned()),
        Behaviour::Say(307, "location: https://elsewhere\r\n", String::new()),
        Behaviour::Stall,
        Behaviour::Reset,
    ] {
        server.now(bad.clone());
        let judged = ask(&i, "failing", now()).await;
        assert_eq!(judged.status.err(), Some(Reason::IntrospectionFailed), "{bad:?}");
        assert!(!judged.vouched.unwrap().is_current(now()), "a failure is not kept");
    }
    server.now(says(r#"{"active":true}"#));
    assert!(ask(&i, "failing", now()).await.status.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_ask_once_and_a_failing_server_is_left_alone() {
    let server = Server::new(says(r#"{"active":true}"#)).await;
    let i = Arc::new(make(IntrospectionSettings {
        failures: 3,
        pause: Duration::from_millis(500),
        ..settings(&server)
    }));
    let all: Vec<_> = (0..50)
        .map(|_| {
            let i = Arc::clone(&i);
            tokio::spawn(async move { ask(&i, "one", now()).await.status.is_ok() })
        })
        .collect();
    for one in all {
        assert!(one.await.unwrap());
    }
    assert_eq!(server.asked(), 1);
    server.now(Behaviour::Reset);
    for n in 0..3 {
        assert_eq!(ask(&i, &format!("f{n}"), now()).await.status.err(), Some(Reason::IntrospectionFailed));
    }
    assert!(i.status().paused);
    let asked = server.asked();
    assert_eq!(ask(&i, "f9", now()).await.status.err(), Some(Reason::IntrospectionFailed));
    assert_eq!((server.asked(), i.status().unasked), (asked, 1));
    assert!(ask(&i, "one", now()).await.status.is_ok(), "what is at hand counts");
    server.now(says(r#"{"active":true}"#));
    let back = async {
        while ask(&i, "f9", now()).await.status.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), back).await.unwrap();
    assert!(!i.status().paused);
}

#[tokio::test]
async fn what_looks_like_a_jwt_is_never_sent_away() {
    let server = Server::new(says(r#"{"active":true}"#)).await;
    let verifier = Verifier::new(Vec::new(), Duration::ZERO)
        .unwrap()
        .with_introspector(Some(Arc::new(make(settings(&server)))));
    for text in ["eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJ4In0.AAAA", "eya.b.c", "ewa.b."] {
        assert!(verifier.identify(&Token::new(text.to_owned()), now).await.status.is_err(), "{text}");
    }
    assert_eq!(server.asked(), 0);
    assert!(verifier.identify(&Token::new("opaque".to_owned()), now).await.status.is_ok());
}
