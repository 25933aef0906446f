//! Strict mode's idea of a connection: what was passed to the server, what TCP has taken of it, and which copy
//! of a byte may still pass.
//!
//! *P* ([`Stream::parsed`]) is the sequence number up to which the scanner has read; *R* is the server's own
//! `rcv_nxt`. Every byte below R is settled: TCP discards further copies. Bytes from R to P were passed and not
//! yet taken (they are in a backlog, or lost behind guard): another copy of one may pass only if it is the same
//! byte. Bytes from P on are read before they pass, in order; nothing passes ahead of a gap, so that TCP's
//! out-of-order queue never holds what was not read. Bodies of known length are not read, so their bytes may
//! pass in any order and any copy.
//!
//! Hence the bytes that the server reads as heads are the bytes that the scanner read, whatever TCP thinks of a
//! segment's checksum, window or timestamp (Ptacek & Newsham 1998; Handley, Paxson & Kreibich 2001).

use crate::{
    fingerprint::DenyFingerprint,
    head::{CONNECT, H2C, HEAD, Scan, UPGRADE},
};

/// Tokens remembered of a connection's unanswered requests.
pub const TOKENS: usize = 4;
/// Ranges of body remembered, whose copies need no comparison.
pub const RANGES: usize = 4;
/// Words of unread bytes that are carried from one segment to the next.
pub const CARRY: usize = 8;
/// How often a copy that may not pass is dropped before the connection is reset.
pub const TRIES: u32 = 6;
/// Copies that come sooner after one another, in units of 2^20 ns, are counted as one try.
pub const PAUSE: u32 = 100;
/// Sequence numbers further apart than this are not compared.
const FAR: u32 = 1 << 30;

/// Nothing is known yet: all bytes zero.
pub const PHASE_NEW: u32 = 0;
/// Its heads are read.
pub const PHASE_HTTP: u32 = 1;
/// It speaks another protocol by agreement of both sides (`101`, or `2xx` to `CONNECT`).
pub const PHASE_TUNNEL: u32 = 2;
/// It began with a TLS record, and the configuration lets that pass.
pub const PHASE_OPAQUE: u32 = 3;
/// It was refused: nothing of it passes any more.
pub const PHASE_DEAD: u32 = 4;
/// It is older than the attachment: its segments are read by themselves.
pub const PHASE_OLD: u32 = 5;
/// It may speak HTTP/2: so far it has sent `carried` bytes of the preface, and nothing else.
pub const PHASE_PREFACE: u32 = 6;
/// It speaks HTTP/2: its frames are read.
pub const PHASE_FRAMES: u32 = 7;
/// Likewise, and it is to be refused as soon as that can be told.
pub const PHASE_DOOMED: u32 = 8;

/// Sequence numbers from `from` up to, not including, `to`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First.
    pub from: u32,
    /// Behind the last.
    pub to: u32,
}

/// What is known of a connection, kept with the server's socket. All zero bytes are its beginning.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stream {
    /// The scanner's state at `parsed`, the carried bytes apart.
    pub scan: Scan,
    /// Bytes before `parsed` that the scanner has not read yet.
    pub carry: [u64; CARRY],
    /// Tells this stream's blocks from others'.
    pub id: u64,
    /// The revocation epoch that its tokens were last checked at.
    pub epoch: u64,
    /// What the requests are, which says what their answers mean: [`KIND_BITS`] a request, the latest lowest, and
    /// above them the low half of `asked`. One word, so that the egress program never sees one without the other.
    pub kinds: u64,
    /// Tokens of the requests that are not answered, or of the tunnel.
    pub tokens: [DenyFingerprint; TOKENS],
    /// Of which request each is, counted as `asked` counts.
    pub token_of: [u32; TOKENS],
    /// Body that was passed unread.
    pub free: [Range; RANGES],
    /// One writer at a time.
    pub busy: u32,
    /// One of the `PHASE_` constants.
    pub phase: u32,
    /// P.
    pub parsed: u32,
    /// Bytes in `carry`.
    pub carried: u32,
    /// Times that segments were dropped since R last moved.
    pub tries: u32,
    /// R when the last one was dropped; before that, and for as long as the connection has no socket, where its
    /// stream began.
    pub tried_at: u32,
    /// Ranges put into `free` so far.
    pub ranges: u32,
    /// Requests passed to the server.
    pub asked: u32,
    /// Slots of `tokens` in use.
    pub token_count: u32,
    /// When the last of them was counted, as [`Stream::tried`] is told.
    pub tried_when: u32,
    /// 1 where a token had to make room while its request was under way.
    pub crowded: u32,
    /// Behind the last such request, counted as `asked` counts.
    pub beyond: u32,
}

