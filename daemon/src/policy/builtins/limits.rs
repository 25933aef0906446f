//! Builtins of regorus that give as many elements as they are asked for, with a limit.

use regorus::Value;

use super::{Answer, Fault};

/// Most elements that one call gives.
pub const MOST: u64 = 100_000;

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
