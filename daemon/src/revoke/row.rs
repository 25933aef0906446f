//! A claim as it stands in the store: 54 bytes and its texts, 20 more where its token has two names.
//!
//! Rows of format 1 were JSON, which begins with a brace, those of format 2 had no parent; both are still read. Those of
//! formats 4 and 6 have a second fingerprint, those of 5 and 6 a ticket behind the other texts; they are written only for
//! claims that have these.

use portcullis_common::fingerprint::DenyFingerprint;

use super::{
    Claim, ClaimId, SelectorClaim,
    foreign::Name,
    keys::{Fingerprints, KeyIds, Named},
    ledger::ClaimHead,
};
use crate::clock::WallTime;

/// First byte of a row of format 2.
const ALONE: u8 = 2;
/// First byte of a row of format 3.
const BINARY: u8 = 3;
/// First byte of a row of format 4.
const TWO: u8 = 4;
/// First byte of a row of format 5.
const TICKET: u8 = 5;
/// First byte of a row of format 6.
const TWO_TICKET: u8 = 6;
/// First bytes of rows that are not JSON.
const KINDS: [u8; 5] = [ALONE, BINARY, TWO, TICKET, TWO_TICKET];
/// Bytes before the texts, and before a second fingerprint.
const FIXED: usize = 1 + 16 + 4 + 8 + 8 + 8;
/// Bytes of that.
const NAME: usize = 4 + 16;

/// Encodes a claim; its id is the row's key.
pub fn encode(c: &Claim) -> Vec<u8> {
    let mut row = Vec::with_capacity(
        FIXED + NAME + 8 + c.reason.len() + c.actor.len() + c.source.len() + c.ticket.len(),
    );
    row.push(match (c.other.is_some(), c.ticket.is_empty()) {
        (false, true) => BINARY,
        (true, true) => TWO,
        (false, false) => TICKET,
        (true, false) => TWO_TICKET,
    });
    row.extend(c.fingerprint.0[0].to_le_bytes());
    row.extend(c.fingerprint.0[1].to_le_bytes());
    row.extend(c.key_id.to_le_bytes());
    row.extend(c.created.0.to_le_bytes());
    row.extend(c.until.0.to_le_bytes());
    row.extend(c.parent.map_or(0, |p| p.0).to_le_bytes());
    if let Some(other) = &c.other {
        row.extend(other.key_id.to_le_bytes());
        row.extend(other.fingerprint.to_bytes());
    }
    let ticket = Some(&c.ticket).filter(|t| !t.is_empty());
    for text in [&c.reason, &c.actor, &c.source].into_iter().chain(ticket) {
        // What is longer than a front door takes is cut, never refused: the revocation counts, not its reason.
        let end = (0..=text.len().min(usize::from(u16::MAX))).rev().find(|i| text.is_char_boundary(*i));
        let text = &text[..end.unwrap_or(0)];
        row.extend(u16::try_from(text.len()).unwrap_or(0).to_le_bytes());
        row.extend(text.as_bytes());
    }
    row
}

/// Reads what the ledger keeps of a row, under these keys; `None` for one that is no claim.
pub fn head(id: u64, row: &[u8], keys: KeyIds) -> Option<ClaimHead> {
    let Some(mut rest) = binary(row) else {
        let c: Claim = serde_json::from_slice(row).ok()?;
        return Some(keys.head(&c));
    };
    let fingerprint = DenyFingerprint([word(&mut rest)?, word(&mut rest)?]);
    let key_id = u32::from_le_bytes(take(&mut rest)?);
    word(&mut rest)?;
    let until = WallTime(word(&mut rest)?.cast_signed());
    let parent = id_of(parent(row, &mut rest)?);
    let other = other(row, &mut rest)?;
    let (fingerprint, under) = keys.standing(&Fingerprints { first: Named { fingerprint, key_id }, other });
    Some(ClaimHead { id: ClaimId(id), fingerprint, until, parent, under })
}

/// What follows the first byte of a row that is not JSON.
fn binary(row: &[u8]) -> Option<&[u8]> {
    row.split_first().filter(|(kind, _)| KINDS.contains(kind)).map(|(_, rest)| rest)
}

/// The second fingerprint, where the row has one; the outer `None` where it should and has not.
#[allow(clippy::option_option, reason = "a row may be cut short")]
fn other(row: &[u8], rest: &mut &[u8]) -> Option<Option<Named>> {
    if !matches!(row.first(), Some(&(TWO | TWO_TICKET))) {
        return Some(None);
    }
    let key_id = u32::from_le_bytes(take(rest)?);
    Some(Some(Named { key_id, fingerprint: DenyFingerprint::from_bytes(take(rest)?) }))
}

