//! Eight bytes at a time: loads and byte-parallel comparisons that a BPF program can afford.
//!
//! All masks are exact (no false hits above the first), with the high bit of each matching byte set.

const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
/// The high bit of each byte.
pub const HIGH: u64 = 0x8080_8080_8080_8080;
const ONES: u64 = 0x0101_0101_0101_0101;

/// Loads eight bytes, the first in the low bits, from any alignment.
///
/// # Safety
/// `p` must point at eight readable bytes.
#[inline(always)]
pub unsafe fn load<const OFFSET: usize>(p: *const u8) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let v: u64;
        // SAFETY: the caller vouches for the bytes. LLVM would cut an unaligned load into eight; every
        // architecture that the kernel's BPF loads run on here takes it whole.
        unsafe {
            core::arch::asm!(
                "{v} = *(u64 *)({p} + {o})",
                v = out(reg) v, p = in(reg) p, o = const OFFSET,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        v
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        // SAFETY: the caller vouches for the bytes.
        unsafe { u64::from_le(p.add(OFFSET).cast::<u64>().read_unaligned()) }
    }
}

/// Copies `N` words, by a load and a store each: of what is larger than a few words, LLVM makes for BPF a call of a loop
/// over bytes.
///
/// # Safety
/// `from` must point at `N` words to read, `to` at as many to write.
#[inline(always)]
pub unsafe fn copy<const N: usize>(to: *mut u64, from: *const u64) {
    for i in 0..N {
        // SAFETY: the caller vouches for the words.
        unsafe { to.add(i).write(load::<0>(from.add(i).cast()).to_le()) };
    }
}

/// `N` zeros, which LLVM for the same reason does not see to be.
#[inline(always)]
pub fn zeros<const N: usize>() -> [u64; N] {
    #[cfg(target_arch = "bpf")]
    {
        let zero: u64;
        // SAFETY: it sets a register.
        unsafe {
            core::arch::asm!("{v} = 0", v = out(reg) zero, options(pure, nomem, nostack, preserves_flags));
        }
        [zero; N]
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        [0; N]
    }
}

/// Writes zero, by one store.
#[inline(always)]
pub fn clear(x: &mut u32) {
    // SAFETY: a reference is valid to write.
    unsafe { core::ptr::write_volatile(x, 0) };
}

/// Stores a number after all that was stored before: the compiler moves nothing past it. Of the processor that is asked
/// for alone where it keeps stores in order.
///
/// # Safety
/// `p` must point at a word that may be written.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn store_after_all(p: *mut u32, v: u32) {
    // SAFETY: the caller vouches for the word.
    unsafe {
        core::arch::asm!("*(u32 *)({p} + 0) = {v}", p = in(reg) p, v = in(reg) u64::from(v), options(nostack));
    }
}

/// The number itself. The BPF verifier, which does not know `by`, forgets what it knew of it: ways that lead to different
/// numbers are one to it from here on, and are walked once.
#[inline(always)]
pub fn blur(x: u32, by: u64) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let mut y = u64::from(x) ^ by;
        // SAFETY: arithmetic on registers; the compiler does not see that the two cancel out.
        unsafe {
            core::arch::asm!(
                "{y} ^= {by}",
                y = inout(reg) y, by = in(reg) by,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        y as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = by;
        x
    }
}

/// High bit of each byte of `x` that equals `b`.
#[inline(always)]
pub const fn eq(x: u64, b: u8) -> u64 {
    let y = x ^ (ONES * b as u64);
    !(((y & LOW) + LOW) | y) & HIGH
}

/// High bit of each byte of `x` that is a control character or a space (below 0x21).
#[inline(always)]
pub const fn blank(x: u64) -> u64 {
    !(((x & LOW) + ONES * (0x7f - 0x20)) | x) & HIGH
}

/// High bit of each byte of `x` that is a control character (below 0x20).
#[inline(always)]
pub const fn control(x: u64) -> u64 {
    !(((x & LOW) + ONES * (0x7f - 0x1f)) | x) & HIGH
}

/// Index (0 to 7) of the lowest marked byte of a mask that is not zero. BPF has no count-trailing-zeros.
#[inline(always)]
pub const fn first(mask: u64) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let below = ((mask & mask.wrapping_neg()) >> 7).wrapping_sub(1) & ONES;
        (below.wrapping_mul(ONES) >> 56) as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        mask.trailing_zeros() >> 3
    }
}

/// The low `n` bytes (0 to 7) of `x`, the rest zero.
#[inline(always)]
pub const fn keep(x: u64, n: u32) -> u64 {
    x & ((1u64 << ((n & 7) * 8)) - 1)
}

/// The low `n` bytes of `x`, all of it from eight on.
#[inline(always)]
pub const fn keep_to(x: u64, n: u32) -> u64 {
    if n >= 8 { x } else { keep(x, n) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn masks_mark_exactly_the_matching_bytes(bytes: [u8; 8], b: u8) {
            let x = u64::from_le_bytes(bytes);
            for (i, byte) in bytes.iter().enumerate() {
                prop_assert_eq!(eq(x, b) >> (i * 8 + 7) & 1 == 1, *byte == b);
                prop_assert_eq!(blank(x) >> (i * 8 + 7) & 1 == 1, *byte < 0x21);
                prop_assert_eq!(control(x) >> (i * 8 + 7) & 1 == 1, *byte < 0x20);
            }
            if blank(x) != 0 {
                prop_assert_eq!(first(blank(x)) as usize, bytes.iter().position(|b| *b < 0x21).unwrap());
            }
        }

        #[test]
        fn keep_clears_the_bytes_above(x: u64, n in 0u32..8) {
            let mut bytes = x.to_le_bytes();
            bytes[n as usize..].fill(0);
            prop_assert_eq!(keep(x, n), u64::from_le_bytes(bytes));
        }
    }
}
