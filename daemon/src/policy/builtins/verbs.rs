//! What `sprintf` writes for one value: the verbs of Go's `fmt`, for the kinds of values that OPA hands to it.

use regorus::Value;

use super::{
    Fault, limits,
    quote::{is_printable, quoted, quoted_char},
    real,
};

/// What stands between `%` and the verb.
#[derive(Clone, Copy, Default)]
pub struct Flags {
    /// `#`
    pub sharp: bool,
    /// `#` of `%#v`
    pub syntax: bool,
    /// `0`
    pub zero: bool,
    /// `+`
    pub plus: bool,
    /// `-`
    pub minus: bool,
    /// A space.
    pub space: bool,
    /// Least characters.
    pub width: Option<usize>,
    /// What follows the point.
    pub precision: Option<usize>,
}

impl Flags {
    /// Zeros to the left are a matter of a width alone.
    fn zeros(self) -> Option<usize> {
        self.width.filter(|_| self.zero && !self.minus)
    }

    /// Writes a text as wide as it must be.
    fn pad(self, out: &mut String, text: &str) -> Result<(), Fault> {
        let missing = self.width.map_or(0, |w| w.saturating_sub(text.chars().count()));
        limits::work(out.len().saturating_add(missing).saturating_add(text.len()), limits::TEXT)?;
        let fill = if self.zero && !self.minus { "0" } else { " " };
        let (left, right) = if self.minus { (0, missing) } else { (missing, 0) };
        out.push_str(&fill.repeat(left));
        out.push_str(text);
        out.push_str(&fill.repeat(right));
        Ok(())
    }
}

/// A value as OPA hands it to Go.
pub enum Given {
    /// `int64`
    Int(i64),
    /// `*big.Int`: the number itself, and its digits to base ten.
    Big(Value, String),
    /// `float64`
    Real(f64),
    /// `string`: also of all else, as Rego writes it.
    Text(String),
}

impl Given {
    pub fn of(value: &Value) -> Self {
        let Value::Number(n) = value else {
            return Self::Text(if let Value::String(s) = value { s.to_string() } else { shown(value) });
        };
        let whole = |n: i128| Self::Big(Value::from(n), n.to_string());
        match (n.as_i64(), n.as_i128(), n.as_big(), n.as_f64()) {
            (Some(n), ..) => Self::Int(n),
            (_, Some(n), ..) => whole(n),
            (_, _, Some(_), _) => Self::Big(value.clone(), n.format_decimal()),
            (.., real) => Self::Real(real.unwrap_or(f64::INFINITY)),
        }
    }

    /// Its type's name.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Int(_) => "int64",
            Self::Big(..) => "*big.Int",
            Self::Real(_) => "float64",
            Self::Text(_) => "string",
        }
    }
}

/// A value as Rego writes it.
fn shown(value: &Value) -> String {
    let list = |all: &mut dyn Iterator<Item = &Value>| all.map(shown).collect::<Vec<_>>().join(", ");
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => match n.as_f64() {
            Some(real) if !n.is_integer() => real::json(real),
            _ => n.format_decimal(),
        },
        Value::String(s) => quoted(s, false),
        Value::Array(all) => format!("[{}]", list(&mut all.iter())),
        Value::Set(all) if all.is_empty() => "set()".to_owned(),
        Value::Set(all) => format!("{{{}}}", list(&mut all.iter_sorted())),
        Value::Object(all) => {
            let member = |(k, v): (&Value, &Value)| format!("{}: {}", shown(k), shown(v));
            format!("{{{}}}", all.iter_sorted().map(member).collect::<Vec<_>>().join(", "))
        }
        Value::Undefined => String::new(),
    }
}

/// Writes a value by a verb.
pub fn print(out: &mut String, value: &Given, verb: char, flags: Flags) -> Result<(), Fault> {
    if verb == 'T' {
        return string(out, value.kind(), 's', flags).map(|_| ());
    }
    let known = match value {
        Given::Int(n) => integer(out, *n, verb, flags)?,
        Given::Big(n, digits) => big(out, n, digits, verb, flags)?,
        Given::Real(n) => float(out, *n, verb, flags)?,
        Given::Text(s) => string(out, s, verb, flags)?,
    };
    if !known {
        let kind = value.kind().trim_start_matches('*');
        out.extend(["%!", &verb.to_string(), "(", kind, "="]);
        // Go's big numbers do it themselves, and forget the flags.
        let flags = if matches!(value, Given::Big(..)) { Flags::default() } else { flags };
        print(out, value, 'v', flags)?;
        out.push(')');
    }
    Ok(())
}

fn integer(out: &mut String, n: i64, verb: char, flags: Flags) -> Result<bool, Fault> {
    let size = n.unsigned_abs();
    let digits = match verb {
        'v' | 'd' => size.to_string(),
        'b' => format!("{size:b}"),
        'o' | 'O' => format!("{size:o}"),
        'x' => format!("{size:x}"),
        'X' => format!("{size:X}"),
        'c' | 'q' | 'U' => {
            let plain = Flags { zero: flags.zero && verb != 'U', ..flags };
            plain.pad(out, &character(n, verb, flags)?)?;
            return Ok(true);
        }
        _ => return Ok(false),
    };
    if flags.precision == Some(0) && n == 0 {
        Flags { zero: false, ..flags }.pad(out, "")?;
        return Ok(true);
    }
    whole(out, n < 0, &digits, verb, flags).map(|()| true)
}

