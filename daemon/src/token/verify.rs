//! Verifying JWTs, in an order that gives a forger nothing: shape, issuer, algorithm, key, signature, and
//! only then times and audience. So an expired token is [`Reason::TokenExpired`] only where it is genuine.

use std::{collections::HashMap, sync::Arc, time::Duration};

use portcullis_common::{fingerprint::signing_input, reason::Reason};
use serde_json::Value;

use super::{
    ApiKeys, Identity, Introspector, IssuerSettings, IssuerStatus, KeySource, StatusLists, Token, Verified,
    VerifierError,
    issuer::Issuer,
    jws::{self, Jws},
    remote::{self, Fetcher},
    vouch::Vouched,
};

/// Longest token that is parsed at all, whatever extraction allows.
pub const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Verifies tokens of a fixed set of issuers, whose keys may change.
pub struct Verifier {
    issuers: HashMap<String, Arc<Issuer>>,
    fetchers: Vec<Fetcher>,
    api_keys: Option<Arc<ApiKeys>>,
    introspector: Option<Arc<Introspector>>,
    status_lists: Option<Arc<StatusLists>>,
}

/// What is found of a token.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// What it says of itself, or why it is not believed.
    pub status: Result<Verified, Reason>,
    /// What that rests on, and so how long it stands; `None` where nothing that changes has a part in it.
    pub vouched: Option<Vouched>,
}

/// A token of which others have to be asked; what was found of it so far, unless it is another server's.
#[derive(Debug)]
pub struct Unsettled(Option<Box<Judgement>>);

impl Judgement {
    pub(super) const fn refused(reason: Reason) -> Self {
        Self { status: Err(reason), vouched: None }
    }
}

impl Verifier {
    /// Reads the keys that are in files. `leeway` is the clock skew borne, usually 30 seconds.
    ///
    /// Any fault in the settings or a key file refuses the whole: half a verifier would refuse good tokens. Keys of
    /// servers are fetched by [`Self::keep`]; until then their issuers are not ready.
    pub fn new(issuers: Vec<IssuerSettings>, leeway: Duration) -> Result<Self, VerifierError> {
        let (mut built, mut fetchers) = (HashMap::with_capacity(issuers.len()), Vec::new());
        for settings in issuers {
            let name = settings.issuer.clone();
            let issuer = Arc::new(Issuer::new(settings, leeway)?);
            if let KeySource::Remote(remote) = &issuer.source {
                fetchers.push(Fetcher::new(Arc::clone(&issuer), remote)?);
            }
            if built.insert(name.clone(), issuer).is_some() {
                return Err(VerifierError::DuplicateIssuer { issuer: name });
            }
        }
        Ok(Self { issuers: built, fetchers, api_keys: None, introspector: None, status_lists: None })
    }

    /// Takes API keys too.
    #[must_use]
    pub fn with_api_keys(self, api_keys: Option<Arc<ApiKeys>>) -> Self {
        Self { api_keys, ..self }
    }

    /// Asks about opaque tokens too.
    #[must_use]
    pub fn with_introspector(self, introspector: Option<Arc<Introspector>>) -> Self {
        Self { introspector, ..self }
    }

    /// Asks status lists, too, of tokens that name one.
    #[must_use]
    pub fn with_status_lists(self, status_lists: Option<Arc<StatusLists>>) -> Self {
        Self { status_lists, ..self }
    }

    /// Verifies a token at `now`, in Unix seconds.
    pub fn verify(&self, token: &Token, now: i64) -> Result<Identity, Reason> {
        self.judge(token, now).status.map(|verified| verified.identity)
    }

    /// Verifies a token at `now`, in Unix seconds, and says what that rests on.
    pub fn judge(&self, token: &Token, now: i64) -> Judgement {
        if let Some(keys) = self.api_keys.as_ref().filter(|keys| keys.claims(token.as_str())) {
            return keys.judge(token, now);
        }
        match self.find(token) {
            Err(reason) => Judgement::refused(reason),
            Ok((issuer, jws)) => {
                let (status, vouched) = issuer.judge(jws, now);
                Judgement { status, vouched: Some(vouched) }
            }
        }
    }

