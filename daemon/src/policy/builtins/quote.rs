//! Quoting as Go's `strconv` does it.

use std::fmt::Write as _;

/// A text in double quotes.
pub fn quoted(text: &str, ascii: bool) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        escape(&mut out, c, '"', ascii);
    }
    out.push('"');
    out
}

/// A character in single quotes.
pub fn quoted_char(c: char, ascii: bool) -> String {
    let mut out = String::from("'");
    escape(&mut out, c, '\'', ascii);
    out.push('\'');
    out
}

fn escape(out: &mut String, c: char, quote: char, ascii: bool) {
    let short = match c {
        '\u{7}' => 'a',
        '\u{8}' => 'b',
        '\u{c}' => 'f',
        '\n' => 'n',
        '\r' => 'r',
        '\t' => 't',
        '\u{b}' => 'v',
        '\\' => '\\',
        c if c == quote => c,
        c if is_printable(c) && (c.is_ascii() || !ascii) => return out.push(c),
        c => {
            let code = u32::from(c);
            // Writing to a string does not fail.
            let _ = match code {
                0..=0x7f => write!(out, "\\x{code:02x}"),
                0x80..=0xffff => write!(out, "\\u{code:04x}"),
                _ => write!(out, "\\U{code:08x}"),
            };
            return;
        }
    };
    out.push('\\');
    out.push(short);
}

/// Whether a character is shown as it is.
pub fn is_printable(c: char) -> bool {
    match c {
        ' '..='~' => true,
        c if c.is_ascii() => false,
        // The standard library has the table, and asks it in its own quoting; marks that combine stay as they are
        // behind another character.
        c => String::from_iter(['a', c]).escape_debug().nth(1) == Some(c),
    }
}
