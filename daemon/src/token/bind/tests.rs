//! Proofs, good ones and every way to spoil one.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::json;

use super::*;

const NOW: i64 = 1_750_000_000;
const TOKEN: &[u8] = b"the.access.token";

struct Sender {
    pair: EcdsaKeyPair,
    jwk: Value,
    cnf: Confirmation,
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().unwrap()
}

impl Sender {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = (b64(&point[1..33]), b64(&point[33..65]));
        let text = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y});
        let cnf = read(&json!({"cnf": {"jkt": b64(sha256(text.as_bytes()))}})).unwrap().unwrap();
        Self { pair, jwk, cnf: Confirmation::clone(&cnf) }
    }

    fn proof(&self, id: &str, header: &Value, claims: &Value) -> String {
        let mut h = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk});
        let mut c = json!({
            "jti": id, "htm": "POST", "htu": "https://api.test/v1/orders", "iat": NOW, "ath": b64(sha256(TOKEN)),
        });
        for (into, from) in [(&mut h, header), (&mut c, claims)] {
            for (name, value) in from.as_object().unwrap() {
                into[name] = value.clone();
            }
        }
        let input = format!("{}.{}", b64(h.to_string()), b64(c.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", b64(signature))
    }
}

fn read(claims: &Value) -> Result<Option<Arc<Confirmation>>, Reason> {
    Confirmation::read(claims.as_object().unwrap())
}

fn binder(settings: BindingSettings) -> Binder {
    Binder::new(settings, Arc::new(FingerprintKey::from_bytes(&[1; 16])))
}

fn target() -> Target<'static> {
    Target { method: "POST", host: "api.test", path: "/v1/orders" }
}

fn ask(
    binder: &Binder,
    cnf: &Confirmation,
    proof: &str,
    target: &Target<'_>,
    now: i64,
) -> Result<(), Reason> {
    let evidence = Evidence { dpop: Once::One(proof), certificate: Once::None, ..Evidence::default() };
    binder.prove(cnf, TOKEN, &evidence, target, now)
}

#[test]
fn a_proof_counts_once_and_for_its_own_request_and_token_alone() {
    let (sender, other) = (Sender::new(), Sender::new());
    let binder = binder(BindingSettings::default());
    let none = json!({});
    let proof = sender.proof("1", &none, &none);
    assert_eq!(ask(&binder, &other.cnf, &proof, &target(), NOW), Err(Reason::BindingUnproved));
    for wrong in [
        Target { method: "post", ..target() },
        Target { method: "GET", ..target() },
        Target { host: "other.test", ..target() },
        Target { host: "", ..target() },
        Target { host: "api.test:8443", ..target() },
        Target { path: "/v1/orders/", ..target() },
    ] {
        assert_eq!(ask(&binder, &sender.cnf, &proof, &wrong, NOW), Err(Reason::ProofInvalid), "{wrong:?}");
    }
    let evidence = Evidence { dpop: Once::One(&proof), certificate: Once::None, ..Evidence::default() };
    let stolen = binder.prove(&sender.cnf, b"another.token", &evidence, &target(), NOW);
    assert_eq!(stolen, Err(Reason::ProofInvalid));
    let evidence = Evidence { by_other_scheme: true, ..evidence };
    let bearer = binder.prove(&sender.cnf, TOKEN, &evidence, &target(), NOW);
    assert_eq!(bearer, Err(Reason::BindingUnproved));
    // None of these used it up.
    assert_eq!(ask(&binder, &sender.cnf, &proof, &target(), NOW), Ok(()));
    for later in [NOW, NOW + 65] {
        assert_eq!(ask(&binder, &sender.cnf, &proof, &target(), later), Err(Reason::ProofReplayed));
    }
    assert_eq!(ask(&binder, &sender.cnf, &proof, &target(), NOW + 66), Err(Reason::ProofInvalid), "too old");
    // The same `jti` of another sender is another proof.
    assert_eq!(ask(&binder, &other.cnf, &other.proof("1", &none, &none), &target(), NOW), Ok(()));
    let upper = json!({"htu": "HTTPS://API.TEST:443/v1/orders?a=b#c"});
    assert_eq!(ask(&binder, &sender.cnf, &sender.proof("2", &none, &upper), &target(), NOW), Ok(()));
}

