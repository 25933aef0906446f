//! `regex.globs_match`: whether there is a text that two patterns of characters, `.`, `[a-z]`, `*`, `+` and `\` both match.

use std::ops::RangeInclusive;

use regorus::Value;

use super::{Answer, Fault, args::text, limits::work};

/// Most pairs of places in the two patterns that are looked at.
const PLACES: u64 = 1 << 20;

/// One place of a pattern: the characters it takes, and whether it takes them any number of times.
struct Step {
    takes: Vec<RangeInclusive<char>>,
    repeats: bool,
}

impl Step {
    fn meets(&self, other: &Self) -> bool {
        let apart =
            |a: &RangeInclusive<char>, b: &RangeInclusive<char>| a.end() < b.start() || b.end() < a.start();
        self.takes.iter().any(|a| other.takes.iter().any(|b| !apart(a, b)))
    }
}

/// `regex.globs_match(pattern, pattern)`
pub fn globs_match(args: &[Value]) -> Answer {
    let (a, b) = (steps(&text(args, 0)?)?, steps(&text(args, 1)?)?);
    let width = b.len() + 1;
    let ranges = |all: &[Step]| all.iter().map(|s| s.takes.len()).max().unwrap_or(1);
    work((a.len() + 1).saturating_mul(width).saturating_mul(ranges(&a)).saturating_mul(ranges(&b)), PLACES)?;
    // Places that one text can be at in both.
    let (mut seen, mut todo) = (vec![false; (a.len() + 1) * width], vec![(0, 0)]);
    while let Some((i, j)) = todo.pop() {
        if std::mem::replace(&mut seen[i * width + j], true) {
            continue;
        }
        let (left, right) = (a.get(i), b.get(j));
        if left.is_none() && right.is_none() {
            return Ok(Value::from(true));
        }
        // Nothing more of what repeats.
        todo.extend(left.filter(|s| s.repeats).map(|_| (i + 1, j)));
        todo.extend(right.filter(|s| s.repeats).map(|_| (i, j + 1)));
        if let (Some(left), Some(right)) = (left, right)
            && left.meets(right)
        {
            todo.push((i + usize::from(!left.repeats), j + usize::from(!right.repeats)));
        }
    }
    Ok(Value::from(false))
}

/// A pattern's places. `x+` is `x` and `x*`.
fn steps(pattern: &str) -> Result<Vec<Step>, Fault> {
    let mut steps: Vec<Step> = Vec::new();
    let mut chars = pattern.chars().peekable();
    let escaped = |c: Option<char>| c.ok_or_else(|| Fault::from("input ends with a \\ (escape) character"));
    while let Some(c) = chars.next() {
        let takes = match c {
            '.' => vec!['\0'..=char::MAX],
            '[' => {
                let mut all: Vec<RangeInclusive<char>> = Vec::new();
                // Whether the last one could begin a range.
                let mut begins = false;
                loop {
                    match chars.next().ok_or("found [ without matching ]")? {
                        ']' => break all,
                        '-' => {
                            let last = all.last_mut().filter(|_| begins);
                            let last = last.ok_or("range character '-' must be preceded by a character")?;
                            let end = match chars.next() {
                                None | Some(']' | '-') => {
                                    return Err("range character '-' must be followed by a character".into());
                                }
                                Some('\\') => escaped(chars.next())?,
                                Some(c) => c,
                            };
                            if end < *last.start() {
                                return Err("range is out of order".into());
                            }
                            *last = *last.start()..=end;
                            begins = false;
                        }
                        '\\' => {
                            let c = escaped(chars.next())?;
                            all.push(c..=c);
                            begins = true;
                        }
                        c => {
                            all.push(c..=c);
                            begins = true;
                        }
                    }
                }
            }
            '\\' => {
                let c = escaped(chars.next())?;
                vec![c..=c]
            }
            ']' => return Err("set-close ']' with no preceding '['".into()),
            '*' | '+' => return Err("a flag must be preceded by a non-flag".into()),
            c => vec![c..=c],
        };
        match chars.next_if(|c| matches!(c, '*' | '+')) {
            Some('+') => {
                steps.push(Step { takes: takes.clone(), repeats: false });
                steps.push(Step { takes, repeats: true });
            }
            flag => steps.push(Step { takes, repeats: flag.is_some() }),
        }
    }
    Ok(steps)
}
