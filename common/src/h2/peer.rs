//! A client for tests: frames around header blocks that another implementation of HPACK wrote.

use httlib_hpack::Encoder;

/// Ends a stream, ends a block.
pub const END_STREAM: u8 = 1;
/// Ends a header block.
pub const END_HEADERS: u8 = 4;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The frames of a client that begins, behind its preface.
pub fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[])
}

/// How a block is put into frames.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Where it is cut into frames.
    pub cuts: Vec<usize>,
    /// Padding of the first frame.
    pub padding: Option<u8>,
    /// The first frame has a priority.
    pub priority: bool,
}

/// A block's frames.
pub fn block(stream: u32, fragment: &[u8], shape: &Shape) -> Vec<u8> {
    let mut cuts: Vec<usize> = shape.cuts.iter().map(|c| c % (fragment.len() + 1)).collect();
    cuts.extend([0, fragment.len()]);
    cuts.sort_unstable();
    let parts: Vec<&[u8]> = cuts.windows(2).map(|w| &fragment[w[0]..w[1]]).collect();
    let mut out = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let mut flags = if i + 1 == parts.len() { END_HEADERS } else { 0 };
        if i != 0 {
            out.extend(frame(9, flags, stream, part));
            continue;
        }
        flags |= END_STREAM;
        let mut payload = Vec::new();
        if let Some(n) = shape.padding {
            flags |= 8;
            payload.push(n);
        }
        if shape.priority {
            flags |= 0x20;
            payload.extend([0x80, 0, 0, 3, 16]);
        }
        payload.extend_from_slice(part);
        payload.extend(vec![0; usize::from(shape.padding.unwrap_or(0))]);
        out.extend(frame(1, flags, stream, &payload));
    }
    out
}

/// How one field is written.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub coded: bool,
    pub indexed: bool,
    pub best: bool,
    pub never: bool,
}

/// Writes fields as another implementation does.
pub fn encode(encoder: &mut Encoder<'_>, fields: &[(Vec<u8>, Vec<u8>, Way)], out: &mut Vec<u8>) {
    for (name, value, way) in fields {
        let mut flags = 0;
        if way.coded {
            flags |= Encoder::HUFFMAN_NAME | Encoder::HUFFMAN_VALUE;
        }
        if way.indexed {
            flags |= Encoder::WITH_INDEXING;
        } else if way.never {
            flags |= Encoder::NEVER_INDEXED;
        }
        if way.best {
            flags |= Encoder::BEST_FORMAT;
        }
        encoder.encode((name.clone(), value.clone(), flags), out).unwrap();
    }
}
