//! Reads of a window at offsets that the verifier can bound.

use super::{FRONT, WINDOW};
use crate::word;

/// A window's memory. Offsets are masked to the window, so a wrong one reads wrong bytes, never outside.
#[derive(Clone, Copy)]
pub(crate) struct Window(*const u8);

impl Window {
    /// # Safety
    /// `buffer` must point at [`super::BUFFER`] readable, initialised bytes for as long as the value is used.
    #[inline(always)]
    pub const unsafe fn new(buffer: *const u8) -> Self {
        Self(buffer)
    }

    #[inline(always)]
    const fn at(self, at: u32) -> *const u8 {
        // SAFETY: `new`'s contract gives `BUFFER` bytes, and the masked offset is below `WINDOW`.
        unsafe { self.0.add(FRONT + (at as usize & (WINDOW - 1))) }
    }

    #[inline(always)]
    pub fn byte(self, at: u32) -> u8 {
        // SAFETY: see `at`.
        unsafe { self.at(at).read() }
    }

    /// Eight bytes at `at + OFFSET`, `OFFSET` at most `BACK - 8`.
    #[inline(always)]
    pub fn word<const OFFSET: usize>(self, at: u32) -> u64 {
        // SAFETY: see `at`; `BACK` bytes behind the window are readable.
        unsafe { word::load::<OFFSET>(self.at(at)) }
    }

    /// The eight bytes before `at`.
    #[inline(always)]
    pub fn word_before(self, at: u32) -> u64 {
        // SAFETY: see `at`; `FRONT` bytes before the window are readable.
        unsafe { word::load::<0>(self.at(at).sub(8)) }
    }

    /// The byte `n` (1 to 16) before `at`.
    #[inline(always)]
    pub fn byte_before(self, at: u32, n: usize) -> u8 {
        // SAFETY: see `at`; `FRONT` bytes before the window are readable.
        unsafe { self.at(at).sub(n).read() }
    }
}

/// Finds a control character (a line's end, mostly) among the next 32 bytes: its offset, or 32. Bytes beyond
/// the window may be found.
#[inline(always)]
pub(crate) fn control(w: Window, at: u32) -> u32 {
    let x = w.word::<0>(at);
    word::blur(control_at(x, w, at), x)
}

#[inline(always)]
fn control_at(x: u64, w: Window, at: u32) -> u32 {
    let m = word::control(x);
    if m != 0 {
        return word::first(m);
    }
    let m = word::control(w.word::<8>(at));
    if m != 0 {
        return 8 + word::first(m);
    }
    let m = word::control(w.word::<16>(at));
    if m != 0 {
        return 16 + word::first(m);
    }
    let m = word::control(w.word::<24>(at));
    if m != 0 {
        return 24 + word::first(m);
    }
    32
}

#[inline(always)]
pub(crate) const fn is_space(b: u8) -> bool {
    b == b' ' || b == b'\t'
}

#[inline(always)]
pub(crate) const fn is_line_end(b: u8) -> bool {
    b == b'\r' || b == b'\n'
}

/// A value as it stands in memory. In the kernel programs the verifier forgets where it came from, so that it walks what
/// follows once and not for each way that leads here.
#[inline(always)]
pub(crate) fn forget<T: Copy>(x: &mut T) -> T {
    // SAFETY: a reference is valid to read.
    unsafe { core::ptr::read_volatile(x) }
}
