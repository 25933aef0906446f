//! What the plane does with selectors: each is stored, then refused by the index, then acknowledged; and tokens that
//! it is known to match are condemned one by one, as claims that follow from it and are lifted with it.

use std::sync::Arc;

use portcullis_common::fingerprint::DenyFingerprint;

use super::{
    AnyClaim, Claim, ClaimId, Names, Once, Plane, RevokeError, SelectorClaim, SelectorOrder, ledger::Moment,
    store::Changes,
};
use crate::{
    clock::WallTime,
    kernel::{Kernel, KernelError},
};

/// By which way claims come that follow from a selector.
const SOURCE: &str = "selector";

/// A token that a selector was seen to match, with the time after which it is of no use to anybody.
pub type Matched = (DenyFingerprint, WallTime);

impl Plane {
    /// The same as [`Self::select`] of an order that may come twice.
    pub(super) fn select_once(
        &mut self,
        o: SelectorOrder,
        once: Option<Once>,
    ) -> Result<SelectorClaim, RevokeError> {
        let Some(known) = once.and_then(|once| self.answered(once)) else { return self.select(o, once) };
        let id = known?.first().copied().ok_or(RevokeError::KeyReused)?;
        let found = self.store.reader().selector(id).map_err(|e| RevokeError::Read(Arc::new(e)))?;
        let found = found.ok_or(RevokeError::Unknown(id))?;
        if self.unforgotten {
            self.forget_verdicts().map_err(|e| RevokeError::Kernel(Arc::new(self.noted(e))))?;
            self.unforgotten = false;
        }
        Ok(found)
    }

    /// Takes a selector. In force for the decision path, for tokens seen or not, when this returns.
    fn select(&mut self, o: SelectorOrder, once: Option<Once>) -> Result<SelectorClaim, RevokeError> {
        let taken = Moment::now(&*self.clock);
        let claim = SelectorClaim {
            id: self.store.next_id(),
            selector: o.selector,
            created: taken.wall,
            until: o.until,
            reason: o.reason,
            actor: o.actor,
            source: o.source,
        };
        let answered = once.map(|once| (once.key, once.request, vec![claim.id]));
        let changes =
            Changes { select: vec![&claim], answered: answered.into_iter().collect(), ..Changes::default() };
        let seq = self.commit(&changes).map_err(RevokeError::Store)?;
        let synced = self.since(taken);
        self.select_in_force(&claim);
        // The kernel's own allows know no selectors; tokens that this one does not match are asked about once more.
        let forgotten = self.forget_verdicts();
        let in_force = forgotten.is_ok().then(|| self.since(taken));
        self.store.done(seq, taken.wall, synced, in_force);
        forgotten.map_err(|e| {
            self.unforgotten = true;
            RevokeError::Kernel(Arc::new(self.noted(e)))
        })?;
        Ok(claim)
    }

    /// Puts what is on disk in force.
    pub(super) fn select_in_force(&mut self, claim: &SelectorClaim) {
        self.index.selectors.add(self.settings.namer.of(&claim.selector), claim.mark());
        self.ledger.calendar().note(claim.id, None, claim.until);
    }

    pub(super) fn forget_verdicts(&mut self) -> Result<(), KernelError> {
        self.kernel.as_mut().map_or(Ok(()), Kernel::forget_verdicts)
    }

    /// Lifts a selector and every claim that follows from it; `ordered` where somebody here wants it so, of which the fleet
    /// is told then.
    pub(super) fn unselect(
        &mut self,
        claim: &SelectorClaim,
        by: Vec<u8>,
        ordered: bool,
    ) -> Result<(), RevokeError> {
        let children = self.ledger.children(claim.id).to_vec();
        let ids = std::iter::once(claim.id).chain(children.iter().map(|(id, _)| *id)).collect();
        let lift = vec![(ids, by)];
        let mut changes = Changes { lift, ..Changes::default() };
        if ordered {
            self.bury(std::iter::once(&AnyClaim::Selector(claim.clone())), &mut changes);
        }
        self.commit(&changes).map_err(RevokeError::Store)?;
        self.foreign.remove(claim.id);
        self.index.selectors.remove(self.settings.namer.of(&claim.selector), claim.id);
        self.ledger.forget_children(claim.id);
        for (id, f) in &children {
            self.ledger.lift(*id, *f);
        }
        let tokens: Vec<_> = children.iter().map(|(_, f)| *f).collect();
        self.write(&tokens).map_err(|e| RevokeError::Kernel(Arc::new(self.noted(e))))
    }

    /// Condemns tokens that a selector matches, as claims that follow from it; those that it has condemned before and
    /// those there is no room for are left out, for the decision path refuses them all the same. Tells how many are in
    /// force in the kernel.
    pub(super) fn follow(&mut self, parent: ClaimId, tokens: Vec<Matched>) -> Result<usize, RevokeError> {
        let read = |e| RevokeError::Read(Arc::new(e));
        let Some(selector) = self.store.reader().selector(parent).map_err(read)? else { return Ok(0) };
        let known: std::collections::HashSet<_> =
            self.ledger.children(parent).iter().map(|(_, f)| *f).collect();
        let taken = Moment::now(&*self.clock);
        let Moment { wall, .. } = taken;
        let mut claims: Vec<Claim> = Vec::new();
        for (fingerprint, ends) in tokens {
            let until = selector.until.min(ends);
            let new = !known.contains(&fingerprint) && claims.iter().all(|c| c.fingerprint != fingerprint);
            if until <= wall || !new || !self.ledger.has_room(fingerprint, claims.len()) {
                continue;
            }
            claims.push(Claim {
                id: self.store.next_id(),
                fingerprint,
                key_id: self.settings.key_id,
                created: wall,
                until,
                reason: selector.reason.clone(),
                actor: selector.actor.clone(),
                source: SOURCE.to_owned(),
                parent: Some(parent),
            });
        }
        let changes = Changes { add: claims.iter().collect(), ..Changes::default() };
        let seq = self.commit(&changes).map_err(RevokeError::Store)?;
        let synced = self.since(taken);
        for claim in &claims {
            self.ledger.add(claim.into());
        }
        let tokens: Vec<_> = claims.iter().map(|c| c.fingerprint).collect();
        self.write(&tokens).map_err(|e| RevokeError::Kernel(Arc::new(self.noted(e))))?;
        if !tokens.is_empty() {
            self.store.done(seq, wall, synced, Some(self.since(taken)));
            self.end_connections(tokens);
        }
        Ok(claims.len())
    }
}

/// Whether a selector's claim matches a token, in time.
pub(super) fn is_match(plane: &super::PlaneHandle, claim: &SelectorClaim, names: &Names) -> bool {
    let name = plane.namer.of(&claim.selector);
    names.has(name) && claim.mark().matches(names, plane.clock.wall())
}
