//! What is done with a request that is refused.
//!
//! `respond` turns the client's own packet into the answer: an HTTP response and FIN to the client, then a reset
//! to the server's socket, which never has the whole request. It needs a connection on which all requests before
//! are answered and nothing is in flight; otherwise both sides are reset, since an answer in the middle of another
//! response would be taken for a part of it. Strict mode knows when that is; fast mode answers on connections
//! that were never asked anything. Where a packet cannot be built, it is dropped: a refused request is passed up
//! in no case.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_clone_redirect, bpf_csum_diff, bpf_ktime_get_boot_ns, bpf_redirect, bpf_skb_change_tail,
        bpf_skb_store_bytes,
    },
};
use portcullis_common::{
    layout::{
        ANSWER_LIMITED, ANSWER_MALFORMED, ANSWER_MAX, ANSWER_TOO_LONG, ANSWERS, Event, GOAWAY_STREAM,
        REACT_DROP, REACT_RESPOND,
    },
    reason::{Outcome, Reason, Sight},
    word,
};

use crate::{
    DROP, PASS,
    count::{self, count, sight},
    maps::{self, EVENTS, Scratch},
    packet::{self, ACK, FIN, Headers, PSH, Packet, RST},
    refusals,
    scan::{GOAWAY, TELL_ASK, TELL_HTTP},
    socket::{self, Kind},
    strict::WIRE,
    tomb,
};

/// `BPF_F_INVALIDATE_HASH`: the addresses change.
const INVALIDATE_HASH: u64 = 2;
/// `BPF_F_INGRESS`.
const INGRESS: u64 = 1;
/// `BPF_F_RECOMPUTE_CSUM`: where the device summed the packet, its sum follows what is written.
const RECOMPUTE: u64 = 1;
/// TCP header with the timestamps option.
const TCP_WITH_TIMES: u32 = 32;
/// How far an answer's timestamp is ahead of the last one of the server's that the client had when it sent. A later one
/// may be on its way to the client, which would then take the answer for an old packet (RFC 7323 §5.3); some seconds
/// ahead it never is, and nothing of the server's follows it.
const AHEAD: u32 = 1 << 14;
/// TCP header without options.
const TCP_BARE: u32 = 20;

/// One TCP segment to be written into the packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Segment {
    seq: u32,
    ack: u32,
    flags: u32,
    /// Other addresses than the packet's: addresses and ports are swapped.
    back: u32,
    /// The answer is its payload.
    answer: u32,
    /// The checksum is left to be completed.
    partial: u32,
}

/// Refuses the request that the scan stopped at. A function of its own, for the stack of the scan's callbacks
/// is on top of its caller's.
#[inline(never)]
pub fn refuse(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) -> i32 {
    let Some(config) = maps::config() else { return DROP };
    if p.copied == 0 && !packet::copy(skb, scratch) {
        return DROP;
    }
    if config.reaction == REACT_DROP {
        // Fast mode has not asked for the socket, without which nothing is noted.
        if refusals::is_on() && unsafe { (*scratch).run.tell } == TELL_ASK {
            socket::find::<false, WIRE>(skb, scratch, p, config);
        }
        tell::<false>(skb, scratch, p, Outcome::Dropped);
        refusals::note_refusal(skb);
        return DROP;
    }
    // SAFETY: this CPU's scratch.
    let (asked, first) = unsafe { ((*scratch).run.tell, (*scratch).run.head == p.payload) };
    if asked == TELL_ASK {
        socket::find::<false, WIRE>(skb, scratch, p, config);
    }
    // SAFETY: this CPU's scratch; nothing writes it from here on.
    let s = unsafe { &(*scratch).socket };
    let mut idle = asked == TELL_HTTP;
    if asked == TELL_ASK {
        // A packet out of order: the bytes before it are not the server's yet. The client sends it again when
        // they are.
        if s.is(Kind::Connected) && p.seq.wrapping_sub(s.rcv_nxt).cast_signed() > 0 {
            return hold(skb, scratch, p);
        }
        let fresh = s.received == 0 && s.snd_una == s.snd_nxt && p.seq == s.rcv_nxt;
        idle = first && (s.is(Kind::Young) || s.is(Kind::Connected) && fresh);
    }
    let respond = idle && config.reaction == REACT_RESPOND;
    tell::<false>(skb, scratch, p, if respond { Outcome::Responded } else { Outcome::Reset });
    refusals::note_refusal(skb);
    tomb::raise(skb, scratch, p);
    let partial = u32::from(checksum_is_partial(skb, scratch, p));
    let to_client = if respond {
        Segment {
            back: 1,
            flags: PSH | ACK | FIN,
            seq: p.ack,
            ack: p.seq.wrapping_add(p.len),
            answer: 1,
            partial,
        }
    } else {
        Segment {
            back: 1,
            flags: RST | ACK,
            seq: s.snd_nxt,
            ack: p.seq.wrapping_add(p.len),
            answer: 0,
            partial,
        }
    };
    if write::<false>(skb, scratch, &to_client) != 0 {
        count(Outcome::AnswerFailed);
        return DROP;
    }
    // SAFETY: the context of the running program.
    let interface = unsafe { (*skb).ifindex };
    // SAFETY: as above. The clone goes out of the interface the request came in by.
    if unsafe { bpf_clone_redirect(skb, interface, 0) } != 0 {
        count(Outcome::AnswerFailed);
    }
    let to_server = Segment { back: 0, flags: RST, seq: s.rcv_nxt, ack: 0, answer: 0, partial };
    if write::<false>(skb, scratch, &to_server) != 0 {
        count(Outcome::AnswerFailed);
        return DROP;
    }
    PASS
}