/// An integer as a character.
fn character(n: i64, verb: char, flags: Flags) -> Result<String, Fault> {
    let c = u32::try_from(n).ok().and_then(char::from_u32);
    if verb != 'U' {
        let c = c.unwrap_or(char::REPLACEMENT_CHARACTER);
        return Ok(if verb == 'c' { c.to_string() } else { quoted_char(c, flags.plus) });
    }
    let width = flags.precision.unwrap_or(0).max(4);
    limits::work(width, limits::TEXT)?;
    let code = format!("U+{:0>width$}", format!("{n:X}"));
    Ok(match c {
        Some(c) if flags.sharp && is_printable(c) => format!("{code} '{c}'"),
        _ => code,
    })
}

/// Digits with their sign, their base and the zeros before them.
fn whole(out: &mut String, negative: bool, digits: &str, verb: char, flags: Flags) -> Result<(), Fault> {
    let sign = if negative {
        "-"
    } else if flags.plus {
        "+"
    } else if flags.space {
        " "
    } else {
        ""
    };
    let least = flags.precision.or_else(|| flags.zeros().map(|w| w.saturating_sub(sign.len()))).unwrap_or(0);
    limits::work(least, limits::TEXT)?;
    let digits = format!("{digits:0>least$}");
    let base = match verb {
        'O' => "0o",
        'b' if flags.sharp => "0b",
        'o' if flags.sharp && !digits.starts_with('0') => "0",
        'x' if flags.sharp => "0x",
        'X' if flags.sharp => "0X",
        _ => "",
    };
    Flags { zero: false, ..flags }.pad(out, &format!("{sign}{base}{digits}"))
}

fn big(out: &mut String, n: &Value, digits: &str, verb: char, flags: Flags) -> Result<bool, Fault> {
    let (negative, decimal) = digits.strip_prefix('-').map_or((false, digits), |d| (true, d));
    let Value::Number(n) = n else { return Ok(false) };
    let n = n.abs();
    let digits = match verb {
        'v' | 's' | 'd' => decimal.to_owned(),
        'b' => n.format_bin(),
        'o' | 'O' => n.format_octal(),
        'x' => n.format_hex(),
        'X' => n.format_big_hex(),
        _ => return Ok(false),
    };
    whole(out, negative, &digits, verb, flags).map(|()| true)
}

fn float(out: &mut String, n: f64, verb: char, flags: Flags) -> Result<bool, Fault> {
    // No more than Go would take a width for; all digits of any number are fewer than that.
    let precision = flags.precision;
    limits::work(precision.unwrap_or(0), limits::TEXT)?;
    let mut text = match verb {
        'v' => real::general(n, precision, false),
        'g' | 'G' => real::general(n, precision, verb == 'G'),
        'e' | 'E' => real::scientific(n, precision.unwrap_or(6), verb == 'E'),
        'f' | 'F' => format!("{n:.*}", precision.unwrap_or(6)),
        'b' => real::binary(n),
        'x' | 'X' => real::hexadecimal(n, precision, verb == 'X'),
        _ => return Ok(false),
    };
    if flags.sharp && verb != 'b' {
        text = real::with_point(&text, verb, precision);
    }
    let (sign, size) = match text.strip_prefix('-') {
        Some(size) => ("-", size),
        None if flags.plus => ("+", text.as_str()),
        None if flags.space => (" ", text.as_str()),
        None => ("", text.as_str()),
    };
    if let Some(width) = flags.zeros().filter(|_| !sign.is_empty()) {
        let width = width.saturating_sub(1);
        out.push_str(sign);
        Flags { width: Some(width), ..flags }.pad(out, size)?;
    } else {
        flags.pad(out, &format!("{sign}{size}"))?;
    }
    Ok(true)
}

fn string(out: &mut String, text: &str, verb: char, flags: Flags) -> Result<bool, Fault> {
    let end = flags.precision.and_then(|n| text.char_indices().nth(n)).map_or(text.len(), |(at, _)| at);
    let cut = text.get(..end).unwrap_or(text);
    match verb {
        's' => flags.pad(out, cut)?,
        'v' if !flags.syntax => flags.pad(out, cut)?,
        'v' | 'q' => {
            let raw = |c: char| (c >= ' ' || c == '\t') && !matches!(c, '`' | '\u{7f}' | '\u{feff}');
            let text = if flags.sharp && cut.chars().all(raw) {
                format!("`{cut}`")
            } else {
                quoted(cut, flags.plus)
            };
            flags.pad(out, &text)?;
        }
        'x' | 'X' => {
            let bytes = text.as_bytes();
            let bytes = bytes.get(..flags.precision.unwrap_or(bytes.len())).unwrap_or(bytes);
            limits::work(bytes.len().saturating_mul(5), limits::TEXT)?;
            let (hex, base) = if verb == 'x' {
                (bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>(), "0x")
            } else {
                (bytes.iter().map(|b| format!("{b:02X}")).collect(), "0X")
            };
            let base = if flags.sharp && !bytes.is_empty() { base } else { "" };
            let between = if flags.space { format!(" {base}") } else { String::new() };
            flags.pad(out, &format!("{base}{}", hex.join(&between)))?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}
