//! Fast mode: each segment is read by itself. Nothing is kept of a connection, so a head that is cut in two is
//! not read whole; it is also what only observes.

use aya_ebpf::bindings::__sk_buff;
use portcullis_common::{head::Step, reason::Outcome};

use crate::{
    DROP, PASS,
    count::{arrive, count},
    maps,
    packet::{self, Port},
    react, scan,
    tomb::{self, Tomb},
};

/// Reads a packet.
#[inline(always)]
pub fn steps(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = maps::scratch() else { return PASS };
    match packet::read(skb, scratch) {
        Port::Guarded => arrive(skb, scratch),
        Port::Open => return PASS,
        Port::Unsupported | Port::Later => {
            count(Outcome::Unsupported);
            return PASS;
        }
    }
    // SAFETY: `packet::read` has set it, and nothing writes it from here on.
    let packet = unsafe { &(*scratch).packet };
    match tomb::check(skb, scratch, packet) {
        Tomb::None => {}
        Tomb::Drop => return DROP,
        Tomb::Pass => return PASS,
        Tomb::Reset => return react::reset_client(skb, scratch, packet),
    }
    if packet.len == 0 {
        return PASS;
    }
    scan::scan_alone(skb);
    // SAFETY: this CPU's scratch; the scan is over.
    if unsafe { (*scratch).run.step } == Step::Refused as u32 {
        scan::count_refusal(scratch);
        return react::refuse(skb, scratch, packet);
    }
    PASS
}