/// Holds a refused request back until it may be answered: the client sends it again. A function of its own for the
/// stack's sake.
#[inline(never)]
pub fn hold(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) -> i32 {
    tell::<false>(skb, scratch, p, Outcome::Held);
    DROP
}

/// Turns a packet that a server sends on a condemned connection into a reset to the client, and resets the server's
/// side too.
#[inline(never)]
pub fn sever(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) -> i32 {
    if p.copied == 0 && !packet::copy(skb, scratch) {
        return DROP;
    }
    // SAFETY: this CPU's scratch.
    let rcv_nxt = unsafe { (*scratch).socket.rcv_nxt };
    count::locate(skb, scratch);
    tell::<true>(skb, scratch, p, Outcome::Reset);
    let partial = u32::from(checksum_is_partial(skb, scratch, p));
    let to_server = Segment { back: 1, flags: RST, seq: rcv_nxt, ack: 0, answer: 0, partial };
    if write::<true>(skb, scratch, &to_server) != 0 {
        count(Outcome::AnswerFailed);
        return DROP;
    }
    // SAFETY: the context of the running program. The clone comes in by the interface it would go out of.
    if unsafe { bpf_clone_redirect(skb, (*skb).ifindex, INGRESS) } != 0 {
        count(Outcome::AnswerFailed);
    }
    let to_client = Segment { back: 0, flags: RST | ACK, seq: p.seq, ack: rcv_nxt, answer: 0, partial };
    if write::<true>(skb, scratch, &to_client) != 0 {
        count(Outcome::AnswerFailed);
        return DROP;
    }
    PASS
}

/// Turns a late packet of an answered connection into a reset to the client.
#[inline(never)]
pub fn reset_client(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) -> i32 {
    let partial = u32::from(checksum_is_partial(skb, scratch, p));
    let ack = p.seq.wrapping_add(p.len);
    let reset = Segment { back: 1, flags: RST | ACK, seq: p.ack, ack, answer: 0, partial };
    if write::<false>(skb, scratch, &reset) != 0 {
        count(Outcome::AnswerFailed);
        return DROP;
    }
    // SAFETY: the context of the running program.
    unsafe { bpf_redirect((*skb).ifindex, 0) as i32 }
}

/// The same as a function of its own.
#[inline(never)]
pub fn tell_of(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet, action: Outcome) {
    tell::<false>(skb, scratch, p, action);
}

/// Counts a refusal where it happened. A global function to the verifier, which walks it once.
#[unsafe(no_mangle)]
pub extern "C" fn tally(out: u32) -> i32 {
    if let Some(scratch) = if out == 0 { maps::scratch() } else { maps::scratch_out() } {
        sight(scratch, cause(scratch));
    }
    0
}

