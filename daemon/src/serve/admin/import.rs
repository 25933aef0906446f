//! Lines of an export that are in force here already: nothing is revoked twice, however often a file is taken over.
//!
//! A line is one of the claims here where token or selector, end, reason and ticket are the same, and whether it is a
//! lockdown. An export may have several such lines, of orders that were given several times: each of them is another claim.

use std::collections::{HashMap, HashSet};

use super::order::IMPORT;
use crate::{
    clock::WallTime,
    revoke::{
        AnyClaim, ClaimId, Fingerprints, IMPORTED_LOCKDOWN, Order, PlaneHandle, RevokeError, SelectorOrder,
        is_lockdown,
    },
};

/// What an import has found here.
pub(super) struct Imports {
    /// Ids from this one on are of the import itself, or later.
    before: ClaimId,
    /// Claims that stand for a line.
    found: HashSet<ClaimId>,
    /// There was a line of an export.
    any: bool,
}

/// An order, as far as it says which claim it is.
struct Which<'a> {
    until: WallTime,
    reason: &'a str,
    ticket: &'a str,
    source: &'a str,
}

impl Which<'_> {
    fn is(&self, claim: &AnyClaim) -> bool {
        let (until, reason, ticket, source) = match claim {
            AnyClaim::Token(c) => (c.until, &c.reason, &c.ticket, &c.source),
            AnyClaim::Selector(c) => (c.until, &c.reason, &c.ticket, &c.source),
        };
        self.until == until
            && self.reason == reason
            && self.ticket == ticket
            && is_lockdown(self.source) == is_lockdown(source)
    }
}

fn is_import(source: &str) -> bool {
    source == IMPORT || source == IMPORTED_LOCKDOWN
}

impl Imports {
    /// Begins with what is here now.
    pub fn new(plane: &PlaneHandle) -> Self {
        Self { before: ClaimId(plane.next_id()), found: HashSet::new(), any: false }
    }

    /// How many lines were here already; `None` where no line was one of an export.
    pub fn there(&self) -> Option<usize> {
        self.any.then_some(self.found.len())
    }

    /// Takes out the lines that are here already; tells them, and which claim each is.
    pub async fn take_out(
        &mut self,
        plane: &PlaneHandle,
        orders: &mut Vec<(u64, Order)>,
        selectors: &mut Vec<(u64, Box<SelectorOrder>)>,
    ) -> Result<Vec<(u64, ClaimId)>, RevokeError> {
        let mut tokens: HashMap<Fingerprints, usize> = HashMap::new();
        for (_, order) in orders.iter().filter(|(_, o)| is_import(&o.source)) {
            let n = tokens.len();
            tokens.entry(order.token).or_insert(n);
        }
        let asked = selectors.iter().filter(|(_, o)| is_import(&o.source));
        let asked: Vec<_> = asked.map(|(_, o)| o.selector.clone()).collect();
        if tokens.is_empty() && asked.is_empty() {
            return Ok(Vec::new());
        }
        self.any = true;
        let mut in_order: Vec<_> = tokens.iter().map(|(token, n)| (*n, *token)).collect();
        in_order.sort_unstable_by_key(|(n, _)| *n);
        let standing = plane.standing(in_order.into_iter().map(|(_, token)| token).collect(), asked).await?;
        let (on, under) = standing.split_at(tokens.len());
        let mut there = Vec::new();
        orders.retain(|(line, o)| {
            let claims = tokens.get(&o.token).filter(|_| is_import(&o.source)).and_then(|n| on.get(*n));
            let which = Which { until: o.until, reason: &o.reason, ticket: &o.ticket, source: &o.source };
            let id = claims.and_then(|claims| self.find(claims.iter(), &which));
            there.extend(id.map(|id| (*line, id)));
            id.is_none()
        });
        let mut under = under.iter();
        selectors.retain(|(line, o)| {
            let Some(claims) = is_import(&o.source).then(|| under.next()).flatten() else { return true };
            let which = Which { until: o.until, reason: &o.reason, ticket: &o.ticket, source: &o.source };
            // Of one name are those with other times of issue, too.
            let same = |c: &&AnyClaim| matches!(c, AnyClaim::Selector(c) if c.selector == o.selector);
            let id = self.find(claims.iter().filter(same), &which);
            there.extend(id.map(|id| (*line, id)));
            id.is_none()
        });
        Ok(there)
    }

    fn find<'a>(&mut self, claims: impl Iterator<Item = &'a AnyClaim>, which: &Which<'_>) -> Option<ClaimId> {
        let mut claims = claims.filter(|c| c.id() < self.before && which.is(c)).map(AnyClaim::id);
        let id = claims.find(|id| !self.found.contains(id))?;
        self.found.insert(id);
        Some(id)
    }
}
