//! Who asks: OAuth clients by a secret (RFC 6749 §2.3.1) or a TLS certificate (RFC 8705).
//!
//! Secrets are random texts of 256 bits that this program makes, so one round of SHA-256 keeps them. The time that a
//! comparison takes tells nothing: hashes are compared in constant time, and an unknown client's with some hash too.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};
use subtle::{Choice, ConstantTimeEq as _};
use zeroize::Zeroizing;

use super::{
    Fault, Peer,
    form::{Form, decode},
};

/// Which tokens a client may revoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revokes {
    /// None.
    Off,
    /// Its own.
    Own,
    /// Any.
    Any,
}

/// One client as it is configured.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Its id.
    pub id: String,
    /// Hashes of its secrets.
    pub secrets: Vec<[u8; 32]>,
    /// Hashes of its certificates.
    pub certificates: Vec<[u8; 32]>,
    /// Which tokens it may revoke.
    pub revokes: Revokes,
    /// Whose client it is.
    pub issuers: Vec<String>,
    /// Whether it may introspect.
    pub introspects: bool,
    /// The audiences whose tokens are active to it; empty for all.
    pub audience: Vec<String>,
    /// Requests a second.
    pub rate: u32,
}

/// A client, and how fast it asks.
#[derive(Debug)]
pub(super) struct Client {
    pub settings: ClientSettings,
    /// When its rate would be used up but for a burst.
    due: Mutex<Option<Instant>>,
}

/// All clients.
#[derive(Debug, Default)]
pub struct Clients(BTreeMap<String, Client>);

impl Client {
    /// Whether its rate lets it ask, and counts that it does.
    pub fn may_ask_now(&self) -> bool {
        let (now, each) = (Instant::now(), Duration::from_secs(1) / self.settings.rate.max(1));
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let next = due.map_or(now, |t| t.max(now)) + each;
        if next > now + Duration::from_secs(1) {
            return false;
        }
        *due = Some(next);
        true
    }
}

impl Clients {
    /// Those of the configuration.
    pub fn new(all: Vec<ClientSettings>) -> Self {
        let keep =
            |settings: ClientSettings| (settings.id.clone(), Client { settings, due: Mutex::default() });
        Self(all.into_iter().map(keep).collect())
    }

    /// Who sends this, by one way to tell it alone.
    pub(super) fn authenticate(
        &self,
        headers: &HeaderMap,
        form: &Form,
        peer: &Peer,
    ) -> Result<&Client, Fault> {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let basic = match (given.next(), given.next()) {
            (None, _) => None,
            (Some(value), None) => Some(read_basic(value.as_bytes()).ok_or(Fault::Client)?),
            (Some(_), Some(_)) => return Err(Fault::Request("there is more than one Authorization header")),
        };
        let (named, posted) = (form.get("client_id"), form.get("client_secret"));
        match (basic, posted) {
            (Some(_), Some(_)) => Err(Fault::Request("the client tells who it is in more than one way")),
            (Some((id, _)), None) if named.is_some_and(|n| n != id.as_str()) => {
                Err(Fault::Request("`client_id` is another than that of the Authorization header"))
            }
            (Some((id, secret)), None) => self.by_secret(&id, &secret),
            (None, Some(secret)) => self.by_secret(named.ok_or(Fault::Client)?, secret),
            (None, None) => self.by_certificate(named, peer.certificate.as_ref()),
        }
    }

    fn by_secret(&self, id: &str, secret: &str) -> Result<&Client, Fault> {
        const NOBODY: &[[u8; 32]] = &[[0; 32]];
        let told = digest::digest(&digest::SHA256, secret.as_bytes());
        let client = self.0.get(id);
        let hashes = client.map_or(NOBODY, |c| &c.settings.secrets);
        let equal = hashes.iter().fold(Choice::from(0), |any, hash| any | hash[..].ct_eq(told.as_ref()));
        client.filter(|_| bool::from(equal)).ok_or(Fault::Client)
    }