/// What a refusal is counted as.
#[inline(always)]
fn cause(scratch: *mut Scratch) -> Sight {
    // SAFETY: this CPU's scratch; the scan is over.
    let (reason, answer) = unsafe { ((*scratch).run.reason, (*scratch).run.answer) };
    if reason == Reason::TokenRevoked as u32 {
        Sight::RefusedRevoked
    } else if answer == ANSWER_LIMITED {
        Sight::RefusedLimited
    } else if answer == ANSWER_TOO_LONG {
        Sight::RefusedTooLong
    } else if answer == ANSWER_MALFORMED {
        Sight::RefusedMalformed
    } else {
        Sight::RefusedCondemned
    }
}

/// Counts what is done and tells whoever listens.
#[inline(always)]
fn tell<const OUT: bool>(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet, action: Outcome) {
    count(action);
    if action != Outcome::Held {
        tally(u32::from(OUT));
    }
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count(Outcome::EventsLost);
        return;
    };
    let [zero] = word::zeros::<1>();
    // SAFETY: this CPU's scratch, and a helper without arguments.
    let event = unsafe {
        Event {
            time: bpf_ktime_get_boot_ns(),
            fingerprint: (*scratch).run.fingerprint,
            decision: (*scratch).run.decision,
            flow: packet::flow(skb, scratch, p),
            reason: (*scratch).run.reason as u8,
            action: action as u8,
            pad: [zero as u8; 6],
        }
    };
    entry.write(event);
    entry.submit(0);
}

/// Folds a 32-bit sum to the 16 bits that stand in a header, both in the machine's byte order (RFC 1071 §2B).
#[inline(always)]
pub fn fold(sum: i64) -> u16 {
    let mut s = sum as u64 & 0xffff_ffff;
    s = (s & 0xffff) + (s >> 16);
    s = (s & 0xffff) + (s >> 16);
    s as u16
}

/// Sums a value of integers, its size a multiple of four, onto `seed`.
#[inline(always)]
fn sum<T: Copy>(plain: &T, seed: i64) -> i64 {
    // SAFETY: the helper reads the value's bytes, all of them initialised integers.
    unsafe {
        bpf_csum_diff(
            core::ptr::null_mut(),
            0,
            core::ptr::from_ref(plain).cast_mut().cast(),
            size_of::<T>() as u32,
            seed as u32,
        )
    }
}

/// The sum over the TCP pseudo-header (RFC 9293 §3.1).
#[inline(always)]
pub fn pseudo(h: Headers, p: &Packet, tcp_len: u32) -> i64 {
    let mut b = word::zeros::<5>();
    if p.v6 != 0 {
        [b[0], b[1]] = h.address6(p.l3 + 8);
        [b[2], b[3]] = h.address6(p.l3 + 24);
    } else {
        b[0] = u64::from(h.u32(p.l3 + 12).to_be());
        b[1] = u64::from(h.u32(p.l3 + 16).to_be());
    }
    b[4] = u64::from(tcp_len.to_be()) | 6 << 56;
    sum(&b, 0)
}

/// Whether the sender left the checksum to be completed (veth and loopback do): then the field holds the
/// pseudo-header's sum alone, and so must what is written there.
#[inline(always)]
pub fn checksum_is_partial(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) -> bool {
    let h = Headers::of(scratch);
    // SAFETY: the context of the running program.
    let tcp_len = unsafe { (*skb).len } - p.l4;
    fold(pseudo(h, p, tcp_len)) == h.u16(p.l4 + 16).to_be()
}

/// Writes `s` over the packet, headers and all. The TCP header stays where it is, for a partial checksum is
/// completed at an offset that cannot be moved: IP options become no-ops, extension headers padding.
#[inline(always)]
fn write<const OUT: bool>(skb: *mut __sk_buff, scratch: *mut Scratch, s: &Segment) -> i32 {
    // SAFETY: this CPU's scratch.
    unsafe { (*scratch).segment = *s };
    if OUT { write_out(skb) } else { write_in(skb) }
}

/// Writes `Scratch::segment`. A global function, as `scan_stream` is.
#[unsafe(no_mangle)]
pub extern "C" fn write_in(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = maps::scratch() else { return 1 };
    i32::from(written(skb, scratch).is_err())
}

