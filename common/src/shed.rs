//! Floods: what guard notes of those it refuses, and how long shed drops what they send.
//!
//! A source, or a connection, that guard refused often enough within a window is *shed*: its packets to guarded ports
//! are dropped before the kernel makes a socket buffer of them, until a time. Nothing depends on it but cost: what is
//! forgotten here is refused by guard as before. All fields are this module's; times are as in [`crate::layout`].

use crate::fingerprint::DenyFingerprint;

/// Nothing is shed.
pub const SHED_OFF: u32 = 0;
/// Sources are.
pub const SHED_SOURCE: u32 = 1;
/// Connections are, each by itself.
pub const SHED_FLOW: u32 = 2;

/// Different tokens from which on a source is likely a proxy that nobody configured.
pub const MANY_TOKENS: u32 = 8;

/// What is shed: one entry, written before the programs are attached.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShedConfig {
    /// One of the `SHED_` constants.
    pub how: u32,
    /// Refusals within the window that make a source or connection shed.
    pub after: u32,
    /// The window, in nanoseconds.
    pub window: u64,
    /// How long it is shed, in nanoseconds.
    pub time: u64,
    /// Which bits of an IPv6 source tell it from others.
    pub mask: [u64; 2],
}

/// What is kept of a source or connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shed {
    /// When the window began.
    pub since: u64,
    /// It is shed until then; 0 where it never was.
    pub until: u64,
    /// A bit for each token seen in the window, by its fingerprint: no more bits than tokens.
    pub tokens: u64,
    /// Refusals in the window.
    pub refused: u32,
    /// How often it was shed.
    pub times: u32,
    /// 1 once it carried many tokens within a window.
    pub many: u32,
    /// Padding.
    pub pad: u32,
}

/// What a refusal came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Noted {
    /// It was counted.
    Counted = 0,
    /// It was the last one that was wanting: shed from now on.
    Begun = 1,
}

impl Shed {
    /// Whether its packets are dropped now.
    #[inline(always)]
    pub const fn is_shed(&self, now: u64) -> bool {
        self.until > now
    }

    /// Whether its window is the present one.
    #[inline(always)]
    const fn is_current(&self, now: u64, config: &ShedConfig) -> bool {
        // A time before the window's beginning is another CPU's.
        self.since != 0 && now.wrapping_sub(self.since) <= config.window || self.since > now
    }

    /// Counts a refusal.
    #[inline(always)]
    pub const fn refuse(&mut self, now: u64, config: &ShedConfig) -> Noted {
        if self.is_shed(now) {
            // A packet that had passed before it began.
            return Noted::Counted;
        }
        if !self.is_current(now, config) {
            self.since = now;
            self.refused = 0;
            self.tokens = 0;
        }
        self.refused += 1;
        if self.refused < config.after {
            return Noted::Counted;
        }
        self.until = now + config.time;
        self.times += 1;
        self.since = 0;
        self.refused = 0;
        Noted::Begun
    }

    /// Notes tokens that it carries, refused or not, by their [`token_bit`]s; tells whether they are many for the first
    /// time.
    #[inline(always)]
    pub const fn carry(&mut self, bits: u64) -> bool {
        self.tokens |= bits;
        if self.many != 0 || self.tokens.count_ones() < MANY_TOKENS {
            return false;
        }
        self.many = 1;
        true
    }

    /// Whether a token that is not refused need be noted.
    #[inline(always)]
    pub const fn wants_tokens(&self, now: u64, config: &ShedConfig) -> bool {
        self.many == 0 && self.is_current(now, config)
    }
}

/// The bit that stands for a token.
#[inline(always)]
pub const fn token_bit(token: &DenyFingerprint) -> u64 {
    1 << (token.0[0] & 63)
}

const _: () = {
    assert!(size_of::<ShedConfig>() == 40);
    assert!(size_of::<Shed>() == 40);
    assert!(core::mem::offset_of!(Shed, refused) == 24);
};

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: ShedConfig =
        ShedConfig { how: SHED_SOURCE, after: 3, window: 100, time: 1000, mask: [u64::MAX; 2] };

    #[test]
    fn it_takes_so_many_refusals_within_one_window() {
        let mut s = Shed::default();
        assert_eq!(s.refuse(10, &CONFIG), Noted::Counted);
        assert_eq!(s.refuse(50, &CONFIG), Noted::Counted);
        // The window has ended: this is the first of the next.
        assert_eq!(s.refuse(111, &CONFIG), Noted::Counted);
        assert_eq!(s.refuse(112, &CONFIG), Noted::Counted);
        assert!(!s.is_shed(112));
        assert_eq!(s.refuse(211, &CONFIG), Noted::Begun);
        assert!(s.is_shed(211) && s.is_shed(1210) && !s.is_shed(1211));
        assert_eq!(s.times, 1);
    }

    #[test]
    fn afterwards_it_takes_as_many_again() {
        let mut s = Shed::default();
        for _ in 0..3 {
            s.refuse(10, &CONFIG);
        }
        // What was on its way does not lengthen it.
        assert_eq!(s.refuse(20, &CONFIG), Noted::Counted);
        assert_eq!(s.until, 1010);
        assert_eq!(s.refuse(1010, &CONFIG), Noted::Counted);
        assert_eq!(s.refuse(1011, &CONFIG), Noted::Counted);
        assert_eq!(s.refuse(1012, &CONFIG), Noted::Begun);
        assert_eq!((s.until, s.times), (2012, 2));
    }

    #[test]
    fn many_tokens_are_told_once_and_never_overcounted() {
        let mut s = Shed::default();
        s.refuse(10, &CONFIG);
        for i in 0..100 {
            // The same few again and again.
            assert!(!s.carry(token_bit(&DenyFingerprint([i % 7, 0]))));
        }
        assert!(s.wants_tokens(20, &CONFIG) && !s.wants_tokens(111, &CONFIG));
        assert!(s.carry(token_bit(&DenyFingerprint([7, 0]))));
        assert!(!s.carry(token_bit(&DenyFingerprint([8, 0]))));
        assert!(!s.wants_tokens(20, &CONFIG));
    }
}
