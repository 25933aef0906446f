//! Follows what servers answer, on egress: how many requests are answered, whether the connection became another
//! protocol's, and whether its token was condemned while it lived.
//!
//! Nothing here refuses a response for what it says. What is not understood is remembered as lost: then refusals on
//! the connection are resets, for nobody knows whether an answer would stand in the middle of another.

use aya_ebpf::bindings::__sk_buff;
use portcullis_common::{
    head::{FRONT, MAX_UNREAD, Step},
    reason::Outcome,
    stream::{
        self, ANSWERS_H2C, ANSWERS_LOST, ANSWERS_NEW, ANSWERS_READ, Answers, CARRY, PHASE_DEAD, PHASE_HTTP,
        Stream, TOKENS, ahead,
    },
    word,
};

use crate::{
    DROP, PASS,
    count::count,
    h2_answers,
    maps::{self, ACTIVE, Scratch},
    packet::{self, ACK, Packet, Port, RST},
    react,
    scan::{self, scan_answer},
    socket, tomb, verdict,
};

/// Reads a packet that a server sends.
#[inline(always)]
pub fn steps(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = maps::scratch_out() else { return PASS };
    if packet::read_out(skb, scratch) != Port::Guarded {
        return PASS;
    }
    // SAFETY: `packet::read_out` has set it, and nothing writes it but the copy's mark.
    let p = unsafe { &(*scratch).packet };
    if p.len == 0 {
        // A packet that was past guard when its connection was answered finds no socket, and the stack resets the
        // client, which may not have read the answer yet. guard's own resets acknowledge.
        if p.flags & (RST | ACK) == RST && tomb::is_fresh(skb, scratch, p) {
            count(Outcome::TombstoneDropped);
            return DROP;
        }
        return PASS;
    }
    match segment(skb, scratch) {
        0 => PASS,
        1 => DROP,
        _ => react::sever(skb, scratch, p),
    }
}

/// Nothing is done, the packet is dropped, the connection is reset.
pub const GO: i32 = 0;
const STOP: i32 = 1;
/// Both sides are reset.
pub const SEVER: i32 = 2;

/// Follows a segment of a server's.
#[inline(never)]
pub fn segment(skb: *mut __sk_buff, scratch: *mut Scratch) -> i32 {
    // SAFETY: as above.
    let p = unsafe { &(*scratch).packet };
    let kept = socket::own(skb, scratch, p.h2c != 0);
    let (stream, answers) = (kept.stream, kept.answers);
    // SAFETY: a map's value.
    if p.h2c != 0 && !answers.is_null() && (stream.is_null() || unsafe { (*stream).is_framed() }) {
        // SAFETY: as above; the egress program alone writes it.
        return h2_answers::segment(skb, scratch, stream, unsafe { &mut *answers }, kept.h2);
    }
    if stream.is_null() || answers.is_null() {
        // Nothing came in that was read: the connection is older, or nobody's.
        return GO;
    }
    // SAFETY: map values; the ingress program writes the stream at the same time, each field whole, and what it
    // writes for a request is there before the request is.
    let (stream, answers) = unsafe { (&mut *stream, &mut *answers) };
    if stream.phase == PHASE_DEAD {
        count(Outcome::Severed);
        return STOP;
    }
    let epoch = ACTIVE.get(0).map_or(0, |a| a.epoch);
    if answers.epoch != epoch {
        if answers.phase != ANSWERS_NEW && condemned(scratch, stream, answers) {
            stream.phase = PHASE_DEAD;
            count(Outcome::Severed);
            return SEVER;
        }
        answers.epoch = epoch;
    }
    if answers.phase > ANSWERS_READ || stream.phase != PHASE_HTTP {
        return GO;
    }
    follow(skb, scratch, p, stream, answers)
}

