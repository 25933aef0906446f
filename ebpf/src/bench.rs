//! Yardsticks for `cargo xtask bench kernel`: what no guard can do without. Loaded by the benchmark alone.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated::bpf_loop, macros::classifier, programs::TcContext};
use portcullis_common::{
    fingerprint::{DenyFingerprint, Sip},
    head::{FRONT, WINDOW},
    word,
};

use crate::{
    PASS,
    maps::{self, Scratch},
};

/// Nothing at all.
#[classifier]
pub fn bench_empty(_: TcContext) -> i32 {
    PASS
}

/// Strict mode, to which every segment is its connection's first.
#[classifier]
pub fn bench_strict(ctx: TcContext) -> i32 {
    crate::strict::steps::<{ crate::strict::BENCH }>(ctx.skb.skb)
}

/// The same for connections that speak HTTP/2.
#[classifier]
pub fn bench_frames(ctx: TcContext) -> i32 {
    crate::ways::frames::<{ crate::strict::BENCH_FRAMES }>(ctx.skb.skb)
}

/// Where the hash stands.
struct Env {
    scratch: *mut Scratch,
    sip: Sip,
}

/// Hashes as many bytes as the packet has behind its Ethernet header, then looks the hash up in the deny map.
#[classifier]
pub fn bench_hash(ctx: TcContext) -> i32 {
    let (Some(scratch), Some(config)) = (maps::scratch(), maps::config()) else { return PASS };
    // SAFETY: the context of the running program.
    let len = unsafe { (*ctx.skb.skb).len }.wrapping_sub(14) & (WINDOW as u32 - 1);
    let mut env = Env { scratch, sip: Sip::new(&config.scan.key) };
    // SAFETY: the callback's context is `env`, which outlives the call.
    unsafe {
        bpf_loop(len / 32, four_words as *const () as *mut c_void, (&raw mut env).cast(), 0);
    }
    let fingerprint = DenyFingerprint(env.sip.finish(0, len));
    if maps::deny(&fingerprint).is_some() { crate::DROP } else { PASS }
}

unsafe extern "C" fn four_words(i: u64, env: *mut Env) -> i64 {
    // SAFETY: `bench_hash` passes its `env`; the masked offset and 32 bytes from it lie in the buffer.
    unsafe {
        let at = (i as usize * 32) & (WINDOW - 1);
        let p = (&raw const (*(*env).scratch).buffer).cast::<u8>().add(FRONT + at);
        let mut sip = (*env).sip;
        sip.word(word::load::<0>(p));
        sip.word(word::load::<8>(p));
        sip.word(word::load::<16>(p));
        sip.word(word::load::<24>(p));
        (*env).sip = sip;
    }
    0
}
