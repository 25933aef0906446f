//! Patterns of RE2, in which `\w`, `\d`, `\s`, `\b` and `[[:alpha:]]` mean ASCII, as patterns of `regex`, in which they
//! mean Unicode: `^\d+$` is not to let through digits that no other program takes for such.

/// A pattern that means here what the given one means to OPA.
pub fn ascii(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars();
    // Whether within `[…]`.
    let mut class = false;
    // Whether braces belong to what is before them: `\p{…}`.
    let mut braces = false;
    while let Some(c) = chars.next() {
        let inside = class;
        match c {
            '\\' => {
                let Some(c) = chars.next() else {
                    out.push('\\');
                    break;
                };
                if c == 'Q' && !inside {
                    // Text as it is, to `\E` or the end.
                    let (literal, behind) = match chars.as_str().split_once("\\E") {
                        Some((literal, behind)) => (literal, behind),
                        None => (chars.as_str(), ""),
                    };
                    out.push_str(&regex::escape(literal));
                    chars = behind.chars();
                    continue;
                }
                escape(&mut out, c, inside);
                braces = matches!(c, 'p' | 'P' | 'x');
                continue;
            }
            '[' if inside && chars.as_str().starts_with(':') => out.push('['),
            // RE2 has no classes in classes: it is a character.
            '[' if inside => out.push_str("\\["),
            '[' => {
                class = true;
                out.push('[');
                if let Some(rest) = chars.as_str().strip_prefix('^') {
                    out.push('^');
                    chars = rest.chars();
                }
                // The first one closes nothing.
                if let Some(rest) = chars.as_str().strip_prefix(']') {
                    out.push_str("\\]");
                    chars = rest.chars();
                }
                continue;
            }
            ']' if inside => {
                class = false;
                out.push(']');
                continue;
            }
            // Operators between classes here, characters there.
            '&' | '~' if inside => out.extend(['\\', c]),
            '-' if inside && chars.as_str().starts_with('-') => out.push_str("\\-"),
            // No repetition: the character itself.
            '{' if !inside && !braces && !repeats(chars.as_str()) => out.push_str("\\{"),
            c => out.push(c),
        }
        braces = false;
        // `[:alpha:]` ends with a bracket that does not end the class.
        if inside
            && c == '['
            && chars.as_str().starts_with(':')
            && let Some((name, rest)) = chars.as_str().split_once(":]")
        {
            out.push_str(name);
            out.push_str(":]");
            chars = rest.chars();
        }
    }
    out
}

/// Whether what follows a brace makes it a repetition.
fn repeats(behind: &str) -> bool {
    let Some((inner, _)) = behind.split_once('}') else { return false };
    let (least, most) = inner.split_once(',').unwrap_or((inner, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    !least.is_empty() && digits(least) && digits(most)
}

/// What follows a backslash.
fn escape(out: &mut String, c: char, inside: bool) {
    match (c, inside) {
        ('d', false) => out.push_str("[0-9]"),
        ('d', true) => out.push_str("0-9"),
        ('D', _) => out.push_str("[^0-9]"),
        ('w', false) => out.push_str("[0-9A-Za-z_]"),
        ('w', true) => out.push_str("0-9A-Za-z_"),
        ('W', _) => out.push_str("[^0-9A-Za-z_]"),
        ('s', false) => out.push_str("[\\t\\n\\x0c\\r ]"),
        ('s', true) => out.push_str("\\t\\n\\x0c\\r "),
        ('S', _) => out.push_str("[^\\t\\n\\x0c\\r ]"),
        // Angle brackets are themselves; here they would be ends of words.
        ('<' | '>', _) => out.push(c),
        ('b', false) => out.push_str("(?-u:\\b)"),
        _ => out.extend(['\\', c]),
    }
}