/// Whether one of the tokens of requests that are under way is condemned; `Run` then says which.
#[inline(always)]
fn condemned(scratch: *mut Scratch, stream: &Stream, answers: &Answers) -> bool {
    let done = answers.done(stream.asked);
    if stream.is_crowded(Some(answers)) {
        // SAFETY: this CPU's scratch; no other reference to it is alive.
        verdict::forgotten(unsafe { &mut (*scratch).run });
        return true;
    }
    for i in 0..TOKENS {
        if stream.is_open(i, done) {
            // SAFETY: this CPU's scratch; no other reference to it is alive.
            let run = unsafe { &mut (*scratch).run };
            // SAFETY: two words each, of a map's values.
            unsafe {
                word::copy::<2>((&raw mut run.fingerprint).cast(), (&raw const stream.tokens[i]).cast())
            };
            if verdict::refuses(run) {
                return true;
            }
        }
    }
    false
}

#[inline(always)]
fn lost(answers: &mut Answers) -> i32 {
    answers.phase = ANSWERS_LOST;
    count(Outcome::AnswersLost);
    GO
}

/// Reads on from where the responses were left.
#[inline(always)]
fn follow(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    p: &Packet,
    stream: &mut Stream,
    answers: &mut Answers,
) -> i32 {
    let end = p.seq.wrapping_add(p.len);
    if answers.phase == ANSWERS_NEW {
        // SAFETY: this CPU's scratch.
        if unsafe { (*scratch).socket.received } > 1 {
            // The client has taken something that was not seen here.
            return lost(answers);
        }
        answers.sent = p.seq;
        answers.phase = ANSWERS_READ;
    }
    if ahead(end, answers.sent) <= 0 {
        return GO;
    }
    if ahead(p.seq, answers.sent) > 0 {
        return lost(answers);
    }
    let new = end.wrapping_sub(answers.sent);
    if answers.carried == 0 && answers.scan.skippable() >= u64::from(new) {
        answers.scan.skip(u64::from(new));
        answers.sent = end;
        return GO;
    }
    let at = p.payload + answers.sent.wrapping_sub(p.seq);
    // SAFETY: this CPU's scratch; no other reference to these fields is alive.
    unsafe {
        scan::begin(scratch, at, p.payload + p.len);
        let run = &mut (*scratch).run;
        // The ingress program may be writing both: the kinds alone say how many they are of.
        run.kinds = (&raw const stream.kinds).read_volatile();
        run.asked = stream::stamped(run.kinds, stream.asked);
        run.answered = answers.answered;
        run.carried = answers.carried;
        (*scratch).scan.copy_from(&answers.scan);
        if answers.carried != 0 {
            let buffer = (&raw mut (*scratch).buffer).cast::<u8>().add(FRONT).cast::<u64>();
            for i in 0..CARRY {
                buffer.add(i).write(answers.carry[i]);
            }
        }
    }
    scan_answer(skb);
    // SAFETY: this CPU's scratch; the scan is over.
    let run = unsafe { &(*scratch).run };
    let read = run.answered.wrapping_sub(answers.answered);
    if read != 0 {
        count(Outcome::Answered);
    }
    answers.answered = run.answered;
    if run.turn != ANSWERS_READ {
        answers.phase = run.turn;
        if run.turn == ANSWERS_H2C {
            stream.phase = PHASE_DEAD;
            count(Outcome::RefusedHttp2);
            return SEVER;
        }
        if run.turn == ANSWERS_LOST {
            count(Outcome::AnswersLost);
        }
        return GO;
    }
    if run.step != Step::More as u32 || run.finished == 0 || run.left > MAX_UNREAD as u32 {
        return lost(answers);
    }
    // SAFETY: as above; the buffer holds `CARRY` words behind any masked place.
    unsafe {
        answers.scan.copy_from(&(*scratch).scan);
        if run.left != 0 {
            let at = (*scratch).cursor.at as usize & (portcullis_common::head::WINDOW - 1);
            let from = (&raw const (*scratch).buffer).cast::<u8>().add(FRONT + at);
            for i in 0..CARRY {
                answers.carry[i] = from.add(i * 8).cast::<u64>().read_unaligned();
            }
        }
    }
    answers.carried = run.left;
    answers.sent = end;
    GO
}
