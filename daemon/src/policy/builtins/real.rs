//! Numbers with a point, as Go's `strconv` writes them.

/// Its shortest digits, or so many of them, and the power of ten of the first one.
fn digits(n: f64, count: Option<usize>) -> (String, i32) {
    let text = match count {
        Some(count) => format!("{:.*e}", count.saturating_sub(1), n.abs()),
        None => format!("{:e}", n.abs()),
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    (digits, exponent.parse().unwrap_or(0))
}

fn sign(n: f64) -> &'static str {
    if n.is_sign_negative() { "-" } else { "" }
}

fn power(exponent: i32, letter: char) -> String {
    format!("{letter}{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.unsigned_abs())
}

/// `%e`
pub fn scientific(n: f64, precision: usize, upper: bool) -> String {
    let (digits, exponent) = digits(n, Some(precision + 1));
    placed(n, &digits, exponent, upper)
}

fn placed(n: f64, digits: &str, exponent: i32, upper: bool) -> String {
    let (first, rest) = digits.split_at(digits.len().min(1));
    let point = if rest.is_empty() { "" } else { "." };
    format!("{}{first}{point}{rest}{}", sign(n), power(exponent, if upper { 'E' } else { 'e' }))
}

/// `%g`
pub fn general(n: f64, precision: Option<usize>, upper: bool) -> String {
    let wanted = precision.map(|p| p.max(1));
    // No number has more digits than these.
    let (all, exponent) = digits(n, wanted.map(|p| p.min(1100)));
    let kept = all.trim_end_matches('0');
    let length = i32::try_from(kept.len()).unwrap_or(i32::MAX);
    let limit = match wanted.map(|p| i32::try_from(p).unwrap_or(i32::MAX)) {
        Some(p) if p > length && length > exponent => length,
        Some(p) => p,
        None => 6,
    };
    // The shortest form changes to an exponent at 21 digits.
    let limit = if wanted.is_none() { limit.max(SHORTEST) } else { limit };
    if n == 0.0 {
        return format!("{}0", sign(n));
    }
    if exponent < -4 || exponent >= limit {
        return placed(n, kept, exponent, upper);
    }
    let behind = usize::try_from(length - exponent - 1).unwrap_or(0);
    if wanted.is_some() {
        // Of its digits as they were rounded.
        let before = usize::try_from(exponent + 1).unwrap_or(0);
        let zeros = usize::try_from(-exponent - 1).unwrap_or(0);
        let text = if exponent < 0 {
            format!("0.{}{kept}", "0".repeat(zeros))
        } else if behind == 0 {
            format!("{kept:0<before$}")
        } else {
            let (whole, part) = kept.split_at(before);
            format!("{whole}.{part}")
        };
        return format!("{}{text}", sign(n));
    }
    format!("{n:.behind$}")
}

/// The power of ten from which the shortest form has an exponent.
const SHORTEST: i32 = 6;

/// As OPA writes a number of a document.
pub fn json(n: f64) -> String {
    if n != 0.0 && (n.abs() < 1e-6 || n.abs() >= 1e21) {
        let (digits, exponent) = digits(n, None);
        return placed(n, &digits, exponent, false).replace("e-0", "e-");
    }
    n.to_string()
}

/// Mantissa and power of two.
fn parts(n: f64) -> (u64, i32) {
    let bits = n.to_bits();
    let fraction = bits & ((1 << 52) - 1);
    match i32::try_from((bits >> 52) & 0x7ff).unwrap_or(0) {
        0 => (fraction, -1074),
        exponent => (fraction | (1 << 52), exponent - 1075),
    }
}

/// `%b`
pub fn binary(n: f64) -> String {
    let (mantissa, exponent) = parts(n);
    format!("{}{mantissa}p{exponent:+}", sign(n))
}

/// `%x`
pub fn hexadecimal(n: f64, precision: Option<usize>, upper: bool) -> String {
    let (mut mantissa, mut exponent) = parts(n);
    if mantissa == 0 {
        exponent = 0;
    } else {
        // One digit before the point, which is one.
        let up = mantissa.leading_zeros() - 11;
        mantissa <<= up;
        exponent += 52 - i32::try_from(up).unwrap_or(0);
    }
    if let Some(kept) = precision.filter(|p| *p < 13) {
        let drop = 52 - 4 * kept;
        let (half, rest) = (1_u64 << (drop - 1), mantissa & ((1_u64 << drop) - 1));
        mantissa >>= drop;
        if rest > half || rest == half && mantissa & 1 == 1 {
            mantissa += 1;
        }
        mantissa <<= drop;
        if mantissa >> 53 == 1 {
            mantissa >>= 1;
            exponent += 1;
        }
    }
    let part = format!("{:013x}", mantissa & ((1 << 52) - 1));
    let part = match precision {
        None => part.trim_end_matches('0').to_owned(),
        Some(kept) => format!("{:0<kept$}", part.get(..kept).unwrap_or(&part)),
    };
    let point = if part.is_empty() { "" } else { "." };
    let text = format!("{}0x{}{point}{part}{}", sign(n), mantissa >> 52, power(exponent, 'p'));
    if upper { text.to_uppercase() } else { text }
}

/// With the point, and for `%g` the zeros, that `#` asks for.
pub fn with_point(text: &str, verb: char, precision: Option<usize>) -> String {
    let hexadecimal = matches!(verb, 'x' | 'X');
    let tail = text.find(|c| matches!(c, 'p' | 'P') || (!hexadecimal && matches!(c, 'e' | 'E')));
    let (number, tail) = text.split_at(tail.unwrap_or(text.len()));
    let unsigned = number.trim_start_matches('-');
    let mut missing = if matches!(verb, 'v' | 'g' | 'G' | 'x') { precision.unwrap_or(6) } else { 0 };
    let significant = unsigned.chars().filter(|c| *c != '.').skip_while(|c| *c == '0').count();
    missing = missing.saturating_sub(significant);
    let point = if number.contains('.') {
        ""
    } else {
        missing = missing.saturating_sub(usize::from(unsigned == "0"));
        "."
    };
    format!("{number}{point}{}{tail}", "0".repeat(missing))
}