#[test]
fn a_spoilt_proof_proves_nothing() {
    let sender = Sender::new();
    let binder = binder(BindingSettings::default());
    let none = json!({});
    let mut private = sender.jwk.clone();
    private["d"] = "AAAA".into();
    let headers = [
        json!({"typ": "JWT"}),
        json!({"typ": null}),
        json!({"alg": "HS256"}),
        json!({"alg": "none"}),
        json!({"alg": "ES384"}),
        json!({"jwk": null}),
        json!({"jwk": {"kty": "oct", "k": "AAAA"}}),
        json!({"jwk": private}),
        json!({"crit": ["x"]}),
    ];
    let claims = [
        json!({"jti": ""}),
        json!({"jti": 1}),
        json!({"jti": "x".repeat(300)}),
        json!({"htm": null}),
        json!({"htu": "http://api.test/v1/orders"}),
        json!({"htu": "api.test/v1/orders"}),
        json!({"htu": "https://api.test@evil.test/v1/orders"}),
        json!({"htu": "https://api.test:44/v1/orders"}),
        json!({"htu": 1}),
        json!({"iat": NOW - 66}),
        json!({"iat": NOW + 6}),
        json!({"iat": "x"}),
        json!({"ath": b64(sha256(b"x"))}),
        json!({"ath": null}),
    ];
    let spoilt = headers.iter().map(|h| sender.proof("1", h, &none));
    let spoilt: Vec<_> = spoilt.chain(claims.iter().map(|c| sender.proof("1", &none, c))).collect();
    for proof in &spoilt {
        let said = ask(&binder, &sender.cnf, proof, &target(), NOW);
        assert!(matches!(said, Err(Reason::ProofInvalid | Reason::BindingUnproved)), "{proof}");
    }
    let good = sender.proof("1", &none, &none);
    let (input, _) = good.rsplit_once('.').unwrap();
    for bad in [
        "",
        "a.b.c",
        &format!("{input}."),
        &format!("{input}.{}", b64([1; 64])),
        &"x".repeat(9000),
        &format!("{good},{good}"),
    ] {
        assert_eq!(ask(&binder, &sender.cnf, bad, &target(), NOW), Err(Reason::ProofInvalid), "{bad}");
    }
    assert_eq!(ask(&binder, &sender.cnf, &good, &target(), NOW), Ok(()));
    for (dpop, want) in [(Once::None, Reason::BindingUnproved), (Once::Bad, Reason::ProofInvalid)] {
        let evidence = Evidence { dpop, certificate: Once::None, ..Evidence::default() };
        assert_eq!(binder.prove(&sender.cnf, TOKEN, &evidence, &target(), NOW), Err(want));
    }
}

#[test]
fn proofs_are_remembered_within_a_bound_and_none_is_forgotten_early() {
    let sender = Sender::new();
    let binder = binder(BindingSettings { proofs: 3, ..BindingSettings::default() });
    let none = json!({});
    let proofs: Vec<_> = (0..4).map(|n| sender.proof(&n.to_string(), &none, &none)).collect();
    for proof in &proofs[..3] {
        assert_eq!(ask(&binder, &sender.cnf, proof, &target(), NOW), Ok(()));
    }
    assert_eq!(
        ask(&binder, &sender.cnf, &proofs[3], &target(), NOW + 1),
        Err(Reason::BindingUnproved),
        "full"
    );
    assert_eq!(ask(&binder, &sender.cnf, &proofs[0], &target(), NOW + 2), Err(Reason::ProofReplayed));
    let late = sender.proof("9", &none, &json!({"iat": NOW + 70}));
    assert_eq!(
        ask(&binder, &sender.cnf, &late, &target(), NOW + 70),
        Ok(()),
        "those that are over make room"
    );
}