    /// The client that showed this certificate: the one that the form names, or the only one that has it.
    fn by_certificate(&self, named: Option<&str>, shown: Option<&[u8; 32]>) -> Result<&Client, Fault> {
        let shown = shown.ok_or(Fault::Client)?;
        let mut fitting = self
            .0
            .values()
            .filter(|c| named.is_none_or(|n| n == c.settings.id) && c.settings.certificates.contains(shown));
        match (fitting.next(), fitting.next()) {
            (Some(client), None) => Ok(client),
            _ => Err(Fault::Client),
        }
    }
}

/// A client's id and secret, both form-encoded before they were joined.
fn read_basic(value: &[u8]) -> Option<(Zeroizing<String>, Zeroizing<String>)> {
    let text = std::str::from_utf8(value).ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = Zeroizing::new(STANDARD.decode(encoded.trim()).ok()?);
    let (id, secret) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
    Some((decode(id)?, decode(secret)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> [u8; 32] {
        digest::digest(&digest::SHA256, text.as_bytes()).as_ref().try_into().unwrap()
    }

    fn client(id: &str, secrets: &[&str], certificates: &[[u8; 32]], rate: u32) -> ClientSettings {
        ClientSettings {
            id: id.to_owned(),
            secrets: secrets.iter().map(|s| hash(s)).collect(),
            certificates: certificates.to_vec(),
            revokes: Revokes::Own,
            issuers: Vec::new(),
            introspects: false,
            audience: Vec::new(),
            rate,
        }
    }

    fn asked(
        clients: &Clients,
        header: Option<&str>,
        form: &str,
        shown: Option<[u8; 32]>,
    ) -> Result<String, Fault> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(header::AUTHORIZATION, header.parse().unwrap());
        }
        let peer = Peer { certificate: shown, ..Peer::unix() };
        let form = Form::read(form.as_bytes()).unwrap();
        clients.authenticate(&headers, &form, &peer).map(|c| c.settings.id.clone())
    }

    #[test]
    fn a_client_is_known_by_one_right_credential_and_by_nothing_else() {
        let all = vec![client("app", &["s1", "s 2"], &[], 1), client("mtls", &[], &[[7; 32]], 1)];
        let clients = Clients::new(all);
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        let ok = |id: &str| Ok(id.to_owned());
        assert_eq!(asked(&clients, Some(&basic("app:s1")), "", None), ok("app"));
        assert_eq!(asked(&clients, Some(&basic("app:s+2")), "", None), ok("app"), "form-encoded first");
        assert_eq!(asked(&clients, Some(&basic("app:s1")), "client_id=app", None), ok("app"));
        assert_eq!(asked(&clients, None, "client_id=app&client_secret=s1", None), ok("app"));
        assert_eq!(asked(&clients, None, "", Some([7; 32])), ok("mtls"));
        assert_eq!(asked(&clients, None, "client_id=mtls", Some([7; 32])), ok("mtls"));
        for (header, form, shown) in [
            (None, "", None),
            (None, "client_id=app", None),
            (None, "client_id=app", Some([7; 32])),
            (None, "", Some([8; 32])),
            (None, "client_secret=s1", None),
            (None, "client_id=mtls&client_secret=", None),
            (None, "client_id=mtls&client_secret=x", Some([7; 32])),
            (Some(basic("app:s3")), "", None),
            (Some(basic("nobody:s1")), "", None),
            (Some(basic("app")), "", None),
            (Some("Bearer s1".to_owned()), "", None),
            (Some("Basic !".to_owned()), "client_id=mtls", Some([7; 32])),
        ] {
            assert_eq!(
                asked(&clients, header.as_deref(), form, shown),
                Err(Fault::Client),
                "{header:?} {form}"
            );
        }
        for form in ["client_secret=s1", "client_id=other"] {
            let two = asked(&clients, Some(&basic("app:s1")), form, None);
            assert!(matches!(two, Err(Fault::Request(_))), "{two:?}");
        }
    }

    #[test]
    fn a_client_asks_no_faster_than_its_rate_but_for_one_burst() {
        let clients = Clients::new(vec![client("app", &["s"], &[], 3)]);
        let app = clients.0.get("app").unwrap();
        let passed = (0..10).filter(|_| app.may_ask_now()).count();
        assert!((3..5).contains(&passed), "{passed}");
    }
}
