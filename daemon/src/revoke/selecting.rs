//! What the plane does with selectors: each is stored, then refused by the index, then acknowledged; and tokens that
//! it is known to match are condemned one by one, as claims that follow from it and are lifted with it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use portcullis_common::fingerprint::DenyFingerprint;

use super::{
    AnyClaim, ClaimId, Fingerprints, Names, Once, Order, Plane, RevokeError, Selector, SelectorClaim,
    SelectorOrder,
    handle::{Reply, When},
    ledger::Moment,
    plane::{Follows, Lifted},
    room::{MAX_CLAIMS, Room},
};
use crate::{
    clock::WallTime,
    kernel::{Kernel, KernelError},
};

/// By which way claims come that follow from a selector.
const SOURCE: &str = "selector";

/// A token that a selector was seen to match, with the time after which it is of no use to anybody.
pub type Matched = (Fingerprints, WallTime);

impl Plane {
    /// What an order by selector that was given before comes to; `None` for one that was not.
    pub(super) fn selected(&mut self, once: Option<Once>) -> Option<Result<SelectorClaim, RevokeError>> {
        let known = self.answered(once?)?;
        let find = || {
            let id = known?.first().copied().ok_or(RevokeError::KeyReused)?;
            let found = self.store.reader().selector(id).map_err(|e| RevokeError::Read(Arc::new(e)))?;
            let found = found.ok_or(RevokeError::Unknown(id))?;
            if self.unforgotten {
                self.forget().map_err(|e| RevokeError::Kernel(Arc::new(e)))?;
            }
            Ok(found)
        };
        Some(find())
    }

    /// Claims on each of these tokens, and then under the name of each of these selectors.
    pub(super) fn standing(&self, tokens: &[Fingerprints], selectors: &[Selector]) -> Vec<Vec<ClaimId>> {
        let on = tokens.iter().map(|t| self.ledger.ids_on(self.settings.keys.name(t)));
        let under = selectors.iter().map(|s| self.index.selectors.ids_under(self.settings.namer.of(s)));
        on.chain(under).collect()
    }

    /// Whether one more may stand under its name, behind those of the batch.
    pub(super) fn room_for(
        &self,
        order: &SelectorOrder,
        batch: &[(SelectorOrder, Option<Once>, Reply<SelectorClaim>)],
    ) -> Result<(), RevokeError> {
        let name = self.settings.namer.of(&order.selector);
        let standing = self.index.selectors.under(name);
        // Names are digests: nobody makes them for a batch in which there cannot be too many.
        let more = if standing + batch.len() < MAX_CLAIMS {
            0
        } else {
            batch.iter().filter(|(o, ..)| self.settings.namer.of(&o.selector) == name).count()
        };
        if standing + more < MAX_CLAIMS { Ok(()) } else { Err(RevokeError::TooMany { limit: MAX_CLAIMS }) }
    }

    pub(super) fn selector_claim(&mut self, o: SelectorOrder, taken: Moment) -> SelectorClaim {
        SelectorClaim {
            id: self.store.next_id(),
            selector: o.selector,
            created: taken.wall,
            until: o.until,
            reason: o.reason,
            actor: o.actor,
            ticket: o.ticket,
            source: o.source,
        }
    }

    /// Puts what is on disk in force: for the decision path, for tokens seen or not.
    pub(super) fn select_in_force(&mut self, claim: &SelectorClaim) {
        self.index.selectors.add(self.settings.namer.of(&claim.selector), claim.mark());
        self.ledger.calendar().note(claim.id, None, claim.until);
    }

    pub(super) fn forget_verdicts(&mut self) -> Result<(), KernelError> {
        self.kernel.as_mut().map_or(Ok(()), Kernel::forget_verdicts)
    }

    /// The same; where it fails, the sweep tries it again.
    pub(super) fn forget(&mut self) -> Result<(), KernelError> {
        let forgotten = self.forget_verdicts().map_err(|e| self.noted(e));
        self.unforgotten = forgotten.is_err();
        forgotten
    }

