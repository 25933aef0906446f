//! What is answered: a permit or a refusal.

use std::sync::Arc;

use portcullis_common::reason::Reason;

use super::{Allowance, DecisionId};
use crate::policy::Reply;

/// Leave to pass. Only the decision path makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    status: u16,
    subject: Option<Arc<str>>,
    reply: Option<Arc<Reply>>,
    failure: Option<Reason>,
    allowance: Option<Allowance>,
    id: Option<DecisionId>,
}

impl Permit {
    pub(super) const fn new(status: u16, subject: Option<Arc<str>>, reply: Option<Arc<Reply>>) -> Self {
        Self { status, subject, reply, failure: None, allowance: None, id: None }
    }

    pub(super) fn limited(self, allowance: Option<Allowance>) -> Self {
        Self { allowance, ..self }
    }

    /// What is left of its tightest rate limit, for the `RateLimit` headers.
    pub const fn allowance(&self) -> Option<&Allowance> {
        self.allowance.as_ref()
    }

    /// The id of its line in the decision log, where it has one.
    pub const fn id(&self) -> Option<DecisionId> {
        self.id
    }

    /// The HTTP status, 2xx.
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// `sub` of the verified token, for the application.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// What the policy says beside that.
    pub fn reply(&self) -> Option<&Reply> {
        self.reply.as_deref()
    }

    /// Why no decision could be made, where the door fails open.
    pub const fn failure(&self) -> Option<Reason> {
        self.failure
    }
}

/// An operator's written word that a front door lets requests pass where no decision can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailOpen;

/// A denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What the policy says of it, for people.
    pub detail: Option<Arc<str>>,
    /// The HTTP status, 4xx or 5xx, or a redirect's.
    pub status: u16,
    /// What the policy says beside that.
    pub reply: Option<Arc<Reply>>,
    /// The rate limit that it ran into, for the `RateLimit` headers.
    pub allowance: Option<Allowance>,
    /// The id of its line in the decision log, where it has one.
    pub id: Option<DecisionId>,
}

impl Refusal {
    /// A denial for a reason, with its usual status.
    pub const fn of(reason: Reason) -> Self {
        Self { reason, detail: None, status: reason.status(), reply: None, allowance: None, id: None }
    }

    /// Leave to pass at a door that fails open, if this is no decision but the lack of one.
    pub const fn fail_open(&self, _: FailOpen) -> Option<Permit> {
        match self.reason {
            Reason::PolicyError
            | Reason::PolicyTimeout
            | Reason::NotReady
            | Reason::Overloaded
            | Reason::InternalError => {
                let mut permit = Permit::new(200, None, None);
                permit.failure = Some(self.reason);
                permit.id = self.id;
                Some(permit)
            }
            _ => None,
        }
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
    /// A denial for a reason.
    pub const fn deny(reason: Reason) -> Self {
        Self::Deny(Refusal::of(reason))
    }

    /// Gives it the id of its line in the decision log.
    pub(super) fn logged(mut self, id: Option<DecisionId>) -> Self {
        match &mut self {
            Self::Allow(permit) => permit.id = id,
            Self::Deny(refusal) => refusal.id = id,
        }
        self
    }

    /// The reason, for metrics and logs.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Allow(_) => Reason::Allowed,
            Self::Deny(r) => r.reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lack_of_a_decision_fails_open() {
        let open: Vec<_> =
            Reason::ALL.iter().filter(|r| Refusal::of(**r).fail_open(FailOpen).is_some()).collect();
        let lacks = [
            Reason::PolicyError,
            Reason::PolicyTimeout,
            Reason::NotReady,
            Reason::Overloaded,
            Reason::InternalError,
        ];
        assert_eq!(open, lacks.iter().collect::<Vec<_>>());
    }
}
