//! `traceparent` (W3C Trace Context §3.2).

/// The trace that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: [u8; 16],
    /// The caller's span.
    pub parent: [u8; 8],
    /// Whether the caller records it.
    pub sampled: bool,
}

impl Context {
    /// Reads the header; nothing for one that is not well formed, which is as if it were not there.
    pub fn read(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let version: [u8; 1] = hex(parts.next()?)?;
        let (trace, parent, flags): ([u8; 16], [u8; 8], [u8; 1]) =
            (hex(parts.next()?)?, hex(parts.next()?)?, hex(parts.next()?)?);
        // Version 0 ends here; later ones may go on.
        let ends = parts.next().is_none();
        let good = version[0] != 0xff && (version[0] != 0 || ends) && trace != [0; 16] && parent != [0; 8];
        good.then_some(Self { trace, parent, sampled: flags[0] & 1 != 0 })
    }
}

/// Lower-case hexadecimal of exactly this many bytes.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}
