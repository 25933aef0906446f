//! What there is room for: tokens in the kernel's map, and claims on one token.

use std::collections::hash_map::Entry;

use portcullis_common::fingerprint::DenyFingerprint;

use super::{KeyIds, Order, RevokeError, index::ByFingerprint, ledger::Ledger};

/// Claims on one token, and selectors of one name. Each by itself is lifted by hand, so nobody needs more; and what
/// repeats an order by mistake ends here.
pub const MAX_CLAIMS: usize = 1000;

/// What a batch takes before it is in the ledger.
#[derive(Debug, Default)]
pub struct Room {
    /// Tokens that are not revoked yet.
    tokens: usize,
    /// Claims on each.
    claims: ByFingerprint<usize>,
}

impl Room {
    /// Takes room for orders: for all of them, or for none.
    pub fn take_all(&mut self, ledger: &Ledger, orders: &[Order], keys: KeyIds) -> Result<(), RevokeError> {
        for (n, order) in orders.iter().enumerate() {
            if let Err(e) = self.take(ledger, keys.name(&order.token)) {
                for order in &orders[..n] {
                    self.give_back(ledger, keys.name(&order.token));
                }
                return Err(e);
            }
        }
        Ok(())
    }

    /// Takes room for one more claim.
    pub fn take(&mut self, ledger: &Ledger, f: DenyFingerprint) -> Result<(), RevokeError> {
        let standing = ledger.claims_on(f);
        let entry = self.claims.entry(f);
        let new = standing == 0 && matches!(entry, Entry::Vacant(_));
        let taken = entry.or_insert(0);
        if standing + *taken >= MAX_CLAIMS {
            return Err(RevokeError::TooMany { limit: MAX_CLAIMS });
        }
        let limit = ledger.limits().revoked;
        if new && ledger.revoked() + self.tokens >= limit {
            self.claims.remove(&f);
            return Err(RevokeError::Full { limit });
        }
        *taken += 1;
        self.tokens += usize::from(new);
        Ok(())
    }

    fn give_back(&mut self, ledger: &Ledger, f: DenyFingerprint) {
        let Entry::Occupied(mut entry) = self.claims.entry(f) else { return };
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
            self.tokens -= usize::from(ledger.claims_on(f) == 0);
        }
    }
}
