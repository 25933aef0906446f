//! One entry: a head of 72 bytes, then its body. The hash covers the entry before it, so that entries are a chain.

use aws_lc_rs::digest::{Context, SHA256, digest};

/// First bytes of an entry.
const MAGIC: [u8; 4] = *b"PCE1";
/// Bytes before the body: magic, length, number, time, eight that are zero, hash, check of all these.
pub const HEAD: usize = 72;
/// Longest body, in bytes.
pub const MAX_BODY: usize = 64 << 20;

/// Where a chain stands: the number and the hash of its last entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The last entry's number; 0 before the first.
    pub seq: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

/// An entry as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The chain with it.
    pub chain: Chain,
    /// When it was written (ms since 1970).
    pub time: i64,
    /// What it holds.
    pub body: &'a [u8],
}

impl Entry<'_> {
    /// Bytes that it takes.
    pub const fn size(&self) -> usize {
        HEAD + self.body.len()
    }
}

/// Why there is no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEntry {
    /// Nothing was written here.
    Blank,
    /// More bytes are needed: so many in all, as far as is known.
    Short(usize),
    /// Something else than the entry that follows.
    Wrong,
}

/// Appends an entry to `out`; gives the chain with it. The body is at most [`MAX_BODY`] long.
pub fn write(out: &mut Vec<u8>, before: Chain, time: i64, body: &[u8]) -> Chain {
    let start = out.len();
    out.extend(MAGIC);
    out.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend((before.seq + 1).to_le_bytes());
    out.extend(time.to_le_bytes());
    out.extend([0; 8]);
    let hash = hash(before.hash, &out[start..], body);
    out.extend(hash);
    let check = check(&out[start..]);
    out.extend(check);
    out.extend(body);
    Chain { seq: before.seq + 1, hash }
}

/// Reads the entry that follows `before` in its chain.
pub fn parse(bytes: &[u8], before: Chain) -> Result<Entry<'_>, NoEntry> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
        return Err(if bytes.iter().all(|b| *b == 0) && !bytes.is_empty() {
            NoEntry::Blank
        } else {
            NoEntry::Short(HEAD)
        });
    };
    if head.iter().all(|b| *b == 0) {
        return Err(NoEntry::Blank);
    }
    let Some((seq, len, time)) = read_head(head) else { return Err(NoEntry::Wrong) };
    if seq != before.seq + 1 {
        return Err(NoEntry::Wrong);
    }
    let Some(body) = rest.get(..len) else { return Err(NoEntry::Short(HEAD + len)) };
    let found: [u8; 32] = array(&head[32..64]);
    if found != hash(before.hash, &head[..32], body) {
        return Err(NoEntry::Wrong);
    }
    Ok(Entry { chain: Chain { seq, hash: found }, time, body })
}

/// The size of the entry that begins here, by its head; nothing of the rest is looked at.
pub fn size(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk::<HEAD>().and_then(read_head).map(|(_, len, _)| HEAD + len)
}

/// Whether the head of an entry with a number above `seq` stands anywhere in these bytes.
pub fn any_after(bytes: &[u8], seq: u64) -> bool {
    bytes.windows(HEAD).any(|w| {
        w[..4] == MAGIC && w.first_chunk::<HEAD>().and_then(read_head).is_some_and(|(found, ..)| found > seq)
    })
}

/// Number, length of the body and time of a head that is whole.
fn read_head(head: &[u8; HEAD]) -> Option<(u64, usize, i64)> {
    let len = u32::from_le_bytes(array(&head[4..8])) as usize;
    let sound = head[..4] == MAGIC && head[24..32] == [0; 8] && len <= MAX_BODY;
    (sound && head[64..] == check(&head[..64]))
        .then(|| (u64::from_le_bytes(array(&head[8..16])), len, i64::from_le_bytes(array(&head[16..24]))))
}

fn hash(before: [u8; 32], head: &[u8], body: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(&before);
    context.update(head);
    context.update(body);
    array(context.finish().as_ref())
}

/// The first eight bytes of a SHA-256.
pub fn check(bytes: &[u8]) -> [u8; 8] {
    array(&digest(&SHA256, bytes).as_ref()[..8])
}

/// The bytes of a slice that is as long as is asked; zeros where it is not, which no caller lets happen.
pub fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Chain = Chain { seq: 4, hash: [9; 32] };

    #[test]
    fn an_entry_is_read_back_and_no_other() {
        let mut bytes = Vec::new();
        let first = write(&mut bytes, START, 77, b"body");
        let split = bytes.len();
        let second = write(&mut bytes, first, 78, b"");
        let entry = parse(&bytes, START).unwrap();
        assert_eq!((entry.chain, entry.time, entry.body, entry.size()), (first, 77, &b"body"[..], split));
        assert_eq!(parse(&bytes[split..], first).unwrap().chain, second);
        assert_eq!(parse(&bytes[split..], START), Err(NoEntry::Wrong), "another follows");
        assert_eq!(parse(&[0; 100], START), Err(NoEntry::Blank));
        for cut in 1..split {
            assert!(matches!(parse(&bytes[..cut], START), Err(NoEntry::Short(_))), "{cut}");
        }
        for bit in 0..split * 8 {
            let mut flipped = bytes[..split].to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&flipped, START).is_err(), "bit {bit}");
        }
        assert!(any_after(&bytes[1..], 5) && !any_after(&bytes[1..], 6) && any_after(&bytes, 4));
    }
}