/// What is known of the server's side of a connection, kept with its socket beside [`Stream`] and written by the
/// egress program alone.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Answers {
    /// The scanner's state at `sent`.
    pub scan: Scan,
    /// Bytes before `sent` that the scanner has not read yet.
    pub carry: [u64; CARRY],
    /// Sequence number up to which responses were read.
    pub sent: u32,
    /// Bytes in `carry`.
    pub carried: u32,
    /// Final responses whose heads were read.
    pub answered: u32,
    /// [`ANSWERS_READ`], or why they are not.
    pub phase: u32,
    /// The revocation epoch that the connection's tokens were last checked at.
    pub epoch: u64,
}

/// Nothing was sent yet.
pub const ANSWERS_NEW: u32 = 0;
/// Responses are read.
pub const ANSWERS_READ: u32 = 1;
/// A part was missed or not understood: how many were answered is not known any more.
pub const ANSWERS_LOST: u32 = 2;
/// The server agreed to another protocol: no more responses follow.
pub const ANSWERS_TUNNEL: u32 = 3;
/// It agreed to HTTP/2, which nobody reads here.
pub const ANSWERS_H2C: u32 = 4;
/// It speaks HTTP/2, or it spoke first: its frames are followed. `carry` holds a frame header that is cut, and
/// `answered` is 1 within a header block.
pub const ANSWERS_FRAMES: u32 = 5;

/// Requests whose kind is remembered.
pub const KINDS: u32 = 16;
/// Bits of a request's kind.
pub const KIND_BITS: u32 = 3;
/// Where the low half of [`Stream::asked`] stands above the kinds.
const ASKED: u32 = KINDS * KIND_BITS;

/// Puts a request of these traits ([`crate::head::HEAD`] and its like) before the others.
#[inline(always)]
pub const fn push_kind(kinds: u64, traits: u32) -> u64 {
    let upgrade = if traits & H2C != 0 { 2 } else { (traits & UPGRADE) / UPGRADE };
    // CONNECT with an upgrade is one kind, whatever the protocol.
    let kind =
        if traits & CONNECT != 0 && upgrade != 0 { 5 } else { upgrade * 3 + (traits & (HEAD | CONNECT)) };
    (kinds << KIND_BITS | kind as u64) & ((1 << ASKED) - 1)
}

/// Takes the latest away.
#[inline(always)]
pub const fn pop_kind(kinds: u64) -> u64 {
    (kinds & ((1 << ASKED) - 1)) >> KIND_BITS
}

/// The traits of the request that was asked `back` requests before the latest, at most [`KINDS`].
#[inline(always)]
pub const fn kind(kinds: u64, back: u32) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "three bits")]
    let kind = ((kinds >> ((back * KIND_BITS) & 63)) & 7) as u32;
    let upgrade = match kind / 3 {
        0 => 0,
        1 if kind == 5 => UPGRADE | H2C,
        1 => UPGRADE,
        _ => UPGRADE | H2C,
    };
    (kind % 3) | upgrade
}

/// The kinds with the number of requests that they belong to.
#[inline(always)]
pub const fn stamp(kinds: u64, asked: u32) -> u64 {
    (kinds & ((1 << ASKED) - 1)) | (asked as u64) << ASKED
}

/// How many requests stamped kinds belong to, `near` being about as many.
#[inline(always)]
pub const fn stamped(kinds: u64, near: u32) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
    let off = ((kinds >> ASKED) as u16).wrapping_sub(near as u16).cast_signed();
    near.wrapping_add_signed(off as i32)
}

/// Where a segment lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Place {
    /// All of it was taken before: TCP discards it.
    Taken = 0,
    /// It lies within a body: it may pass unread.
    Body = 1,
    /// Bytes before it are missing.
    Gap = 2,
    /// It is to be read from P on; a copy of what came before P need not be compared.
    Fresh = 3,
    /// A part of it was passed before and not taken: to be compared, then read from P on.
    Repeat = 4,
    /// TCP took bytes that were never seen here.
    Lost = 5,
}

/// `a - b` in sequence space (RFC 9293 §3.4), if they are near each other.
#[inline(always)]
pub const fn ahead(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b).cast_signed()
}

impl Stream {
    /// The beginning of a stream.
    // SAFETY: plain integers, of which zero is a value.
    pub const EMPTY: Self = unsafe { core::mem::zeroed() };

