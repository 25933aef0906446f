//! How long a verified token may be believed without being verified again.
//!
//! Whatever vouches for tokens (an issuer's keys, the store of API keys, an introspection server) has a number that
//! changes when a token that was good may be so no longer. Caches keep the number beside what they hold, and ask.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

/// Something that vouches for tokens.
#[derive(Debug)]
pub(super) struct Voucher {
    generation: AtomicU64,
    /// Unix seconds from which on it vouches for nothing.
    good_until: AtomicI64,
}

impl Voucher {
    /// One that holds until `good_until`.
    pub fn new(good_until: i64) -> Arc<Self> {
        Arc::new(Self { generation: AtomicU64::new(1), good_until: AtomicI64::new(good_until) })
    }

    /// Its number now.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether it still vouches for anything.
    pub fn is_good(&self, now: i64) -> bool {
        now < self.good_until.load(Ordering::Acquire)
    }

    /// Vouches until then.
    pub fn extend(&self, good_until: i64) {
        self.good_until.store(good_until, Ordering::Release);
    }

    /// What it vouched for has to be verified again.
    pub fn renew(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

/// What a verification rests on.
#[derive(Clone, Debug)]
pub struct Vouched {
    pub(super) voucher: Arc<Voucher>,
    /// The voucher's number when the verification began.
    pub(super) at: u64,
    /// Unix seconds from which on this token is to be verified again.
    pub(super) until: i64,
    /// A second voucher, and its number then: the token's status list.
    also: Option<Box<(Arc<Voucher>, u64)>>,
}

impl Vouched {
    /// By a voucher as it is now.
    pub(super) fn by(voucher: &Arc<Voucher>) -> Self {
        Self { at: voucher.generation(), voucher: Arc::clone(voucher), until: i64::MAX, also: None }
    }

    /// By nothing: what rests on it is never kept.
    pub fn nothing() -> Self {
        Self { voucher: Voucher::new(i64::MIN), at: 0, until: i64::MIN, also: None }
    }

    /// It rests on another voucher too, as it is under this number.
    pub(super) fn also(&mut self, voucher: &Arc<Voucher>, at: u64) {
        self.also = Some(Box::new((Arc::clone(voucher), at)));
    }

    /// Whether what was found then still stands at `now`, in Unix seconds.
    pub fn is_current(&self, now: i64) -> bool {
        let stands = |voucher: &Voucher, at: u64| voucher.generation() == at && voucher.is_good(now);
        now < self.until
            && stands(&self.voucher, self.at)
            && self.also.as_ref().is_none_or(|also| stands(&also.0, also.1))
    }
}