/// The same for the egress program.
#[unsafe(no_mangle)]
pub extern "C" fn write_out(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = maps::scratch_out() else { return 1 };
    i32::from(written(skb, scratch).is_err())
}

#[inline(always)]
fn written(skb: *mut __sk_buff, scratch: *mut Scratch) -> Result<(), ()> {
    let Some(config) = maps::config() else { return Err(()) };
    // SAFETY: this CPU's scratch; nothing writes it from here on.
    let (p, s) = unsafe { (&(*scratch).packet, &(*scratch).segment) };
    let (back, partial) = (s.back != 0, s.partial != 0);
    let h = Headers::of(scratch);
    let times = if s.answer != 0 { timestamps(h, p) } else { None };
    let tcp_len = if times.is_some() { TCP_WITH_TIMES } else { TCP_BARE };
    // SAFETY: this CPU's scratch.
    let (which, goaway) = unsafe {
        let run = &raw mut (*scratch).run;
        let goaway = (*run).goaway;
        // Those for HTTP/2 stand behind the others. Without a branch, and through memory, so that it is one way on.
        (*run).pad = (*run).answer + (goaway >> 31) * ANSWERS as u32;
        ((&raw const (*run).pad).read_volatile() as usize, goaway)
    };
    let Some(answer) = config.answers.get(which) else { return Err(()) };
    let answer_len = if s.answer != 0 { answer.len & (ANSWER_MAX as u32 - 1) } else { 0 };
    let len = p.l4 + tcp_len + answer_len;
    // SAFETY: the context of the running program; no packet pointers are kept.
    if unsafe { bpf_skb_change_tail(skb, len, 0) } != 0 {
        return Err(());
    }
    link(skb, h, p, back)?;
    if p.v6 != 0 {
        network6(skb, h, p, back, len)?;
    } else {
        network4(skb, h, p, back, len)?;
    }
    let ports = h.u32(p.l4);
    let ports = if back { ports.rotate_left(16) } else { ports };
    let window = u32::from(h.u16(p.l4 + 14));
    let [zero] = word::zeros::<1>();
    let mut t = [zero as u32; 8];
    t[0] = ports.to_be();
    t[1] = s.seq.to_be();
    t[2] = s.ack.to_be();
    t[3] = ((tcp_len / 4) << 28 | s.flags << 16 | window).to_be();
    if let Some((value, echo)) = times {
        t[5] = 0x0101_080a_u32.to_be();
        t[6] = echo.wrapping_add(AHEAD).to_be();
        t[7] = value.to_be();
    }
    let pseudo = pseudo(h, p, tcp_len + answer_len);
    let check = if partial {
        fold(pseudo)
    } else {
        // Unused options are zero and add nothing.
        let mut c = sum(&t, pseudo);
        if s.answer != 0 {
            c += i64::from(answer.sum);
            // Where the last stream goes there are zeros.
            let stream = (goaway & !GOAWAY).to_be();
            c += i64::from(stream & 0xffff) + i64::from(stream >> 16);
        }
        !fold(fold_once(c))
    };
    t[4] = u32::from(check);
    if times.is_some() {
        store(skb, p.l4, &t)?;
    } else {
        store(skb, p.l4, &[t[0], t[1], t[2], t[3], t[4]])?;
    }
    if s.answer != 0 {
        let n = answer_len;
        if n == 0 || n > ANSWER_MAX as u32 {
            return Err(());
        }
        // SAFETY: `n` is at most the answer's size.
        let stored =
            unsafe { bpf_skb_store_bytes(skb, p.l4 + tcp_len, answer.bytes.as_ptr().cast(), n, RECOMPUTE) };
        if stored != 0 {
            return Err(());
        }
        if goaway != 0 {
            return store(skb, p.l4 + tcp_len + GOAWAY_STREAM, &[(goaway & !GOAWAY).to_be()]);
        }
    }
    Ok(())
}

/// Keeps a sum of two 32-bit sums within 32 bits.
#[inline(always)]
pub fn fold_once(c: i64) -> i64 {
    (c & 0xffff_ffff) + (c >> 32)
}