    /// Bytes of the present body from `parsed` on.
    #[inline(always)]
    fn body(&self) -> u32 {
        let n = self.scan.skippable();
        if self.carried != 0 {
            0
        } else if n < u64::from(FAR) {
            #[allow(clippy::cast_possible_truncation, reason = "below FAR, a u32")]
            {
                n as u32
            }
        } else {
            FAR
        }
    }

    /// Settles where the segment from `seq` to `end` lies, `taken` being R. Where TCP took body that was passed
    /// out of order, P follows.
    #[inline(always)]
    pub fn place(&mut self, taken: u32, seq: u32, end: u32) -> Place {
        self.settle(taken);
        let beyond = ahead(taken, self.parsed);
        if beyond > 0 {
            if beyond.cast_unsigned() > self.body() {
                return Place::Lost;
            }
            self.pass_body(beyond.cast_unsigned());
        }
        if ahead(end, taken) <= 0 {
            return Place::Taken;
        }
        let body = self.body();
        // Wholly within the body, P or a gap before it.
        if ahead(seq, self.parsed) >= 0 && ahead(end, self.parsed).cast_unsigned() <= body {
            if seq == self.parsed {
                self.pass_body(end.wrapping_sub(seq));
            }
            return Place::Body;
        }
        if ahead(seq, self.parsed) > 0 {
            return Place::Gap;
        }
        if ahead(taken, self.parsed) < 0 && ahead(seq, self.parsed) < 0 {
            return Place::Repeat;
        }
        Place::Fresh
    }

    /// Whether it speaks HTTP/2, or may.
    #[inline(always)]
    pub const fn is_framed(&self) -> bool {
        self.phase >= PHASE_PREFACE && self.phase <= PHASE_DOOMED
    }

    /// Makes a stream that another connection has left the beginning of this one's; its lock stays.
    #[inline(always)]
    pub fn forget(&mut self) {
        self.scan.restart();
        self.kinds = 0;
        self.free = [Range { from: 0, to: 0 }; RANGES];
        self.phase = PHASE_NEW;
        self.carried = 0;
        self.tries = 0;
        self.ranges = 0;
        self.asked = 0;
        self.token_count = 0;
        self.crowded = 0;
    }

    /// Forgets what of the ranges was taken: once sequence numbers have gone round, a range that is left would free
    /// the bytes of a head.
    #[inline(always)]
    fn settle(&mut self, taken: u32) {
        if self.ranges == 0 {
            return;
        }
        let mut left = 0;
        for r in &mut self.free {
            if ahead(taken, r.from) > 0 {
                r.from = if ahead(taken, r.to) >= 0 { r.to } else { taken };
            }
            left |= r.from ^ r.to;
        }
        if left == 0 {
            self.ranges = 0;
        }
    }

    /// Moves P over `n` bytes of body.
    #[inline(always)]
    pub fn pass_body(&mut self, n: u32) {
        let from = self.parsed;
        self.parsed = from.wrapping_add(n);
        self.scan.skip(u64::from(n));
        self.free(from, self.parsed);
    }

    /// Remembers a range whose copies need no comparison.
    #[inline(always)]
    pub fn free(&mut self, from: u32, to: u32) {
        let last = self.ranges.wrapping_sub(1) as usize & (RANGES - 1);
        if self.ranges != 0 && self.free[last].to == from {
            self.free[last].to = to;
            return;
        }
        let next = self.ranges as usize & (RANGES - 1);
        self.free[next] = Range { from, to };
        self.ranges = self.ranges.wrapping_add(1);
    }

    /// How many bytes from `at` on need no comparison.
    #[inline(always)]
    pub fn free_at(&self, at: u32) -> u32 {
        let mut n = 0;
        for r in &self.free {
            if ahead(at, r.from) >= 0 && ahead(r.to, at) > 0 {
                n = r.to.wrapping_sub(at);
            }
        }
        n
    }

    /// Notes that a segment could not pass, R being `taken`, at a time in units of 2^20 ns; tells whether that was once
    /// too often. Copies that come at once are one try: a sender waits longer than [`PAUSE`] for an acknowledgement.
    #[inline(always)]
    pub fn tried(&mut self, taken: u32, when: u32) -> bool {
        if self.tried_at != taken {
            self.tried_at = taken;
            self.tries = 0;
        } else if self.tries != 0 && when.wrapping_sub(self.tried_when) < PAUSE {
            return self.tries > TRIES;
        }
        self.tried_when = when;
        self.tries += 1;
        self.tries > TRIES
    }

