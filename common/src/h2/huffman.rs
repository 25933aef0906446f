//! The Huffman code of RFC 7541 appendix B, four bits at a time.
//!
//! The code is canonical (codes of one length follow one another in the order of their symbols), so its lengths say
//! it all. They are turned into a machine over half bytes when the crate is compiled: no half byte ends more than one
//! symbol, since no code is shorter than five bits.

/// Length in bits of each byte's code.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26,
];
/// The symbol that ends a string in the code and may never stand in one.
const EOS: u16 = 256;
const EOS_LENGTH: u8 = 30;

/// A symbol is complete: it stands in bits 8 to 15.
pub const SYMBOL: u32 = 1 << 16;
/// The string may end here: what follows the last symbol is at most seven bits, all ones.
pub const ACCEPT: u32 = 1 << 17;
/// No string has these bits.
pub const FAIL: u32 = 1 << 18;

/// By state and half byte: the next state in bits 0 to 7, and the marks above.
pub static MACHINE: [u32; 256 * 16] = machine();

/// A place in the tree: an inner node, or a symbol behind `LEAF`.
const LEAF: u16 = 1 << 15;

/// The tree's 256 inner nodes, each with its two children; the root is 0.
const fn tree() -> [[u16; 2]; 256] {
    let mut nodes = [[0u16; 2]; 256];
    let (mut used, mut code, mut length) = (1, 0u32, 1u8);
    while length <= EOS_LENGTH {
        let mut symbol = 0;
        while symbol <= EOS {
            let own = if symbol == EOS { EOS_LENGTH } else { LENGTHS[symbol as usize] };
            if own == length {
                let (mut node, mut bit) = (0usize, length);
                while bit > 1 {
                    bit -= 1;
                    let side = (code >> bit & 1) as usize;
                    if nodes[node][side] == 0 {
                        nodes[node][side] = used;
                        used += 1;
                    }
                    node = nodes[node][side] as usize;
                }
                nodes[node][(code & 1) as usize] = LEAF | symbol;
                code += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        length += 1;
    }
    assert!(used == 256, "a complete code of 257 symbols has 256 inner nodes");
    nodes
}

const fn machine() -> [u32; 256 * 16] {
    let nodes = tree();
    let mut accept = [false; 256];
    let (mut node, mut depth) = (0u16, 0);
    while depth <= 7 {
        accept[node as usize] = true;
        node = nodes[node as usize][1];
        depth += 1;
    }
    let mut table = [0u32; 256 * 16];
    let mut state = 0u16;
    while state < 256 {
        let mut half = 0;
        while half < 16 {
            let (mut at, mut entry, mut bit) = (state, 0u32, 4);
            while bit > 0 {
                bit -= 1;
                at = nodes[at as usize][half >> bit & 1];
                if at == LEAF | EOS {
                    entry |= FAIL;
                    at = 0;
                } else if at & LEAF != 0 {
                    entry |= SYMBOL | ((at & 0xff) as u32) << 8;
                    at = 0;
                }
            }
            if accept[at as usize] {
                entry |= ACCEPT;
            }
            table[state as usize * 16 + half] = entry | at as u32;
            half += 1;
        }
        state += 1;
    }
    table
}
