//! Texts that people read in a line: which characters they may not have, and how those are shown where one has some.
//!
//! A terminal obeys control characters, and shows what stands between bidirectional overrides in another order: such a
//! text could look like another one in a listing or in the audit log.

/// Whether a character is none for one line of text: controls (C0, DEL, C1), separators of lines and paragraphs, and
/// what turns the direction of writing.
pub(crate) const fn is_odd(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

/// Whether a text has none of them.
pub(crate) fn is_plain(text: &str) -> bool {
    !text.chars().any(is_odd)
}

/// The text, with each of them as its code.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_odd(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

/// As much of its beginning as has at most so many bytes.
pub(crate) fn beginning(text: &str, most: usize) -> &str {
    let end = (0..=text.len().min(most)).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown_as_its_code() {
        for odd in
            ["\0", "\n", "\u{1b}[2J", "\u{7f}", "\u{9b}", "\u{2028}", "\u{2029}", "\u{202e}", "\u{2066}"]
        {
            assert!(!is_plain(odd), "{odd:?}");
            assert!(is_plain(&escaped(odd)) && escaped(odd).starts_with("\\u{"), "{odd:?}");
        }
        for plain in ["", "Zoë 東京 \\n", "שלום", "\u{a0}"] {
            assert!(is_plain(plain) && escaped(plain) == plain, "{plain:?}");
        }
        assert_eq!((beginning("aö", 2), beginning("aö", 9)), ("a", "aö"));
    }
}
