//! At the sockets of a control group: the last step before a server has a segment, behind reassembly of fragments and
//! DNAT. A packet can be dropped here, and nothing else.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_sk_fullsock};
use portcullis_common::{
    reason::Outcome,
    stream::{PHASE_DOOMED, PHASE_FRAMES, PHASE_HTTP, PHASE_OLD, PHASE_OPAQUE, PHASE_PREFACE, PHASE_TUNNEL},
};

use crate::{
    answers,
    count::{arrive, count, locate},
    maps::{self, Scratch},
    packet::{self, ACK, H2C, Packet, Port, RST, SYN, URG},
    pending, react, socket,
    strict::{self, GATE, GATE_FRAMES, Next},
};

/// Let the packet through (`cgroup_skb` knows no other answers).
const LET: i32 = 1;
/// Drop it.
const STOP: i32 = 0;

/// What headers alone settle.
enum Look {
    Settled(i32),
    /// A segment with payload to a guarded port.
    Segment,
}

#[inline(always)]
fn look(skb: *mut __sk_buff, scratch: *mut Scratch) -> Look {
    match packet::read(skb, scratch) {
        Port::Guarded => arrive(skb, scratch),
        Port::Open => return Look::Settled(LET),
        Port::Unsupported | Port::Later => {
            // Fragments are whole here: what is left is a header chain that nobody reads.
            count(Outcome::Fragment);
            return Look::Settled(STOP);
        }
    }
    // SAFETY: `packet::read` has set it, and nothing writes it from here on.
    let p = unsafe { &(*scratch).packet };
    if p.len == 0 || p.flags & RST != 0 {
        return Look::Settled(LET);
    }
    if p.flags & SYN != 0 {
        count(Outcome::SynData);
        return Look::Settled(STOP);
    }
    if p.flags & URG != 0 || p.flags & ACK == 0 {
        count(Outcome::BadFlags);
        return Look::Settled(STOP);
    }
    if p.copied == 0 && !packet::copy(skb, scratch) {
        return Look::Settled(STOP);
    }
    Look::Segment
}

/// Lets through what guard has passed.
#[inline(always)]
pub fn door(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = maps::scratch() else { return STOP };
    if let Look::Settled(answer) = look(skb, scratch) {
        return answer;
    }
    // SAFETY: as above.
    let p = unsafe { &(*scratch).packet };
    if passed(skb, scratch, p) {
        count(Outcome::GatePassed);
        return LET;
    }
    count(Outcome::GateDropped);
    STOP
}

/// Whether guard knows the segment's connection and has passed all of the segment.
#[inline(always)]
fn passed(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) -> bool {
    // SAFETY: the packet holds its socket; the verifier checks each pointer before it is read.
    let mut stream = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return false;
        }
        let full = bpf_sk_fullsock(sk);
        if full.is_null() {
            return false;
        }
        socket::stream_of(full, core::ptr::null_mut(), 0)
    };
    if stream.is_null() {
        // What comes with the handshake is noted by its connection, for it has no socket yet.
        stream = pending::find(skb, scratch, p);
    }
    if stream.is_null() {
        return false;
    }
    // SAFETY: a map's value, each field of which is written whole, and before the segment was passed.
    let stream = unsafe { &*stream };
    match stream.phase {
        PHASE_HTTP | PHASE_PREFACE | PHASE_FRAMES | PHASE_DOOMED => stream.passed(p.seq.wrapping_add(p.len)),
        PHASE_TUNNEL | PHASE_OPAQUE | PHASE_OLD => true,
        _ => false,
    }
}

/// Reads what comes in as strict mode does. All it can do about a refusal is to let nothing more through; the daemon
/// then ends the connection.
#[inline(always)]
pub fn reads(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = maps::scratch() else { return STOP };
    if let Look::Settled(answer) = look(skb, scratch) {
        return answer;
    }
    // SAFETY: this CPU's scratch, and `look` has read the packet.
    if unsafe { (*scratch).packet.h2c } == H2C {
        maps::pass_on_at_gate(skb, maps::TO_FRAMES);
        return STOP;
    }
    let next = strict::segment::<GATE>(skb, scratch);
    settle(skb, scratch, next)
}

/// Reads a packet that the program above passed on.
#[inline(always)]
pub fn frames(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = maps::scratch() else { return STOP };
    if packet::read(skb, scratch) != Port::Guarded || !packet::copy(skb, scratch) {
        return STOP;
    }
    locate(skb, scratch);
    let next = strict::segment::<GATE_FRAMES>(skb, scratch);
    if next == Next::Return as i32 {
        // SAFETY: this CPU's scratch.
        unsafe { (*scratch).returned = 1 };
        maps::pass_on_at_gate(skb, maps::TO_GUARD);
        // SAFETY: as above.
        unsafe { (*scratch).returned = 0 };
        return STOP;
    }
    settle(skb, scratch, next)
}

#[inline(always)]
fn settle(skb: *mut __sk_buff, scratch: *mut Scratch, next: i32) -> i32 {
    if next == Next::Pass as i32 {
        return LET;
    }
    if next == Next::Refuse as i32 {
        // SAFETY: as above.
        react::tell_of(skb, scratch, unsafe { &(*scratch).packet }, Outcome::GateRefused);
    }
    STOP
}

/// Follows what a server answers, so that what it agreed to is known.
#[inline(always)]
pub fn answers(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = maps::scratch_out() else { return LET };
    if packet::read_out(skb, scratch) != Port::Guarded {
        return LET;
    }
    // SAFETY: `packet::read_out` has set it, and nothing writes it but the copy's mark.
    if unsafe { (*scratch).packet.len } == 0 || answers::segment(skb, scratch) == answers::GO {
        LET
    } else {
        STOP
    }
}
