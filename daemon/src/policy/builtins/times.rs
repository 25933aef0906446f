//! `time.parse_duration_ns` and `time.add_date` as Go has them: a month after the 31st of January is the 3rd of March.

use chrono::{DateTime, Days, NaiveDate, Offset, TimeZone};
use chrono_tz::Tz;
use regorus::Value;

use super::{Answer, Fault, args::text};

/// `time.parse_duration_ns("1h30m")`; OPA has days, weeks and years of 365 days beside Go's units.
pub fn parse_duration_ns(args: &[Value]) -> Answer {
    let text = text(args, 0)?;
    let ns = duration(&text).ok_or_else(|| Fault::from(format!("time: invalid duration {text:?}")))?;
    Ok(Value::from(ns))
}

/// The most that a negative duration can be, and what no part may exceed.
const MOST: u64 = 1 << 63;
/// In nanoseconds.
const HOUR: u64 = 3_600_000_000_000;

/// Nanoseconds of a text as Go writes durations.
fn duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut sum = 0_u64;
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    while !rest.is_empty() {
        let (whole, behind) = rest.split_at(digits(rest));
        let (part, behind) = match behind.strip_prefix('.') {
            Some(behind) => behind.split_at(digits(behind)),
            None => ("", behind),
        };
        if whole.is_empty() && part.is_empty() {
            return None;
        }
        let ends = behind.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(ends);
        rest = behind;
        let unit: u64 = match unit {
            "ns" => 1,
            // The micro sign and the Greek letter.
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => HOUR,
            "d" => 24 * HOUR,
            "w" => 7 * 24 * HOUR,
            "y" => 365 * 24 * HOUR,
            _ => return None,
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        sum = sum.checked_add(whole.checked_mul(unit)?)?.checked_add(fraction(part, unit))?;
        if sum > MOST {
            return None;
        }
    }
    if negative { 0_i64.checked_sub_unsigned(sum) } else { i64::try_from(sum).ok() }
}

/// A unit's part behind the point. Digits past the eighteenth are below a nanosecond.
fn fraction(digits: &str, unit: u64) -> u64 {
    let kept = digits.get(..18).unwrap_or(digits);
    let scale = kept.bytes().fold(1_u128, |scale, _| scale * 10);
    let part = kept.parse::<u128>().unwrap_or(0) * u128::from(unit) / scale;
    u64::try_from(part).unwrap_or(0)
}

/// `time.add_date(ns, years, months, days)`, where `ns` may be `[ns, zone]`.
pub fn add_date(args: &[Value]) -> Answer {
    let (ns, zone) = moment(args)?;
    let whole = |n: usize| {
        let given = args.get(n).and_then(|v| v.as_i64().ok());
        given.ok_or_else(|| Fault::from(format!("operand {} must be integer", n + 1)))
    };
    let (years, months, days) = (whole(1)?, whole(2)?, whole(3)?);
    let range = || Fault::from("time outside of valid range");
    let local = zone.from_utc_datetime(&DateTime::from_timestamp_nanos(ns).naive_utc()).naive_local();
    let date = shifted(local.date(), years, months, days).ok_or_else(range)?;
    // The wall's time of that day, where it is twice or not at all, by the offset that was in force before.
    let wall = date.and_time(local.time());
    let offset = |at: chrono::NaiveDateTime| zone.offset_from_utc_datetime(&at).fix();
    let before = wall.checked_sub_offset(offset(wall)).ok_or_else(range)?;
    let utc = wall.checked_sub_offset(offset(before)).ok_or_else(range)?;
    Ok(Value::from(utc.and_utc().timestamp_nanos_opt().ok_or_else(range)?))
}

/// A day so many years, months and days later. What a month has not goes on in the next.
fn shifted(day: NaiveDate, years: i64, months: i64, days: i64) -> Option<NaiveDate> {
    use chrono::Datelike as _;
    let months = i64::from(day.month0()).checked_add(months)?;
    let year = i64::from(day.year()).checked_add(years)?.checked_add(months.div_euclid(12))?;
    let month = u32::try_from(months.rem_euclid(12)).ok()? + 1;
    let first = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, 1)?;
    let days = days.checked_add(i64::from(day.day0()))?;
    let by = Days::new(days.unsigned_abs());
    if days < 0 { first.checked_sub_days(by) } else { first.checked_add_days(by) }
}

/// A time and its zone, as OPA takes them.
fn moment(args: &[Value]) -> Result<(i64, Tz), Fault> {
    let wrong = || Fault::from("operand 1 must be number or array of a number and a zone");
    let number = |v: &Value| v.as_i64().map_err(|_| wrong());
    match args.first() {
        Some(n @ Value::Number(_)) => Ok((number(n)?, Tz::UTC)),
        Some(Value::Array(parts)) => match parts.first().zip(Some(parts.get(1))) {
            Some((n, None)) => Ok((number(n)?, Tz::UTC)),
            Some((n, Some(Value::String(zone)))) => {
                // A host's own zone is no rule's matter.
                let zone = if matches!(zone.as_ref(), "" | "Local") { "UTC" } else { zone };
                Ok((number(n)?, zone.parse().map_err(|_| Fault::from(format!("unknown time zone {zone}")))?))
            }
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}
