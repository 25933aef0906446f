//! Globs as OPA reads them, as regular expressions.

use super::Fault;

/// The expression for a glob, whose `*` and `?` stop at certain characters.
pub fn regex(glob: &str, apart: &str) -> Result<String, Fault> {
    let not = if apart.is_empty() {
        "(?s:.)".to_owned()
    } else {
        let all: String = apart.chars().map(escaped).collect();
        format!("[^{all}]")
    };
    let mut out = String::from("^(?:");
    let mut level = 0_usize;
    let mut chars = glob.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.peek() == Some(&'*') => {
                while chars.next_if_eq(&'*').is_some() {}
                out.push_str("(?s:.)*");
            }
            '*' => out.extend([&not, "*"]),
            '?' => out.push_str(&not),
            '\\' => out.push_str(&escaped(chars.next().ok_or("unexpected end of input")?)),
            '[' => {
                let negated = chars.next_if_eq(&'!').is_some();
                out.push_str(if negated { "[^" } else { "[" });
                let mut list = Vec::new();
                loop {
                    match chars.next().ok_or("unexpected end of input")? {
                        ']' => break,
                        '\\' => list.push(chars.next().ok_or("unexpected end of input")?),
                        c => list.push(c),
                    }
                }
                match list.as_slice() {
                    [] | [.., '-'] => return Err("could not parse range".into()),
                    // One range, or a list: never both.
                    [low, '-', high] => {
                        out.extend([escaped(*low), "-".into(), escaped(*high)]);
                    }
                    all => out.extend(all.iter().map(|c| escaped(*c))),
                }
                out.push(']');
            }
            '{' => {
                level += 1;
                out.push_str("(?:");
            }
            '}' if level > 0 => {
                level -= 1;
                out.push(')');
            }
            ',' if level > 0 => out.push('|'),
            c => out.push_str(&escaped(c)),
        }
    }
    // One that is left open ends with the pattern.
    out.push_str(&")".repeat(level));
    out.push_str(")$");
    Ok(out)
}

/// A character that stands for itself, also within brackets.
fn escaped(c: char) -> String {
    format!("\\x{{{:x}}}", u32::from(c))
}