    /// Remembers a token of a request, in the place of one whose request is done with; `done` are, which is known where
    /// responses are `followed`.
    #[inline(always)]
    pub fn token(&mut self, token: DenyFingerprint, of: u32, done: u32, followed: bool) {
        // The oldest, one that is done with, the same one: the last of these that there is.
        let (mut oldest, mut over, mut same) = (0, TOKENS, TOKENS);
        for i in 0..TOKENS {
            if ahead(self.token_of[i], self.token_of[oldest & (TOKENS - 1)]) < 0 {
                oldest = i;
            }
            let (first, open) = (over == TOKENS, self.is_open(i, done));
            if first && !open {
                over = i;
            }
            if open && self.tokens[i] == token {
                same = i;
            }
        }
        let at = if same != TOKENS {
            same
        } else if over != TOKENS {
            over
        } else {
            if followed {
                self.crowd(self.token_of[oldest & (TOKENS - 1)]);
            }
            oldest
        };
        self.tokens[at & (TOKENS - 1)] = token;
        self.token_of[at & (TOKENS - 1)] = of;
        #[allow(clippy::cast_possible_truncation, reason = "at most TOKENS")]
        let used = (at & (TOKENS - 1)) as u32 + 1;
        if used > self.token_count {
            self.token_count = used;
        }
    }

    /// Notes that the token of a request that is under way is not remembered.
    #[inline(always)]
    pub const fn crowd(&mut self, of: u32) {
        if self.crowded == 0 || ahead(of, self.beyond) >= 0 {
            self.crowded = 1;
            self.beyond = of.wrapping_add(1);
        }
    }

    /// Whether a request is under way whose token is not remembered, as far as is known.
    #[inline(always)]
    pub fn is_crowded(&self, answers: Option<&Answers>) -> bool {
        self.crowded != 0
            && answers.is_none_or(|a| a.phase == ANSWERS_LOST || ahead(self.beyond, a.done(self.asked)) > 0)
    }

    /// Whether a slot of `tokens` is in use for a request that is not done with; `done` requests are.
    #[inline(always)]
    pub fn is_open(&self, slot: usize, done: u32) -> bool {
        let slot = slot & (TOKENS - 1);
        #[allow(clippy::cast_possible_truncation, reason = "below TOKENS")]
        let used = (slot as u32) < self.token_count;
        used && ahead(self.token_of[slot], done) >= 0
    }

    /// Whether all up to `end` was passed: read, or body.
    #[inline(always)]
    pub fn passed(&self, end: u32) -> bool {
        ahead(end, self.parsed) <= self.body().cast_signed()
    }
}

impl Answers {
    /// How many requests are done with: answered to the last byte. `asked` were passed to the server.
    #[inline(always)]
    pub fn done(&self, asked: u32) -> u32 {
        match self.phase {
            ANSWERS_NEW => 0,
            // The last is open, as far as is known.
            ANSWERS_LOST => asked.wrapping_sub(1),
            ANSWERS_READ if self.scan.at_boundary() => self.answered,
            _ => self.answered.wrapping_sub(1),
        }
    }

    /// Whether what the server has sent ends with a whole frame, and the client has it all; `first` where the client
    /// has taken nothing yet.
    #[inline(always)]
    pub fn is_between_frames(&self, first: bool, sent: u32, taken: u32) -> bool {
        let whole = self.phase == ANSWERS_FRAMES
            && self.scan.skippable() == 0
            && self.carried == 0
            && self.answered == 0
            && self.sent == sent;
        taken == sent && (whole || (self.phase == ANSWERS_NEW && first))
    }

    /// Whether it is known how many requests are done with; `first` where the client has taken nothing yet.
    #[inline(always)]
    pub const fn are_followed(&self, first: bool) -> bool {
        self.phase == ANSWERS_READ || (self.phase == ANSWERS_NEW && first)
    }

    /// Whether the server has answered all of `asked` requests, and the client has it all: `sent` is the server's
    /// next sequence number, `taken` what the client acknowledged.
    #[inline(always)]
    pub fn is_idle(&self, asked: u32, sent: u32, taken: u32) -> bool {
        self.phase == ANSWERS_READ
            && self.scan.at_boundary()
            && self.carried == 0
            && self.answered == asked
            && self.sent == sent
            && taken == sent
    }
}