#[test]
fn a_certificate_is_known_by_its_thumbprint_in_each_gateways_form() {
    let der = b"not a real certificate, but bytes";
    let hash = sha256(der);
    let colons: Vec<String> = hash.iter().map(|b| format!("{b:02X}")).collect();
    let hex = colons.concat().to_lowercase();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der));
    let escaped = pem.replace('\n', "%0A").replace(' ', "%20").replace('+', "%2B").replace('/', "%2F");
    let cnf = read(&json!({"cnf": {"x5t#S256": b64(hash)}})).unwrap().unwrap();
    let other = "0".repeat(64);
    let cases = [
        (CertificateFormat::Thumbprint, hex.clone(), true),
        (CertificateFormat::Thumbprint, colons.join(":"), true),
        (CertificateFormat::Thumbprint, b64(hash), true),
        (CertificateFormat::Thumbprint, other.clone(), false),
        (CertificateFormat::Thumbprint, hex[1..].to_owned(), false),
        (CertificateFormat::Thumbprint, String::new(), false),
        (CertificateFormat::Pem, escaped.clone(), true),
        (CertificateFormat::Pem, pem.replace('\n', ""), true),
        (CertificateFormat::Pem, hex.clone(), false),
        (CertificateFormat::Pem, format!("x{escaped}"), false),
        (CertificateFormat::Pem, "%".to_owned(), false),
        (
            CertificateFormat::Xfcc,
            format!("By=spiffe://a;Hash={hex};Subject=\"/C=US, x;y\\\"/CN=z\";URI="),
            true,
        ),
        (CertificateFormat::Xfcc, format!("Hash={other},By=b;Hash={hex}"), true),
        (CertificateFormat::Xfcc, format!("Hash={hex},By=b;Hash={other}"), false),
        (CertificateFormat::Xfcc, format!("Hash={hex},By=b"), false),
        (CertificateFormat::Xfcc, format!("Hash={other};Hash={hex}"), false),
        (CertificateFormat::Xfcc, format!("Subject=\"x;Hash={hex}\""), false),
        (CertificateFormat::Xfcc, format!("Hash={hex};Subject=\"x"), false),
        (CertificateFormat::Xfcc, format!("Cert=\"{escaped}\""), true),
        (CertificateFormat::Xfcc, format!("Hash={other};Cert=\"{escaped}\""), false),
        // What a client sent, and what the proxy wrote behind it.
        (
            CertificateFormat::Xfcc,
            format!("Hash={hex};X=\",By=spiffe://a;Hash={other};Subject=\"/CN=a\\\"b\""),
            false,
        ),
        (CertificateFormat::Xfcc, format!("Hash={hex};URI=\",By=spiffe://a;Hash={other};URI=a\""), false),
        (
            CertificateFormat::Xfcc,
            format!("Hash={hex};URI=\",By=spiffe://a;Hash={other};URI=a\";Hash={hex}"),
            false,
        ),
        (CertificateFormat::Xfcc, format!("Hash={hex};X=1"), false),
        (CertificateFormat::Xfcc, format!("Hash={hex};Hash={hex}"), false),
    ];
    for (certificate, header, good) in cases {
        let binder = binder(BindingSettings { certificate, ..BindingSettings::default() });
        let ask = |certificate| {
            let evidence = Evidence { dpop: Once::None, certificate, ..Evidence::default() };
            binder.prove(&cnf, TOKEN, &evidence, &target(), NOW)
        };
        let want = if good { Ok(()) } else { Err(Reason::BindingUnproved) };
        assert_eq!(ask(Once::One(&header)), want, "{certificate:?} {header}");
        assert_eq!(
            (ask(Once::None), ask(Once::Bad)),
            (Err(Reason::BindingUnproved), Err(Reason::BindingUnproved))
        );
    }
}

#[test]
fn what_cannot_be_proved_here_is_not_proved() {
    let sender = Sender::new();
    let jkt = b64(sender.cnf.key.unwrap());
    for bad in [
        json!({"cnf": null}),
        json!({"cnf": {}}),
        json!({"cnf": "x"}),
        json!({"cnf": {"jkt": 1}}),
        json!({"cnf": {"jkt": "AAAA"}}),
    ] {
        assert_eq!(read(&bad), Err(Reason::ClaimsInvalid), "{bad}");
    }
    assert_eq!(read(&json!({})), Ok(None));
    let none = json!({});
    let binder = binder(BindingSettings::default());
    for other in [json!({"kid": "x"}), json!({"jkt": jkt, "jwk": {}})] {
        let cnf = read(&json!({"cnf": other})).unwrap().unwrap();
        let proof = sender.proof("1", &none, &none);
        assert_eq!(ask(&binder, &cnf, &proof, &target(), NOW), Err(Reason::BindingUnproved), "{other}");
    }
    let both = read(&json!({"cnf": {"jkt": jkt, "x5t#S256": b64([7; 32])}})).unwrap().unwrap();
    let proof = sender.proof("1", &none, &none);
    assert_eq!(ask(&binder, &both, &proof, &target(), NOW), Err(Reason::BindingUnproved), "one of two");
    assert_eq!(both.label(), "dpop+mtls");
}
