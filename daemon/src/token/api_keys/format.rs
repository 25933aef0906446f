//! How a key's text looks: `<prefix>_<id>_<secret><checksum>`.
//!
//! The prefix lets secret scanners find it, the checksum (CRC-32 of all before it, as GitHub's tokens have one) lets
//! them and this daemon tell it from what only looks like one. All three parts are base 62, so that a double click marks
//! the whole. The secret has 256 bits: guessing is hopeless, and a plain keyed hash is enough at rest.

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ID: usize = 11;
const SECRET: usize = 43;
const CHECKSUM: usize = 6;

/// An id and the whole text, of 40 random bytes: 8 for the id, 32 for the secret.
pub(super) fn compose(prefix: &str, random: &[u8; 40]) -> (String, String) {
    let (id, secret) = random.split_at(8);
    let (id, mut text) = (base62(id, ID), String::with_capacity(prefix.len() + ID + SECRET + CHECKSUM + 2));
    for part in [prefix, "_", &id, "_", &zeroize::Zeroizing::new(base62(secret, SECRET))] {
        text.push_str(part);
    }
    let sum = checksum(&text);
    text.push_str(&sum);
    (id, text)
}

/// The id of a text whose form and checksum are right.
pub(super) fn id_of<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = text.strip_prefix(prefix)?.strip_prefix('_')?;
    let (id, secret) = rest.split_once('_')?;
    let is_base62 = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric());
    if id.len() != ID || secret.len() != SECRET + CHECKSUM || !is_base62(id) || !is_base62(secret) {
        return None;
    }
    let (body, sum) = text.split_at_checked(text.len() - CHECKSUM)?;
    (checksum(body) == sum).then_some(id)
}

/// Whether a text holds something of a key's form, whatever its prefix.
pub fn holds_one(text: &str) -> bool {
    let run = |s: &str| s.bytes().take_while(u8::is_ascii_alphanumeric).count();
    text.match_indices('_').any(|(at, _)| {
        let id = &text[at + 1..];
        at > 0
            && run(id) == ID
            && id[ID..].strip_prefix('_').is_some_and(|secret| run(secret) >= SECRET + CHECKSUM)
    })
}

pub(super) fn checksum(text: &str) -> String {
    let mut crc = flate2::Crc::new();
    crc.update(text.as_bytes());
    base62(&crc.sum().to_be_bytes(), CHECKSUM)
}

/// A number, big-endian, as `len` digits, which must have room for it.
fn base62(number: &[u8], len: usize) -> String {
    let mut number = zeroize::Zeroizing::new(number.to_vec());
    let mut digits = vec![b'0'; len];
    for digit in digits.iter_mut().rev() {
        let mut rest = 0_u32;
        for byte in number.iter_mut() {
            let value = rest << 8 | u32::from(*byte);
            #[allow(clippy::cast_possible_truncation, reason = "the quotient of a rest below 62 fits a byte")]
            {
                *byte = (value / 62) as u8;
            }
            rest = value % 62;
        }
        *digit = DIGITS[rest as usize % 62];
    }
    digits.iter().map(|d| char::from(*d)).collect()
}

pub(super) use crate::hex::decode as unhex;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_back_and_any_other_character_spoils_it() {
        let (id, text) = compose("pk", &[0xff; 40]);
        assert_eq!(text.len(), 2 + 1 + ID + 1 + SECRET + CHECKSUM);
        assert_eq!(id_of(&text, "pk"), Some(id.as_str()));
        for (at, digit) in text.char_indices() {
            let other = if digit == 'a' { "b" } else { "a" };
            let mut spoilt = text.clone();
            spoilt.replace_range(at..=at, other);
            assert_eq!(id_of(&spoilt, "pk"), None, "{at}");
        }
        for bad in
            ["", "pk", "pk_", "pk__", &text[1..], &text[..text.len() - 1], &format!("{text}0"), "pk_é_é"]
        {
            assert_eq!(id_of(bad, "pk"), None, "{bad}");
        }
        assert_eq!(id_of(&text, "sk"), None);
    }

    #[test]
    fn numbers_have_the_digits_that_they_have_on_paper() {
        // 0xffffffff = 4GFfc3 in base 62; CRC-32 of "123456789" is 0xcbf43926.
        assert_eq!(base62(&[0xff; 4], 6), "4gfFC3");
        assert_eq!(base62(&61_u32.to_be_bytes(), 2), "0z");
        assert_eq!(checksum("123456789"), base62(&0xcbf4_3926_u32.to_be_bytes(), 6));
        assert_eq!(unhex(&crate::hex::encode(&[0, 9, 255])), Some(vec![0, 9, 255]));
        assert_eq!((unhex("0"), unhex("zz")), (None, None));
    }
}
