//! The kernel's ring buffer of events.

use std::{io, mem::size_of};

use aya::maps::{MapData, RingBuf};
use portcullis_common::{
    fingerprint::DenyFingerprint,
    layout::{Event, Flow},
};
use tokio::io::unix::AsyncFd;

/// The one reader of the ring buffer.
pub struct EventSource(AsyncFd<RingBuf<MapData>>);

impl EventSource {
    pub(super) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the ring owns its map's descriptor and gives the same one for as long as it lives.
        unsafe { AsyncFd::register(ring) }.map(Self).map_err(io::Error::from)
    }

    /// Waits for events and hands each to `take`. Cancel-safe: an event is taken or stays.
    pub async fn next(&mut self, mut take: impl FnMut(Event)) -> io::Result<()> {
        let mut guard = self.0.readable_mut().await?;
        let ring = guard.get_inner_mut();
        while let Some(item) = ring.next() {
            if let Some(event) = parse(&item) {
                take(event);
            }
        }
        guard.clear_ready();
        Ok(())
    }
}

/// Reads an entry field by field, as `layout::Event` lays it out.
fn parse(bytes: &[u8]) -> Option<Event> {
    if bytes.len() < size_of::<Event>() {
        return None;
    }
    let array = |at: usize| -> Option<[u8; 16]> { bytes.get(at..at + 16)?.try_into().ok() };
    let double =
        |at: usize| -> Option<u64> { Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?)) };
    let word =
        |at: usize| -> Option<u32> { Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
    let half =
        |at: usize| -> Option<u16> { Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?)) };
    Some(Event {
        time: u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?),
        fingerprint: DenyFingerprint::from_bytes(array(8)?),
        decision: double(24)?,
        flow: Flow {
            source: [double(32)?, double(40)?],
            destination: [double(48)?, double(56)?],
            source_port: half(64)?,
            destination_port: half(66)?,
            interface: word(68)?,
        },
        reason: *bytes.get(72)?,
        action: *bytes.get(73)?,
        pad: [0; 6],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_entries_are_refused() {
        assert_eq!(parse(&[0; 79]), None);
        assert!(parse(&[0; 80]).is_some());
    }
}
