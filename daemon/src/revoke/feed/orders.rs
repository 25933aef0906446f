//! A message taken apart: what the plane is to do, and what it cannot.

use super::{
    super::{
        foreign::Origin,
        keys::KeyIds,
        remote::{RemoteClaim, RemoteLift, RemoteTarget},
    },
    message::{Message, Refused, Told, ToldClaim, key_id},
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
    /// Claims on tokens that have no name under a key of this host's.
    pub other_key: u64,
}

impl Orders {
    /// Takes a message apart; all of it or nothing.
    pub fn of(mut message: Message, keys: KeyIds) -> Result<Self, Refused> {
        let (mut told, mut lift) = (Vec::new(), Vec::new());
        for change in std::mem::take(&mut message.changes) {
            match change {
                Told::Revoke(claim) => told.push(*claim),
                Told::Lift(one) => lift.push(one.lift(message.origin).ok_or(Refused::Malformed)?),
            }
        }
        let (add, other_key) = claims(told, message.origin, &message.key, keys)?;
        Ok(Self { head: message, add, lift, other_key })
    }
}

/// Claims as the plane takes them, told in a message of this key, and how many of them refuse nobody here: those on tokens
/// that have no name under a key in force. They are kept all the same, for the key may come.
pub fn claims(
    told: Vec<ToldClaim>,
    of: Origin,
    key: &str,
    keys: KeyIds,
) -> Result<(Vec<RemoteClaim>, u64), Refused> {
    let key = key_id(key).ok_or(Refused::Malformed)?;
    let (mut add, mut other_key) = (Vec::new(), 0);
    for claim in told {
        let claim = claim.claim(of, key).ok_or(Refused::Malformed)?;
        if let RemoteTarget::Token(token) = &claim.on {
            other_key += u64::from(!keys.are_of(token));
        }
        add.push(claim);
    }
    Ok((add, other_key))
}