/// By which name the fleet knows a claim that another host ordered; `None` for others. Reads no more of it than it must.
pub fn foreign(row: &[u8], by_selector: bool) -> Option<Name> {
    if by_selector {
        let named = row.windows(7).any(|w| w == b"\"fleet/");
        return named
            .then(|| serde_json::from_slice::<SelectorClaim>(row).ok())?
            .and_then(|c| Name::of_source(&c.source));
    }
    // Rows of earlier formats are older than fleets.
    let texts = match *row.first()? {
        BINARY | TICKET => FIXED,
        TWO | TWO_TICKET => FIXED + NAME,
        _ => return None,
    };
    let mut rest = row.get(texts..)?;
    let mut text = &rest[..0];
    for _ in 0..3 {
        let len = usize::from(u16::from_le_bytes(take(&mut rest)?));
        (text, rest) = rest.split_at_checked(len)?;
    }
    Name::of_source(std::str::from_utf8(text).ok()?)
}

/// The parent's id, 0 for none; rows of format 2 have none.
fn parent(row: &[u8], rest: &mut &[u8]) -> Option<u64> {
    if row.first() == Some(&ALONE) { Some(0) } else { word(rest) }
}

fn id_of(parent: u64) -> Option<ClaimId> {
    (parent != 0).then_some(ClaimId(parent))
}

/// Reads a whole row; `None` for one that is no claim.
pub fn decode(id: u64, row: &[u8]) -> Option<Claim> {
    let Some(mut rest) = binary(row) else {
        return serde_json::from_slice(row).ok();
    };
    let fingerprint = DenyFingerprint([word(&mut rest)?, word(&mut rest)?]);
    let key_id = u32::from_le_bytes(take(&mut rest)?);
    let created = WallTime(word(&mut rest)?.cast_signed());
    let until = WallTime(word(&mut rest)?.cast_signed());
    let parent = id_of(parent(row, &mut rest)?);
    let other = other(row, &mut rest)?;
    let mut text = || {
        let len = usize::from(u16::from_le_bytes(take(&mut rest)?));
        let (text, after) = rest.split_at_checked(len)?;
        rest = after;
        String::from_utf8(text.to_vec()).ok()
    };
    let (reason, actor, source) = (text()?, text()?, text()?);
    let has_ticket = matches!(row.first(), Some(&(TICKET | TWO_TICKET)));
    let ticket = if has_ticket { text()? } else { String::new() };
    let id = ClaimId(id);
    rest.is_empty().then_some(Claim {
        id,
        fingerprint,
        key_id,
        other,
        created,
        until,
        reason,
        actor,
        ticket,
        source,
        parent,
    })
}

/// Takes bytes off the front.
pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*bytes)
}

/// Takes a number off the front.
pub(super) fn word(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_row_is_read_back_and_never_half(
            a: u64, b: u64, key_id: u32, created: i64, until: i64, id in 1u64..,
            reason in ".{0,40}", actor in "[a-z:0-9]{0,9}", ticket in "(INC-[0-9]{1,9})?", cut in 0usize..60, parent in proptest::option::of(1u64..),
            other in proptest::option::of((any::<u64>(), any::<u64>(), any::<u32>())),
        ) {
            let claim = Claim {
                id: ClaimId(id), fingerprint: DenyFingerprint([a, b]), key_id, created: WallTime(created),
                other: other.map(|(a, b, key_id)| Named { fingerprint: DenyFingerprint([a, b]), key_id }),
                until: WallTime(until), reason, actor, ticket, source: "admin".to_owned(), parent: parent.map(ClaimId),
            };
            let row = encode(&claim);
            prop_assert_eq!(decode(id, &row), Some(claim.clone()));
            for keys in [KeyIds::from(key_id), KeyIds { own: 1, other: other.map(|o| o.2) }] {
                prop_assert_eq!(head(id, &row, keys).unwrap(), keys.head(&claim));
            }
            prop_assert_eq!(decode(id, &row[..row.len() - 1 - cut.min(row.len() - 1)]), None);
            prop_assert_eq!(foreign(&row, false), None);
            let name = Name { origin: super::super::foreign::Origin([7; 16]), id: a };
            let theirs = encode(&Claim { source: name.source(), ..claim.clone() });
            prop_assert_eq!(foreign(&theirs, false), Some(name));
            let json = serde_json::to_vec(&claim).unwrap();
            prop_assert_eq!(decode(id, &json), Some(claim.clone()));
            // As format 2 had it.
            let keys = KeyIds::from(key_id);
            let claim = Claim { other: None, ticket: String::new(), ..claim };
            let mut old = encode(&claim);
            old[0] = ALONE;
            old.drain(FIXED - 8..FIXED);
            let alone = Claim { parent: None, ..claim };
            prop_assert_eq!((decode(id, &old), head(id, &old, keys)), (Some(alone.clone()), Some(keys.head(&alone))));
        }
    }
}
