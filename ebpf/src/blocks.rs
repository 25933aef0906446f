//! Bytes that were passed and perhaps not taken yet: a copy that comes later is compared with them.
//!
//! One direct-mapped store for all connections, in blocks that begin at multiples of their size in sequence
//! space. A block that another connection took cannot be compared any more, and what cannot be compared is not
//! passed: the sender gets a few tries, then a reset.

use core::{ffi::c_void, intrinsics::AtomicOrdering};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_loop, bpf_probe_read_kernel, bpf_skb_load_bytes},
};
use portcullis_common::{
    head::{FRONT, WINDOW},
    layout::{INQUIRY_MAX, Inquiry},
    stream::{Stream, ahead},
    word,
};

use crate::maps::{BLOCK, BLOCKS, Blocks, SLOTS, Scratch, TAGS};

/// Blocks that a window may touch.
const TOUCHED: u32 = WINDOW as u32 / BLOCK + 1;
/// Most pieces of one comparison.
const PIECES: u32 = 128;

/// Takes a word's lock; `false` where another has it.
#[inline(always)]
pub fn lock(word: *mut u32) -> bool {
    // SAFETY: the callers pass a word of a map's value, used by these functions alone.
    unsafe {
        core::intrinsics::atomic_cxchg::<u32, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            word, 0, 1,
        )
        .1
    }
}

/// Gives it back.
#[inline(always)]
pub fn unlock(at: *mut u32) {
    // SAFETY: as above.
    unsafe {
        // x86 keeps stores in order, and an exchange would wait for all before it.
        #[cfg(store_order = "total")]
        word::store_after_all(at, 0);
        // An exchange: BPF has no store that releases before its fourth version.
        #[cfg(not(store_order = "total"))]
        core::intrinsics::atomic_xchg::<u32, { AtomicOrdering::SeqCst }>(at, 0);
    }
}

#[inline(always)]
fn slot(id: u64, seq: u32) -> u32 {
    ((id as u32) ^ (seq / BLOCK).wrapping_mul(0x9e37_79b1)) & (SLOTS - 1)
}

/// Keeps the `n` bytes at `at` of the packet, which stand at `seq` in the stream, before they are passed.
#[inline(never)]
pub fn keep(skb: *mut __sk_buff, scratch: *mut Scratch, seq: u32, at: u32, n: u32) -> i32 {
    let Some(blocks) = BLOCKS.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's scratch.
    let id = unsafe { (*scratch).run.keep };
    let (mut seq, mut at, mut left) = (seq, at, n);
    for _ in 0..TOUCHED {
        if left == 0 {
            break;
        }
        let offset = seq & (BLOCK - 1);
        let room = BLOCK - offset;
        let n = if left < room { left } else { room };
        // Through memory, so that the compiler forgets what it knows and keeps the checks behind.
        // SAFETY: this CPU's scratch.
        unsafe {
            let pad = &raw mut (*scratch).run.pad;
            pad.write_volatile(n);
            keep_one(skb, blocks, id, seq, at, pad.read_volatile());
        }
        seq = seq.wrapping_add(n);
        at += n;
        left -= n;
    }
    0
}

#[inline(always)]
fn keep_one(skb: *mut __sk_buff, blocks: *mut Blocks, id: u64, seq: u32, at: u32, n: u32) {
    let offset = seq & (BLOCK - 1);
    let start = seq - offset;
    let slot = slot(id, seq);
    let Some(tag) = TAGS.get_ptr_mut(slot) else { return };
    // SAFETY: a map's value, under its lock.
    unsafe {
        if !lock(&raw mut (*tag).busy) {
            // What it holds may be an earlier copy that did not pass: nothing is compared with that.
            (&raw mut (*tag).id).write_volatile(0);
            return;
        }
        let mine = (*tag).id == id && (*tag).start == start;
        if !(mine && offset >= (*tag).from && offset <= (*tag).to) {
            (*tag).id = id;
            (*tag).start = start;
            (*tag).from = offset;
            (*tag).to = offset;
        }
        let to = (&raw mut (*blocks).0).cast::<u8>().add((slot * BLOCK + offset) as usize);
        if n == 0 || n > BLOCK || bpf_skb_load_bytes(skb.cast(), at, to.cast(), n) != 0 {
            (*tag).id = 0;
        } else if offset + n > (*tag).to || !mine {
            (*tag).to = offset + n;
        }
        unlock(&raw mut (*tag).busy);
    }
}

