//! Revocations: durable, in force before they are acknowledged, and never forgotten before their time.
//!
//! [`Plane`] is the one writer of the store and of the kernel's deny map. An order goes, in this sequence,
//! through the store (fsync), the [`Index`] that the decision path reads, and the kernel's map; then it is
//! acknowledged. Policies' condemnations go the same way without the store, within a quota of their own.
//! A
//! [`Selector`] revokes by what tokens say of themselves: the index refuses all that match, and those seen lately
//! are condemned one by one. Knows fingerprints, names and expiries; no tokens, requests or policies.

mod calendar;
mod claim;
pub mod feed;
mod foreign;
mod handle;
mod index;
mod keys;
mod ledger;
mod plane;
mod refusals;
mod remote;
mod room;
mod row;
mod selecting;
mod selector;
mod store;
#[cfg(test)]
mod tests;
mod upkeep;

pub use claim::{AnyClaim, Claim, ClaimId, Order, SelectorClaim, SelectorOrder};
pub use foreign::{Fleet, Grave, IMPORTED_LOCKDOWN, Name, Origin, Position, is_lockdown};
pub use handle::{Once, PlaneHandle, PlaneStatus, RevokeError};
pub use index::Index;
pub use keys::{Count, Fingerprints, KeyIds, Named};
pub use ledger::{Condemnation, Limits};
pub use plane::{Plane, PlaneSettings, Waiting};
pub use refusals::Refusals;
pub use remote::{Only, RemoteClaim, RemoteLift, RemoteTarget, Taken, Update};
pub use selecting::Matched;
pub use selector::{BadSelector, Namer, Names, Selector, Selectors, Traits};
pub use store::{
    AuditEntry, AuditError, AuditLog, BackupError, Change, Ended, Held, LogEntry, Receipt, Restored, Store,
    StoreError, StoreReader, Tuning, backup, restore,
};