const _: () = {
    // Copied with each segment. Beyond 128 bytes LLVM copies for BPF byte by byte.
    assert!(size_of::<Scan>() == 128);
    assert!(size_of::<Stream>() == 128 + 64 + 24 + 64 + 16 + 32 + 48);
    assert!(size_of::<Answers>() == 128 + 64 + 24);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_kind_among_others() {
        for traits in [0, HEAD, CONNECT, UPGRADE, UPGRADE | H2C, HEAD | UPGRADE, HEAD | UPGRADE | H2C] {
            let mut kinds = push_kind(stamp(u64::MAX, 77), traits);
            for _ in 1..KINDS {
                kinds = push_kind(kinds, HEAD);
            }
            assert_eq!(kind(kinds, KINDS - 1), traits);
            assert_eq!(kind(pop_kind(kinds), KINDS - 2), traits);
        }
        assert_eq!(kind(push_kind(0, CONNECT | UPGRADE), 0), CONNECT | UPGRADE | H2C);
    }

    #[test]
    fn kinds_say_how_many_requests_they_are_of() {
        for asked in [0, 1, 0xffff, 0x1_0000, 0x1_0003, u32::MAX] {
            for near in [asked, asked.wrapping_sub(9), asked.wrapping_add(9)] {
                assert_eq!(stamped(stamp(0, asked), near), asked);
            }
        }
    }

    #[test]
    fn a_body_that_was_taken_frees_no_byte_when_sequence_numbers_have_gone_round() {
        const LINE: u32 = 100;
        let mut s = Stream::EMPTY;
        s.phase = PHASE_HTTP;
        let begin = 0xffff_f000_u32;
        s.parsed = begin;
        // A body, and much more of requests without one, all taken in turn.
        s.free(begin, begin.wrapping_add(50_000));
        s.parsed = begin.wrapping_add(50_000);
        let mut passed = 0_u64;
        while passed < (1 << 32) - 60_000 {
            let at = s.parsed;
            assert_eq!(s.place(at, at, at.wrapping_add(LINE)), Place::Fresh);
            let step = 1 << 20;
            s.parsed = at.wrapping_add(step);
            passed += u64::from(step);
        }
        let at = begin.wrapping_add(20_000);
        assert_eq!(s.free_at(at), 0, "{:?}", s.free);
    }

    #[test]
    fn tokens_of_open_requests_are_remembered_or_the_stream_says_that_one_is_not() {
        let token = |n: u64| DenyFingerprint([n, n]);
        let answers = |phase, answered| {
            // SAFETY: plain integers, of which zero is a value.
            let mut a: Answers = unsafe { core::mem::zeroed() };
            (a.phase, a.answered) = (phase, answered);
            a
        };
        let open = |s: &Stream, done| (0..TOKENS).filter(|i| s.is_open(*i, done)).count();
        let mut s = Stream::EMPTY;
        // However many requests of two tokens.
        for of in 0..20 {
            s.token(token(u64::from(of % 2)), of, 0, true);
        }
        assert_eq!((open(&s, 0), s.token_of[..2].iter().max(), s.crowded), (2, Some(&19), 0));
        // One of a third and a fourth, while the two are done with.
        for of in 20..24 {
            s.token(token(u64::from(of)), of, 20, true);
        }
        assert_eq!((open(&s, 20), s.crowded), (4, 0));
        s.asked = 24;
        s.token(token(24), 24, 20, true);
        s.asked = 25;
        assert_eq!((s.crowded, s.beyond), (1, 21));
        assert!(s.is_crowded(Some(&answers(ANSWERS_READ, 20))) && s.is_crowded(None));
        assert!(!s.is_crowded(Some(&answers(ANSWERS_READ, 21))));
        assert!(s.is_crowded(Some(&answers(ANSWERS_LOST, 25))), "nobody knows any more");
        // Where responses are not followed, nothing is known of what is open: the last ones count.
        let mut s = Stream::EMPTY;
        for of in 0..9 {
            s.token(token(u64::from(of)), of, 0, false);
        }
        assert_eq!((open(&s, 5), s.crowded), (4, 0));
    }

    #[test]
    fn what_was_taken_of_a_long_body_is_forgotten_and_the_rest_is_free() {
        let mut s = Stream::EMPTY;
        s.free(1000, 9000);
        s.parsed = 9000;
        assert_eq!(s.place(4000, 4000, 5000), Place::Repeat);
        assert_eq!((s.free_at(3999), s.free_at(4000), s.free_at(8999), s.free_at(9000)), (0, 5000, 1, 0));
        assert_eq!(s.place(9000, 9000, 9001), Place::Fresh);
        assert_eq!((s.free_at(8999), s.ranges), (0, 0));
    }
}
