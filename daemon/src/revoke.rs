//! Revocations: durable, in force before they are acknowledged, and never forgotten before their time.
//!
//! [`Plane`] is the one writer of the store and of the kernel's deny map. An order goes, in this sequence,
//! through the store (fsync), the [`Index`] that the decision path reads, and the kernel's map; then it is
//! acknowledged. Policies' condemnations go the same way without the store, within a quota of their own.
//! Knows fingerprints and expiries; no tokens, requests or policies.

mod claim;
mod index;
mod ledger;
mod plane;
mod store;

pub use claim::{Claim, ClaimId, Order};
pub use index::Index;
pub use ledger::Limits;
pub use plane::{Plane, PlaneHandle, PlaneSettings, PlaneStatus, RevokeError};
pub use store::{Store, StoreError};
