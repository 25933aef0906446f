//! `lower` and `upper` as Go has them: character by character, so that `upper("ß")` is no `"SS"` and a text stays as many
//! characters as it was.

use regorus::Value;

use super::{Answer, args::text, limits::room};

/// `lower(text)`
pub fn lower(args: &[Value]) -> Answer {
    mapped(&text(args, 0)?, |c| match c {
        // The one whose lower case is two characters; Unicode's simple mapping has the first.
        'İ' => 'i',
        c => single(c.to_lowercase()).unwrap_or(c),
    })
}

/// `upper(text)`
pub fn upper(args: &[Value]) -> Answer {
    mapped(&text(args, 0)?, |c| single(c.to_uppercase()).unwrap_or_else(|| titled(c)))
}

fn mapped(text: &str, to: impl Fn(char) -> char) -> Answer {
    let out: String = text.chars().map(to).collect();
    room(out.len())?;
    Ok(Value::from(out))
}

/// The only character of a mapping, if it is one.
fn single(mut mapping: impl Iterator<Item = char>) -> Option<char> {
    let first = mapping.next()?;
    mapping.next().is_none().then_some(first)
}

/// The simple upper case of a character whose full one is several: Greek vowels with an iota below have one, all others are
/// their own (UnicodeData, column 12).
fn titled(c: char) -> char {
    let shift = match c {
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => 8,
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => 9,
        _ => 0,
    };
    char::from_u32(u32::from(c) + shift).unwrap_or(c)
}