/// What the collecting callback is given.
struct Collection {
    q: *mut Inquiry,
    id: u64,
    seq: u32,
    at: u32,
    end: u32,
    whole: u32,
}

/// Takes `len` bytes from `seq` on of what was kept of a stream; `false` where not all of it is there.
#[inline(always)]
pub fn collect(q: *mut Inquiry, id: u64, seq: u32, len: u32) -> bool {
    let mut c = Collection { q, id, seq, at: 0, end: len, whole: 1 };
    // SAFETY: the callback's context is `c`, which outlives the call.
    unsafe {
        bpf_loop(INQUIRY_BLOCKS, take as *const () as *mut c_void, (&raw mut c).cast(), 0);
    }
    c.whole != 0 && c.at == c.end
}

/// Blocks that the longest head touches.
const INQUIRY_BLOCKS: u32 = INQUIRY_MAX as u32 / BLOCK + 1;

/// Takes what lies in one block. Returns 1 to end the loop.
unsafe extern "C" fn take(_: u64, collection: *mut Collection) -> i64 {
    // SAFETY: `collect` passes its `c`; the map values it points at are of this run.
    unsafe {
        let c = &mut *collection;
        if c.at >= c.end {
            return 1;
        }
        c.whole = 0;
        let offset = c.seq & (BLOCK - 1);
        let slot = slot(c.id, c.seq);
        let (Some(tag), Some(blocks)) = (TAGS.get_ptr_mut(slot), BLOCKS.get_ptr(0)) else { return 1 };
        if !lock(&raw mut (*tag).busy) {
            return 1;
        }
        let held = (*tag).id == c.id
            && (*tag).start == c.seq - offset
            && offset >= (*tag).from
            && offset < (*tag).to;
        if held {
            let (room, left) = ((*tag).to - offset, c.end - c.at);
            let n = if left < room { left } else { room };
            // Through memory, so that the compiler forgets what it knows and keeps the checks behind.
            let pad = &raw mut (*c.q).pad;
            pad.write_volatile(n);
            let n = pad.read_volatile();
            let at = c.at & (2 * INQUIRY_MAX as u32 - 1);
            if n != 0 && n <= BLOCK && at <= INQUIRY_MAX as u32 - BLOCK {
                let from = (&raw const (*blocks).0).cast::<u8>().add((slot * BLOCK + offset) as usize);
                let to = (&raw mut (*c.q).head).cast::<u8>().add(at as usize);
                c.whole = u32::from(bpf_probe_read_kernel(to.cast(), n, from.cast()) == 0);
            }
            c.seq = c.seq.wrapping_add(n);
            c.at += n;
        }
        unlock(&raw mut (*tag).busy);
        i64::from(c.whole == 0)
    }
}

/// What the comparison's callbacks are given.
struct Env {
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    stream: *mut Stream,
    /// The packet's offset of the next byte.
    at: u32,
    /// Its place in the stream.
    seq: u32,
    /// Where the comparison ends.
    end: u32,
    /// 1 where all compared so far is the same.
    same: u32,
}

