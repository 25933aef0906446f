//! Reads the running kernel's type information (BTF) for where a field lies.

use std::fs;

/// Where the kernel shows it.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
/// `BTF_KIND_STRUCT`.
const STRUCT: u32 = 4;

/// The offset of a field of a kernel struct, in bytes; `None` where it cannot be told.
pub(super) fn offset(of: &str, field: &str) -> Option<u32> {
    find(&fs::read(VMLINUX).ok()?, of, field)
}

/// Looks a field up. The format is that of the kernel's `Documentation/bpf/btf.rst`.
fn find(btf: &[u8], of: &str, field: &str) -> Option<u32> {
    let word = |at: usize| Some(u32::from_ne_bytes(btf.get(at..at + 4)?.try_into().ok()?));
    let [magic, header, types, types_len, strings, _] =
        [word(0)?, word(4)?, word(8)?, word(12)?, word(16)?, word(20)?];
    if magic & 0xffff != 0xeb9f {
        return None;
    }
    let strings = header as usize + strings as usize;
    let is = |name: u32, text: &str| {
        let at = strings + name as usize;
        btf.get(at..at + text.len() + 1).is_some_and(|b| b.strip_suffix(b"\0") == Some(text.as_bytes()))
    };
    let mut at = header as usize + types as usize;
    let end = at + types_len as usize;
    while at < end {
        let (name, info) = (word(at)?, word(at + 4)?);
        let (kind, members, flagged) = (info >> 24 & 31, info as usize & 0xffff, info >> 31 != 0);
        at += 12;
        if kind == STRUCT && is(name, of) {
            for i in 0..members {
                let at = at + i * 12;
                if is(word(at)?, field) {
                    let bits = word(at + 8)?;
                    return Some(if flagged { bits & 0xff_ffff } else { bits } / 8);
                }
            }
            return None;
        }
        at += match kind {
            // Integers, variables, declaration tags.
            1 | 14 | 17 => 4,
            // Arrays.
            3 => 12,
            // Structs, unions, data sections, 64-bit enumerations.
            4 | 5 | 15 | 19 => 12 * members,
            // Enumerations, function prototypes.
            6 | 13 => 8 * members,
            _ => 0,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A struct `s` with the fields `a` at 0 and `b` at 8, behind an integer.
    fn sample() -> Vec<u8> {
        let strings = b"\0s\0a\0b\0int\0";
        let types: Vec<u32> = vec![7, 1 << 24, 4, 32, 1, STRUCT << 24 | 2, 12, 3, 1, 0, 5, 1, 64];
        let len = u32::try_from(types.len() * 4).unwrap();
        let header: Vec<u32> = vec![0x0001_eb9f, 24, 0, len, len, u32::try_from(strings.len()).unwrap()];
        let words = header.iter().chain(&types).flat_map(|w| w.to_ne_bytes());
        words.chain(strings.iter().copied()).collect()
    }

    #[test]
    fn fields_are_found_and_others_are_not() {
        assert_eq!(find(&sample(), "s", "b"), Some(8));
        assert_eq!(find(&sample(), "s", "a"), Some(0));
        assert_eq!(find(&sample(), "s", "c"), None);
        assert_eq!(find(&sample(), "t", "a"), None);
    }

    #[test]
    fn what_is_cut_or_other_gives_nothing() {
        let whole = sample();
        for n in 0..whole.len() - 6 {
            assert_eq!(find(&whole[..n], "s", "b"), None, "{n} bytes");
        }
        assert_eq!(find(b"not btf at all, but long enough for a header", "s", "b"), None);
    }
}
