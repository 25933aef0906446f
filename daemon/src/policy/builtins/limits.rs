//! What builtins may give at most, and builtins of regorus that would give as much as they are asked for.
//!
//! The time of an evaluation is looked at between builtins and not within one: so none may take long, whatever it is
//! given.

use std::cell::Cell;

use regorus::Value;

use super::{Answer, Fault, native::native};

/// Most elements that one call gives.
pub const MOST: u64 = 100_000;
/// Longest text that one call gives, in bytes.
pub const TEXT: u64 = 1 << 20;
/// Longest texts that all calls of one evaluation give together.
const TEXTS: u64 = 64 << 20;
/// Largest number that a call gives, in bits: thirty thousand digits.
const BITS: u64 = 100_000;

thread_local! {
    /// Bytes of text given in this evaluation.
    static GIVEN: Cell<u64> = const { Cell::new(0) };
}

/// Begins an evaluation on this thread.
pub fn begin() {
    GIVEN.set(0);
}

/// `numbers.range(a, b)`
pub fn range(args: &[Value]) -> Answer {
    let (a, b) = (integer(args, 0)?, integer(args, 1)?);
    steps(a, b, 1)
}

/// `numbers.range_step(a, b, step)`
pub fn range_step(args: &[Value]) -> Answer {
    let (a, b, step) = (integer(args, 0)?, integer(args, 1)?, integer(args, 2)?);
    if step < 1 {
        return Err("step must be a positive integer".into());
    }
    steps(a, b, step)
}

fn integer(args: &[Value], n: usize) -> Result<i128, Fault> {
    args.get(n)
        .and_then(|v| v.as_i64().ok())
        .map(i128::from)
        .ok_or_else(|| format!("operand {} must be integer", n + 1).into())
}

fn steps(a: i128, b: i128, step: i128) -> Answer {
    let wanted = u64::try_from((a - b).abs() / step + 1).unwrap_or(u64::MAX);
    within(wanted)?;
    let step = if b < a { -step } else { step };
    let number = |i: u64| Value::from(i64::try_from(a + i128::from(i) * step).unwrap_or_default());
    Ok(Value::from((0..wanted).map(number).collect::<Vec<_>>()))
}

/// Whether so many elements may be given.
pub fn within(wanted: u64) -> Result<(), Fault> {
    if wanted > MOST { Err(Fault::Limit { wanted, limit: MOST }) } else { Ok(()) }
}

/// Whether there is room for so many bytes of text.
pub fn room(wanted: usize) -> Result<(), Fault> {
    let wanted = size(wanted);
    if wanted > TEXT {
        return Err(Fault::Limit { wanted, limit: TEXT });
    }
    let given = GIVEN.get().saturating_add(wanted);
    GIVEN.set(given);
    if given > TEXTS { Err(Fault::Limit { wanted: given, limit: TEXTS }) } else { Ok(()) }
}

/// Whether so many steps of work may be done.
pub fn work(wanted: usize, limit: u64) -> Result<(), Fault> {
    let wanted = size(wanted);
    if wanted > limit { Err(Fault::Limit { wanted, limit }) } else { Ok(()) }
}

/// A size as the limits have it.
fn size(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// How long a number is.
fn bits(value: &Value) -> u64 {
    match value {
        Value::Number(n) => n.as_big().map_or(64, |big| big.bits()),
        _ => 0,
    }
}

/// `bits.lsh(x, s)`
pub fn lsh(args: &[Value]) -> Answer {
    let shift = args.get(1).map_or(0, |s| s.as_u64().unwrap_or(0));
    let wanted = args.first().map_or(0, bits).saturating_add(shift);
    if wanted > BITS {
        return Err(Fault::Limit { wanted, limit: BITS });
    }
    native("bits.lsh", args)
}

/// `product(numbers)`
pub fn product(args: &[Value]) -> Answer {
    let wanted = match args.first() {
        Some(Value::Array(all)) => all.iter().map(bits).sum(),
        Some(Value::Set(all)) => all.iter().map(bits).sum(),
        _ => 0_u64,
    };
    // Numbers with a point are as long as they ever were.
    if wanted > BITS {
        return Err(Fault::Limit { wanted, limit: BITS });
    }
    native("product", args)
}
