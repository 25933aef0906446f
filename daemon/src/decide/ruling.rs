//! What is answered: a permit or a refusal.

use std::sync::Arc;

use portcullis_common::reason::Reason;

use super::Allowance;

/// Leave to pass. Only the decision path makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    status: u16,
    subject: Option<Arc<str>>,
    allowance: Option<Allowance>,
}

impl Permit {
    pub(super) const fn new(status: u16, subject: Option<Arc<str>>) -> Self {
        Self { status, subject, allowance: None }
    }

    pub(super) fn limited(self, allowance: Option<Allowance>) -> Self {
        Self { allowance, ..self }
    }

    /// What is left of its tightest rate limit, for the `RateLimit` headers.
    pub const fn allowance(&self) -> Option<&Allowance> {
        self.allowance.as_ref()
    }

    /// The HTTP status, 2xx.
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// `sub` of the verified token, for the application.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }
}

/// A denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What the policy says of it, for people.
    pub detail: Option<Arc<str>>,
    /// The HTTP status, 4xx or 5xx.
    pub status: u16,
    /// The rate limit that it ran into, for the `RateLimit` headers.
    pub allowance: Option<Allowance>,
}

impl Refusal {
    /// A denial for a reason, with its usual status.
    pub const fn of(reason: Reason) -> Self {
        Self { reason, detail: None, status: reason.status(), allowance: None }
    }
}

/// What a request gets. A copy allocates nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It may pass.
    Allow(Permit),
    /// It may not.
    Deny(Refusal),
}

impl Ruling {
    /// The reason, for metrics and logs.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Allow(_) => Reason::Allowed,
            Self::Deny(r) => r.reason,
        }
    }
}