/// Whether the packet's bytes from `at` on, which stand at `seq` in the stream, are those that were passed
/// before, up to `end`.
#[inline(always)]
pub fn same(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    stream: *mut Stream,
    at: u32,
    seq: u32,
    end: u32,
) -> bool {
    let mut env = Env { skb, scratch, stream, at, seq, end, same: 1 };
    // SAFETY: the callback's context is `env`, which outlives the call.
    unsafe {
        bpf_loop(PIECES, piece as *const () as *mut c_void, (&raw mut env).cast(), 0);
    }
    env.same != 0 && env.seq == end
}

/// Compares what lies in one block, or steps over what needs no comparison. Returns 1 to end the loop.
unsafe extern "C" fn piece(_: u64, env: *mut Env) -> i64 {
    // SAFETY: `same` passes its `env`; the map values it points at are of this run.
    unsafe {
        let e = &mut *env;
        let left = ahead(e.end, e.seq);
        if left <= 0 {
            return 1;
        }
        let left = left as u32;
        let free = (*e.stream).free_at(e.seq);
        if free != 0 {
            let n = if free < left { free } else { left };
            e.seq = e.seq.wrapping_add(n);
            e.at += n;
            return 0;
        }
        e.same = 0;
        let id = (*e.stream).id;
        let offset = e.seq & (BLOCK - 1);
        let slot = slot(id, e.seq);
        let Some(tag) = TAGS.get_ptr_mut(slot) else { return 1 };
        let Some(blocks) = BLOCKS.get_ptr(0) else { return 1 };
        if !lock(&raw mut (*tag).busy) {
            return 1;
        }
        let held =
            (*tag).id == id && (*tag).start == e.seq - offset && offset >= (*tag).from && offset < (*tag).to;
        if held {
            let room = (*tag).to - offset;
            let n = if left < room { left } else { room };
            e.same = u32::from(alike(e.skb, e.scratch, blocks, slot * BLOCK + offset, e.at, n));
            e.seq = e.seq.wrapping_add(n);
            e.at += n;
        }
        unlock(&raw mut (*tag).busy);
        i64::from(e.same == 0)
    }
}

/// Compares `n` bytes of the packet with those kept at `from`.
#[inline(always)]
unsafe fn alike(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    blocks: *const Blocks,
    from: u32,
    at: u32,
    n: u32,
) -> bool {
    // Through memory, so that the compiler forgets what it knows and keeps the checks behind.
    // SAFETY: this CPU's scratch; the verifier sees all bounds.
    unsafe {
        let p = &raw mut (*scratch).run.pad;
        p.write_volatile(n);
        let n = p.read_volatile();
        if n == 0 || n > BLOCK {
            return false;
        }
        let buffer = (&raw mut (*scratch).buffer).cast::<u8>().add(FRONT);
        if bpf_skb_load_bytes(skb.cast(), at, buffer.cast(), n) != 0 {
            return false;
        }
        let mut words = Words { scratch, blocks, from, n, same: 1 };
        bpf_loop(BLOCK / 8, words_alike as *const () as *mut c_void, (&raw mut words).cast(), 0);
        words.same != 0
    }
}

struct Words {
    scratch: *mut Scratch,
    blocks: *const Blocks,
    from: u32,
    n: u32,
    same: u32,
}

/// Compares one word. Returns 1 to end the loop.
unsafe extern "C" fn words_alike(i: u64, words: *mut Words) -> i64 {
    // SAFETY: `alike` passes its `words`; offsets are masked below the sizes of what they are added to.
    unsafe {
        let w = &mut *words;
        let at = (i as u32 * 8) & (BLOCK - 1);
        if at >= w.n {
            return 1;
        }
        let left = w.n - at;
        let new = word::load::<0>((&raw const (*w.scratch).buffer).cast::<u8>().add(FRONT + at as usize));
        let from = w.from & (SLOTS * BLOCK - 1);
        let old = word::load::<0>((&raw const (*w.blocks).0).cast::<u8>().add((from + at) as usize));
        if word::keep_to(new ^ old, left) != 0 {
            w.same = 0;
            return 1;
        }
        0
    }
}
