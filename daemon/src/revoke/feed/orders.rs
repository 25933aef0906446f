//! A message taken apart: what the plane is to do, and what it cannot.

use super::{
    super::{
        foreign::Origin,
        remote::{RemoteClaim, RemoteLift, RemoteTarget},
    },
    message::{Message, Refused, Told, ToldClaim},
};

/// A message, read whole.
#[derive(Debug)]
pub struct Orders {
    /// Whose it is and where it stands, without its orders.
    pub head: Message,
    /// Claims.
    pub add: Vec<RemoteClaim>,
    /// Liftings.
    pub lift: Vec<RemoteLift>,
    /// Claims on tokens whose fingerprints were made under another key than this host's.
    pub other_key: u64,
}

impl Orders {
    /// Takes a message apart; all of it or nothing.
    pub fn of(mut message: Message, key: &str) -> Result<Self, Refused> {
        let (mut told, mut lift) = (Vec::new(), Vec::new());
        for change in std::mem::take(&mut message.changes) {
            match change {
                Told::Revoke(claim) => told.push(*claim),
                Told::Lift(one) => lift.push(one.lift(message.origin).ok_or(Refused::Malformed)?),
            }
        }
        let (add, other_key) = claims(told, message.origin, message.key == key)?;
        Ok(Self { head: message, add, lift, other_key })
    }
}

/// Claims as the plane takes them, and how many cannot be put in force: those on tokens, where the keys are not the same.
pub fn claims(told: Vec<ToldClaim>, of: Origin, same_key: bool) -> Result<(Vec<RemoteClaim>, u64), Refused> {
    let (mut add, mut other_key) = (Vec::new(), 0);
    for claim in told {
        let claim = claim.claim(of).ok_or(Refused::Malformed)?;
        if same_key || matches!(claim.on, RemoteTarget::Selector(_)) {
            add.push(claim);
        } else {
            other_key += 1;
        }
    }
    Ok((add, other_key))
}
