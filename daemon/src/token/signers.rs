//! Somebody who signs documents that are no tokens, with keys that change: transmitters of security events.

use std::{sync::Arc, time::Duration};

use portcullis_common::reason::Reason;

use super::{
    Document, IssuerSettings, KeySource, VerifierError,
    issuer::Issuer,
    remote::{self, Fetcher},
};

/// The keys of one who signs.
pub struct Signers {
    issuer: Arc<Issuer>,
    fetcher: Option<Fetcher>,
}

impl Signers {
    /// Reads keys that are in a file; others are fetched by [`Self::keep`].
    pub fn new(settings: IssuerSettings) -> Result<Self, VerifierError> {
        let issuer = Arc::new(Issuer::new(settings, Duration::ZERO)?);
        let fetcher = match &issuer.source {
            KeySource::Remote(remote) => Some(Fetcher::new(Arc::clone(&issuer), remote)?),
            _ => None,
        };
        Ok(Self { issuer, fetcher })
    }

    /// A document of this type that they signed. Where the keys at hand do not suffice they are fetched, and waited for
    /// as long as the settings say.
    pub async fn open(&self, text: &str, typ: &str, now: impl Fn() -> i64) -> Result<Document, Reason> {
        let opened = self.issuer.open(text, typ, now());
        if matches!(opened, Err(Reason::KeyUnknown | Reason::IssuerNotReady | Reason::KeysStale))
            && remote::awaited(&self.issuer).await
        {
            return self.issuer.open(text, typ, now());
        }
        opened
    }

    /// Keeps the keys up to date. It does not end: drop it.
    pub async fn keep(self: Arc<Self>) {
        match &self.fetcher {
            Some(fetcher) => fetcher.clone().keep().await,
            None => remote::watch_files(vec![Arc::clone(&self.issuer)]).await,
        }
    }
}