    /// What goes when a claim is lifted: of a selector's, all that follow from it.
    pub(super) fn lifting(&self, claim: AnyClaim, by: Vec<u8>, reply: Reply<AnyClaim>) -> Lifted {
        let tokens = match &claim {
            AnyClaim::Token(c) => vec![(c.id, self.name_of(c))],
            AnyClaim::Selector(c) => self.ledger.children(c.id).collect(),
        };
        Lifted { claim, tokens, by, reply }
    }

    /// Lifts what is off the disk already. The kernel is still to be told.
    pub(super) fn lift(&mut self, lifted: &Lifted) {
        if let AnyClaim::Selector(claim) = &lifted.claim {
            self.index.selectors.remove(self.settings.namer.of(&claim.selector), claim.id);
            self.ledger.forget_children(claim.id);
        }
        for (id, f) in &lifted.tokens {
            self.ledger.lift(*id, *f);
        }
    }

    /// Orders for the tokens that selectors were seen to match, as claims that follow from theirs. Those that one has
    /// condemned before and those there is no room for are left out, for the decision path refuses them all the same.
    pub(super) fn following(
        &self,
        follows: Vec<(ClaimId, Vec<Matched>, When, Reply<usize>)>,
        lifted: &[Lifted],
        room: &mut Room,
    ) -> Vec<Follows> {
        let wall = self.clock.wall();
        let mut new: HashSet<(ClaimId, DenyFingerprint)> = HashSet::new();
        let mut all = Vec::new();
        for (parent, tokens, when, reply) in follows {
            let found = match self.store.reader().selector(parent) {
                Ok(found) => found.filter(|_| !lifted.iter().any(|l| l.claim.id() == parent)),
                Err(e) => {
                    let _ = reply.send(Err(RevokeError::Read(Arc::new(e))));
                    continue;
                }
            };
            let mut orders = Vec::new();
            for (token, ends) in found.iter().flat_map(|_| &tokens) {
                let Some(selector) = &found else { break };
                let until = selector.until.min(*ends);
                let name = self.settings.keys.name(token);
                // It may have been condemned before the fingerprint key was changed.
                let mut names = token.each();
                if until <= wall
                    || names.any(|f| self.ledger.is_child(parent, f))
                    || new.contains(&(parent, name))
                    || room.take(&self.ledger, name).is_err()
                {
                    continue;
                }
                new.insert((parent, name));
                orders.push(Order {
                    token: *token,
                    until,
                    reason: selector.reason.clone(),
                    actor: selector.actor.clone(),
                    ticket: selector.ticket.clone(),
                    source: SOURCE.to_owned(),
                    parent: Some(parent),
                });
            }
            let counted = found.filter(|_| when == When::AtOnce).map(|_| parent);
            all.push((orders, counted, reply));
        }
        all
    }

    /// What selectors' orders have condemned at once, with these.
    pub(super) fn condemned(&self, follows: &[Follows]) -> Vec<(ClaimId, u64)> {
        let mut all: BTreeMap<ClaimId, u64> = BTreeMap::new();
        for (orders, counted, _) in follows {
            if let Some(id) = counted {
                let before = || self.store.reader().condemned(*id).unwrap_or(0);
                *all.entry(*id).or_insert_with(before) += orders.len() as u64;
            }
        }
        all.into_iter().collect()
    }
}

impl Lifted {
    /// All that go.
    pub fn ids(&self) -> Vec<ClaimId> {
        let own = matches!(self.claim, AnyClaim::Selector(_)).then(|| self.claim.id());
        own.into_iter().chain(self.tokens.iter().map(|(id, _)| *id)).collect()
    }
}

/// Whether a selector's claim matches a token, in time.
pub(super) fn is_match(plane: &super::PlaneHandle, claim: &SelectorClaim, names: &Names) -> bool {
    let name = plane.namer.of(&claim.selector);
    names.has(name) && claim.mark().matches(names, plane.clock.wall())
}
