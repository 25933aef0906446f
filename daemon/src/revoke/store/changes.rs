//! What a batch changes in the store: all of it is one entry of the log.

use super::super::{
    Claim, ClaimId, Once, SelectorClaim,
    foreign::{Grave, Origin, Position},
};

/// What came of an order that may be repeated.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The order.
    pub once: Once,
    /// The claims that came of it.
    pub ids: Vec<ClaimId>,
}

/// What a batch changes.
#[derive(Debug, Default)]
pub struct Changes<'a> {
    /// Claims on tokens to add, in the order of their ids.
    pub add: Vec<&'a Claim>,
    /// Claims by selector to add. Their ids are above those of `add`, or these are none.
    pub select: Vec<&'a SelectorClaim>,
    /// Claims of either kind to take out, with who has it done (JSON).
    pub lift: Vec<(Vec<ClaimId>, Vec<u8>)>,
    /// Claims whose time is over.
    pub over: Vec<ClaimId>,
    /// The active policy set: its hash and generation.
    pub policy: Option<(String, u64)>,
    /// Orders that may be repeated.
    pub answered: Vec<Answer>,
    /// How many tokens selectors' orders condemned at once, all told.
    pub condemned: Vec<(ClaimId, u64)>,
    /// For the audit log (JSON).
    pub notes: Vec<Vec<u8>>,
    /// Claims that were lifted by an order given here, for the fleet.
    pub buried: Vec<Grave>,
    /// Claims of other hosts that are lifted, whether they are here or still to come.
    pub graves: Vec<Grave>,
    /// How far other hosts' orders are known with this.
    pub reached: Vec<(Origin, Position)>,
    /// Fingerprint keys that are in force for the first time.
    pub keys: Vec<u32>,
    /// It need not be on the disk when the commit returns: it is with the next one that must.
    pub lazy: bool,
}

impl Changes<'_> {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty() && self.condemned.is_empty() && self.is_notes_alone()
    }

    /// Whether nothing but the audit log and receipts change.
    pub fn is_notes_alone(&self) -> bool {
        self.add.is_empty()
            && self.select.is_empty()
            && self.lift.is_empty()
            && self.over.is_empty()
            && self.policy.is_none()
            && self.answered.is_empty()
            && self.graves.is_empty()
            && self.reached.is_empty()
            && self.keys.is_empty()
    }

    /// Claims that go.
    pub fn gone(&self) -> impl Iterator<Item = u64> {
        self.lift.iter().flat_map(|(ids, _)| ids).chain(&self.over).map(|id| id.0)
    }
}
