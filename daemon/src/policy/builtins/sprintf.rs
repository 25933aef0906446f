//! `sprintf`: the format as Go's `fmt` reads it. [`super::verbs`] writes the values.

use regorus::Value;

use super::{
    Answer, Fault,
    args::text,
    limits,
    verbs::{Flags, Given, print},
};

/// The size above which Go takes no further digit of a width.
const LARGE: usize = 1_000_000;

/// `sprintf(format, values)`
pub fn sprintf(args: &[Value]) -> Answer {
    let format = text(args, 0)?;
    let Some(Value::Array(values)) = args.get(1) else { return Err("operand 2 must be array".into()) };
    let given: Vec<Given> = values.iter().map(Given::of).collect();
    let format: Vec<char> = format.chars().collect();
    let mut reader = Reader { format: &format, at: 0, given: &given, next: 0, reordered: false, good: true };
    let mut out = String::new();
    while reader.step(&mut out)? {
        limits::work(out.len(), limits::TEXT)?;
    }
    if !reader.reordered && reader.next < given.len() {
        out.push_str("%!(EXTRA ");
        for (i, value) in given.iter().skip(reader.next).enumerate() {
            out.push_str(if i > 0 { ", " } else { "" });
            out.push_str(value.kind());
            out.push('=');
            print(&mut out, value, 'v', Flags::default())?;
        }
        out.push(')');
    }
    limits::room(out.len())?;
    Ok(Value::from(out))
}

/// Where in the format, and among the values, the reading is.
struct Reader<'a> {
    format: &'a [char],
    at: usize,
    given: &'a [Given],
    next: usize,
    /// Whether values were named by number: then none is too many.
    reordered: bool,
    /// Whether the number of the present one is good.
    good: bool,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.format.get(self.at).copied()
    }

    /// Passes a character if it is the next.
    fn pass(&mut self, c: char) -> bool {
        let is = self.peek() == Some(c);
        self.at += usize::from(is);
        is
    }

    /// Reads plain text, or a verb and all before it. False at the end.
    fn step(&mut self, out: &mut String) -> Result<bool, Fault> {
        let Some(c) = self.peek() else { return Ok(false) };
        self.at += 1;
        if c != '%' {
            out.push(c);
            return Ok(true);
        }
        self.good = true;
        let mut flags = self.flags();
        let mut numbered = self.number();
        if self.pass('*') {
            let (width, negative) = self.taken();
            if width.is_none() {
                out.push_str("%!(BADWIDTH)");
            }
            flags.minus |= negative;
            flags.width = width;
            numbered = false;
        } else {
            flags.width = self.digits(self.format.len());
            self.good &= !(numbered && flags.width.is_some());
        }
        if self.pass('.') {
            self.good &= !numbered;
            numbered = self.number();
            if self.pass('*') {
                let (precision, negative) = self.taken();
                flags.precision = precision.filter(|_| !negative);
                if flags.precision.is_none() {
                    out.push_str("%!(BADPREC)");
                }
                numbered = false;
            } else {
                flags.precision = Some(self.digits(self.format.len()).unwrap_or(0));
            }
        }
        if !numbered {
            self.number();
        }
        let Some(verb) = self.peek() else {
            out.push_str("%!(NOVERB)");
            return Ok(true);
        };
        self.at += 1;
        if verb == '%' {
            out.push('%');
        } else if !self.good {
            out.extend(["%!", &verb.to_string(), "(BADINDEX)"]);
        } else if let Some(value) = self.given.get(self.next) {
            self.next += 1;
            if matches!(verb, 'v' | 'w') {
                (flags.syntax, flags.sharp, flags.plus) = (flags.sharp, false, false);
            }
            print(out, value, verb, flags)?;
        } else {
            out.extend(["%!", &verb.to_string(), "(MISSING)"]);
        }
        Ok(true)
    }

    fn flags(&mut self) -> Flags {
        let mut flags = Flags::default();
        while let Some(c) = self.peek() {
            match c {
                '#' => flags.sharp = true,
                '0' => flags.zero = true,
                '+' => flags.plus = true,
                '-' => flags.minus = true,
                ' ' => flags.space = true,
                _ => break,
            }
            self.at += 1;
        }
        flags
    }

    /// A decimal number that ends before a place, if there is one here. One too large ends the format, as in Go.
    fn digits(&mut self, end: usize) -> Option<usize> {
        let mut number = None;
        while let Some(digit) = self.peek().filter(|_| self.at < end).and_then(|c| c.to_digit(10)) {
            if number.unwrap_or(0) > LARGE {
                self.at = end;
                return None;
            }
            number = Some(number.unwrap_or(0) * 10 + usize::try_from(digit).unwrap_or(0));
            self.at += 1;
        }
        number
    }

    /// The number of a value in brackets. Whether there was one.
    fn number(&mut self) -> bool {
        if self.peek() != Some('[') {
            return false;
        }
        self.reordered = true;
        let rest = self.format.get(self.at..).unwrap_or_default();
        let close = rest.iter().position(|c| *c == ']').filter(|_| rest.len() >= 3);
        let Some(close) = close else {
            self.good = false;
            self.at += 1;
            return false;
        };
        let end = self.at + close;
        self.at += 1;
        let read = self.digits(end).filter(|_| self.at == end);
        self.at = end + 1;
        match read.map(|n| n.checked_sub(1).filter(|n| *n < self.given.len())) {
            Some(Some(n)) => {
                self.next = n;
                true
            }
            Some(None) => {
                self.good = false;
                true
            }
            None => {
                self.good = false;
                false
            }
        }
    }

    /// A width or precision that is a value, and whether it is negative.
    fn taken(&mut self) -> (Option<usize>, bool) {
        let Some(value) = self.given.get(self.next) else { return (None, false) };
        self.next += 1;
        let Given::Int(n) = value else { return (None, false) };
        let size = usize::try_from(n.unsigned_abs()).ok().filter(|n| *n <= LARGE);
        (size, *n < 0 && size.is_some())
    }
}
