//! `units.parse` and `units.parse_bytes`, digit by digit: what a client writes (`1e999999999`) is never multiplied out.

use regorus::Value;

use super::{Answer, Fault, args::text};

/// Longest amount in digits, with the zeros that its exponent stands for.
const DIGITS: u64 = 10_000;
/// The largest exponent that OPA reads. Above [`DIGITS`] it still gives a number, and we have none.
const OPAS: u64 = 1_000_000;

/// `units.parse("10Ki")`
pub fn parse(args: &[Value]) -> Answer {
    let text = text(args, 0)?.replace('"', "");
    let (amount, unit) = parts(&text)?;
    // The first letter's case tells `m` from `M`.
    let (first, rest) = unit.split_at(unit.chars().next().map_or(0, char::len_utf8));
    let unit = match (first, rest.to_lowercase().as_str()) {
        ("", "") => (10, 0),
        ("m", "") => (10, -3),
        (_, rest) => scale(first, rest).ok_or_else(|| format!("unit {unit} not recognized"))?,
    };
    let (negative, whole, part) = multiplied(amount, unit)?;
    // Ten places, as OPA writes what is no whole number.
    let (kept, rest) = part.split_at(part.len().min(10));
    let mut digits: Vec<u8> = whole.bytes().chain(kept.bytes()).collect();
    let mut places = kept.len();
    if rest.bytes().next().is_some_and(|d| d >= b'5') {
        increment(&mut digits);
    }
    while places > 0 && digits.last() == Some(&b'0') {
        digits.pop();
        places -= 1;
    }
    let point = digits.len() - places;
    let sign = if negative && digits.iter().any(|d| *d != b'0') { "-" } else { "" };
    let digits = String::from_utf8_lossy(&digits);
    let (whole, part) = digits.split_at(point);
    number(&if part.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") })
}

/// `units.parse_bytes("10KiB")`
pub fn parse_bytes(args: &[Value]) -> Answer {
    let text = text(args, 0)?.replace('"', "");
    let (amount, unit) = parts(&text)?;
    let lower = unit.to_lowercase();
    let (first, rest) = lower.split_at(lower.chars().next().map_or(0, char::len_utf8));
    let unit = match (first, rest.strip_suffix('b').unwrap_or(rest)) {
        ("", _) => (10, 0),
        ("m", "") => (10, 6),
        (first, rest) => scale(first, rest).ok_or_else(|| format!("byte unit {unit} not recognized"))?,
    };
    let (negative, whole, _) = multiplied(amount, unit)?;
    number(&if negative && whole != "0" { format!("-{whole}") } else { whole })
}

/// What a unit multiplies by: a base and an exponent.
fn scale(first: &str, rest: &str) -> Option<(u8, i64)> {
    let step = match first {
        "K" | "k" => 1,
        "M" | "m" => 2,
        "G" | "g" => 3,
        "T" | "t" => 4,
        "P" | "p" => 5,
        "E" | "e" => 6,
        _ => return None,
    };
    match rest {
        "" => Some((10, 3 * step)),
        "i" => Some((2, 10 * step)),
        _ => None,
    }
}

/// The amount and the unit behind it.
fn parts(text: &str) -> Result<(&str, &str), Fault> {
    if text.contains(' ') {
        return Err("spaces not allowed in resource strings".into());
    }
    let bytes = text.as_bytes();
    let ends = |i: usize| match bytes[i] {
        b'0'..=b'9' | b'.' | b'+' | b'-' => false,
        // An exponent, or the unit `E`.
        b'e' | b'E' => !matches!(bytes.get(i + 1), Some(b'0'..=b'9' | b'+' | b'-')),
        _ => true,
    };
    let (amount, unit) = text.split_at((0..bytes.len()).find(|i| ends(*i)).unwrap_or(bytes.len()));
    if amount.is_empty() { Err("no amount provided".into()) } else { Ok((amount, unit)) }
}

/// An amount in a unit: whether it is negative, its digits before the point, and those behind.
fn multiplied(amount: &str, (base, exponent): (u8, i64)) -> Result<(bool, String, String), Fault> {
    let wrong = || Fault::from("could not parse amount to a number");
    let unsigned = amount.strip_prefix(['+', '-']).unwrap_or(amount);
    let (mantissa, power) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let magnitude = power.strip_prefix(['+', '-']).unwrap_or(power);
    if whole.is_empty() && part.is_empty()
        || !plain(whole)
        || !plain(part)
        || magnitude.is_empty()
        || !plain(magnitude)
    {
        return Err(wrong());
    }
    let size = magnitude.trim_start_matches('0');
    let size = if size.len() > 9 { u64::MAX } else { size.parse().unwrap_or(0) };
    if size > OPAS {
        return Err("exponent too large".into());
    }
    let wanted = size + u64::try_from(mantissa.len()).unwrap_or(u64::MAX - OPAS);
    if wanted > DIGITS {
        return Err(Fault::Limit { wanted, limit: DIGITS });
    }
    let size = i64::try_from(size).unwrap_or_default();
    let mut digits: Vec<u8> = whole.bytes().chain(part.bytes()).collect();
    // How many of the digits stand behind the point; fewer than none is zeros to come.
    let mut behind =
        i64::try_from(part.len()).unwrap_or_default() - if power.starts_with('-') { -size } else { size };
    match base {
        2 => times(&mut digits, 1_u64 << exponent),
        _ => behind -= exponent,
    }
    while behind > 0 && digits.last() == Some(&b'0') {
        digits.pop();
        behind -= 1;
    }
    digits.resize(digits.len() + usize::try_from(-behind).unwrap_or(0), b'0');
    let behind = usize::try_from(behind).unwrap_or(0);
    let missing = (behind + 1).saturating_sub(digits.len());
    digits.splice(0..0, std::iter::repeat_n(b'0', missing));
    let text = String::from_utf8_lossy(&digits);
    let (whole, part) = text.split_at(digits.len() - behind);
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    Ok((amount.starts_with('-'), whole.to_owned(), part.to_owned()))
}

/// Multiplies a decimal number.
fn times(digits: &mut Vec<u8>, by: u64) {
    let mut carry: u128 = 0;
    for digit in digits.iter_mut().rev() {
        carry += u128::from(*digit - b'0') * u128::from(by);
        *digit = b'0' + u8::try_from(carry % 10).unwrap_or_default();
        carry /= 10;
    }
    if carry > 0 {
        digits.splice(0..0, carry.to_string().into_bytes());
    }
}

/// Adds one in the last place.
fn increment(digits: &mut Vec<u8>) {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
    digits.insert(0, b'1');
}

fn number(text: &str) -> Answer {
    Value::from_numeric_string(text).map_err(|e| e.to_string().into())
}