    /// What a token will be at the moment when its time comes; for those that are not valid yet.
    pub fn foresee(&self, token: &Token, now: i64) -> Result<Identity, Reason> {
        let (_, jws) = self.find(token)?;
        #[allow(
            clippy::cast_possible_truncation,
            reason = "what lies beyond is no time, and refused by the claims' check"
        )]
        let at = |name: &str| jws.claims.get(name).and_then(Value::as_f64).map_or(now, |t| t.ceil() as i64);
        self.verify(token, now.max(at("nbf")).max(at("iat")))
    }

    /// When a token says that it ends, whoever made it: nothing is verified.
    pub fn stated_expiry(token: &Token) -> Option<i64> {
        let jws = Jws::parse(token.as_str()).ok()?;
        jws.claims.get("exp").and_then(Value::as_i64)
    }

    /// What a JWT says that this verified before, and that is known by its whole text: it is taken apart, and nothing is
    /// verified. None of another token.
    pub fn reread(&self, token: &Token) -> Option<Verified> {
        let (issuer, jws) = self.find(token).ok()?;
        issuer.reread(jws)
    }

    /// The claims that a JWT states, as the text of a JSON object: nothing is verified. None of another token.
    pub fn stated_claims(token: &Token) -> Option<Box<str>> {
        signing_input(token.as_bytes())?;
        String::from_utf8(jws::payload(token.as_str())?).ok().map(String::into_boxed_str)
    }

    /// Whether a token that was signed with an unknown key will not be known later either: its issuer's keys are at hand as
    /// they were when it was issued, or after.
    pub async fn is_of_no_key(&self, token: &Token, now: i64) -> bool {
        let Ok((issuer, jws)) = self.find(token) else { return false };
        let issued = jws.claims.get("iat").and_then(Value::as_i64);
        // One of the future is a lie: no issuer's clock is wrong by so much.
        remote::are_whole(issuer, issued.filter(|at| *at <= now.saturating_add(600)), now).await
    }

    /// As [`Self::judge`], for opaque tokens of others too: what has the form of a JWT is never sent away. Where the
    /// keys at hand do not suffice, they are fetched, and the token waits for them, for no longer than its issuer's
    /// setting. The clock is asked again behind that.
    pub async fn identify(&self, token: &Token, now: impl Fn() -> i64) -> Judgement {
        match self.at_once(token, now()) {
            Ok(judged) => judged,
            Err(open) => self.settle(token, open, now).await,
        }
    }

    /// [`Self::identify`], where nobody has to be asked or waited for, which most tokens are spared; otherwise what
    /// [`Self::settle`] goes on with.
    pub fn at_once(&self, token: &Token, now: i64) -> Result<Judgement, Unsettled> {
        if self.introspector.is_some() && signing_input(token.as_bytes()).is_none() && !self.is_api_key(token)
        {
            return Err(Unsettled(None));
        }
        let judged = self.judge(token, now);
        let settled = match judged.status {
            Ok(_) => self.status_lists.is_none() || self.is_api_key(token),
            Err(reason) => !waits(reason),
        };
        if settled { Ok(judged) } else { Err(Unsettled(Some(Box::new(judged)))) }
    }

    /// Asks and waits.
    pub async fn settle(&self, token: &Token, open: Unsettled, now: impl Fn() -> i64) -> Judgement {
        let judged = match (open.0, &self.introspector) {
            (Some(judged), _) => *judged,
            (None, Some(introspector)) => return introspector.judge(token, now).await,
            (None, None) => self.judge(token, now()),
        };
        let Ok((issuer, _)) = self.find(token) else { return judged };
        let waits = judged.status.as_ref().is_err_and(|reason| waits(*reason));
        let judged = if waits && remote::awaited(issuer).await { self.judge(token, now()) } else { judged };
        match &self.status_lists {
            Some(lists) if judged.status.is_ok() => lists.settle(issuer, judged, now).await,
            _ => judged,
        }
    }

    fn is_api_key(&self, token: &Token) -> bool {
        self.api_keys.as_ref().is_some_and(|keys| keys.claims(token.as_str()))
    }

    fn find<'a>(&self, token: &'a Token) -> Result<(&Arc<Issuer>, Jws<'a>), Reason> {
        if token.as_bytes().len() > MAX_TOKEN_BYTES {
            return Err(Reason::TokenTooLong);
        }
        let jws = Jws::parse(token.as_str())?;
        let name = jws.claims.get("iss").and_then(Value::as_str).ok_or(Reason::ClaimsInvalid)?;
        let issuer = self.issuers.get(name).ok_or(Reason::IssuerUnknown)?;
        Ok((issuer, jws))
    }

    /// Fetches keys of servers and reads those of files again, each in its time. It does not end: drop it.
    pub async fn keep(self: Arc<Self>) {
        let mut tasks = tokio::task::JoinSet::new();
        for fetcher in &self.fetchers {
            tasks.spawn(fetcher.clone().keep());
        }
        let files = self.issuers.values().filter(|i| i.source.path().is_some()).cloned().collect();
        tasks.spawn(remote::watch_files(files));
        if let Some(lists) = &self.status_lists {
            tasks.spawn(Arc::clone(lists).keep());
        }
        while tasks.join_next().await.is_some() {}
    }

    /// How each issuer stands, in order of their names.
    pub fn issuers(&self, now: i64) -> Vec<IssuerStatus> {
        let mut all: Vec<_> = self.issuers.values().map(|i| i.status(now)).collect();
        all.sort_by(|a, b| a.issuer.cmp(&b.issuer));
        all
    }
}

/// Whether new keys may mend this.
const fn waits(reason: Reason) -> bool {
    matches!(reason, Reason::KeyUnknown | Reason::IssuerNotReady | Reason::KeysStale)
}

#[cfg(test)]
mod tests;