/// The client's timestamps, where they stand as every common stack puts them (RFC 7323 appendix A).
#[inline(always)]
fn timestamps(h: Headers, p: &Packet) -> Option<(u32, u32)> {
    if p.payload >= p.l4 + TCP_WITH_TIMES && h.u32(p.l4 + 20) == 0x0101_080a {
        return Some((h.u32(p.l4 + 24), h.u32(p.l4 + 28)));
    }
    None
}

/// Stores a value of integers as it lies in memory.
#[inline(always)]
pub fn store<T: Copy>(skb: *mut __sk_buff, at: u32, plain: &T) -> Result<(), ()> {
    // SAFETY: the helper reads the value's bytes, all of them initialised integers.
    let stored = unsafe {
        bpf_skb_store_bytes(
            skb,
            at,
            core::ptr::from_ref(plain).cast(),
            size_of::<T>() as u32,
            INVALIDATE_HASH | RECOMPUTE,
        )
    };
    if stored == 0 { Ok(()) } else { Err(()) }
}

/// Writes the link addresses; there are none before an L3 start.
#[inline(always)]
fn link(skb: *mut __sk_buff, h: Headers, p: &Packet, back: bool) -> Result<(), ()> {
    if p.l3 < 12 {
        return Ok(());
    }
    // Destination, then source: six bytes each.
    let (a, b, c) = (h.u32(0), h.u32(4), h.u32(8));
    if back {
        store(
            skb,
            0,
            &[(b << 16 | c >> 16).to_be(), (c << 16 | a >> 16).to_be(), (a << 16 | b >> 16).to_be()],
        )
    } else {
        store(skb, 0, &[a.to_be(), b.to_be(), c.to_be()])
    }
}

/// Writes an IPv4 header of the same length, options replaced by no-ops.
#[inline(always)]
fn network4(skb: *mut __sk_buff, h: Headers, p: &Packet, back: bool, len: u32) -> Result<(), ()> {
    let (source, destination) = if back { (16, 12) } else { (12, 16) };
    let options = (p.l4 - p.l3 - 20) / 4;
    let mut b = [0u32; 5];
    b[0] = ((0x40 | (5 + options)) << 24 | (len - p.l3) & 0xffff).to_be();
    // Do not fragment; time to live 64; TCP.
    b[1] = 0x0000_4000_u32.to_be();
    b[2] = 0x4006_0000_u32.to_be();
    b[3] = h.u32(p.l3 + source).to_be();
    b[4] = h.u32(p.l3 + destination).to_be();
    // Each word of no-ops adds two halves of 0x0101.
    let check = !fold(sum(&b, 0) + i64::from(options * 0x0202));
    b[2] |= u32::from(check) << 16;
    store(skb, p.l3, &b)?;
    for i in 0..10 {
        if i >= options {
            break;
        }
        store(skb, p.l3 + 20 + i * 4, &[1u8; 4])?;
    }
    Ok(())
}

/// Writes an IPv6 header; extension headers become destination options that hold padding alone.
#[inline(always)]
fn network6(skb: *mut __sk_buff, h: Headers, p: &Packet, back: bool, len: u32) -> Result<(), ()> {
    let (source, destination) = if back { (24, 8) } else { (8, 24) };
    let extensions = p.l4 - p.l3 - 40;
    let next = if extensions == 0 { 6 } else { 60 };
    let mut b = word::zeros::<5>();
    b[0] = (0x60 << 56 | u64::from((len - p.l3 - 40) & 0xffff) << 16 | next << 8 | 64).to_be();
    [b[1], b[2]] = h.address6(p.l3 + source);
    [b[3], b[4]] = h.address6(p.l3 + destination);
    store(skb, p.l3, &b)?;
    if extensions == 0 {
        return Ok(());
    }
    // Each of eight bytes: next header, no length beyond, PadN over the rest. One header with more would be
    // dropped: Linux takes no more than seven bytes of padding in a row.
    for i in 0..8 {
        if i * 8 >= extensions {
            break;
        }
        let next = if i * 8 + 8 == extensions { 6 } else { 60 };
        store(skb, p.l3 + 40 + i * 8, &[next, 0, 1, 4, 0u8, 0, 0, 0])?;
    }
    Ok(())
}
