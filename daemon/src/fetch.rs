//! Outgoing HTTP: key sets, introspection, bundles, logs, and what policies ask for.
//!
//! Guarantees: a request ends by its deadline, whatever the server does (no connection, no answer, a trickle); an
//! answer is never longer than asked for, before and after decompression; credentials go to the address that was
//! configured and nowhere else, since redirects are not followed, proxies from the environment are not used and plain
//! `http` is spoken to this host alone unless the configuration says otherwise. With `public_only` the addresses that a
//! name stands for are checked, and the connection goes to one that was checked: a name that means another thing the
//! second time (DNS rebinding) gains nothing.
//!
//! HTTP/1.1 alone: requests are few, and connections are kept. TLS is rustls on aws-lc-rs, with the system's
//! authorities or those of one file. Leaves to others: when to ask again, and what an answer means.

mod answer;
mod client;
mod connect;
mod error;
mod public;
mod request;
mod url;

pub use answer::Answer;
pub use client::{Client, Settings};
pub use error::{FetchError, Stage};
pub use public::is_public;
pub use request::{Bounds, Request, Secret, SecretError, one_line};
pub use url::Url;

#[cfg(test)]
mod tests;
