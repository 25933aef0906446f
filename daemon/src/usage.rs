//! When tokens and subjects were used first and last: for allowed requests only, to the hour.
//!
//! Guarantees: what was noted is in memory at once and in a file within seconds; a use costs a comparison where it was
//! noted in this hour already; memory and file are bounded. [`Book::observed_since`] is true to its name: whatever was
//! used since then is known, so what is not known is not called dormant. A file that cannot be read, entries that had to go
//! and other hosts' books ([`Span::merged`]) move it forward, never back. Names are digests under the fingerprint key; the
//! texts beside them (issuer, subject, client, `jti`) are for people. Leaves to others: what follows from it.

mod book;
mod span;
mod store;
mod writer;

pub use book::{Book, Id, Label, Noticed, Uses, hour};
pub use span::Span;
pub use store::{Row, Store, UsageError, id_of, name_of};
pub use writer::{Keeper, Settings};
