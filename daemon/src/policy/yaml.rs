//! YAML as far as both of its versions agree.
//!
//! OPA reads YAML 1.1, where `no` is false, `012` is ten and `1_000` a thousand; the reader here knows 1.2, to which they
//! are texts, and a text is true to Rego. Guarantees: a plain scalar that the two read differently is refused, with its
//! line and what to write, wherever a document may be YAML.
//!
//! The text itself is looked at, without its grammar: what stands between two marks that could end a scalar is taken for
//! one. That finds each plain scalar, and now and then refuses a line of a longer text that looks like one.

use std::borrow::Cow;

use regorus::Value;

use super::builtins::{self, Fault, text};

/// Reads YAML.
pub(super) fn read(text: &str) -> Result<Value, String> {
    check(text)?;
    builtins::yaml(text).map_err(|fault| match fault {
        Fault::Failed(why) | Fault::Fatal(why) => why,
        Fault::Limit { .. } | Fault::Asks => "it stands for too much".to_owned(),
    })
}

/// `yaml.unmarshal`. What is refused fails the decision: undefined, it would switch off a rule that denies by it.
pub(super) fn unmarshal(args: &[Value]) -> Result<Value, Fault> {
    let text = text(args, 0)?;
    check(&text).map_err(Fault::Fatal)?;
    builtins::yaml(&text)
}

/// Says which scalar of a text the versions read differently, if there is one. JSON has none.
pub fn check(text: &str) -> Result<(), String> {
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        return Ok(());
    }
    let (mut flow, mut number, mut after_cr) = (false, 1, false);
    for line in text.split_inclusive(BREAKS) {
        let whole = line.trim_end_matches(BREAKS);
        let found = segments(whole, &mut flow).into_iter().find_map(differs);
        if let Some(what) = found {
            return Err(format!("line {number}: {what}"));
        }
        // A break of two characters is one.
        if !(after_cr && line == "\n") {
            number += 1;
        }
        after_cr = line.ends_with('\r');
    }
    Ok(())
}

const BREAKS: [char; 5] = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];

/// A line's parts that could each be a scalar. `flow` is set for good where a bracket was seen: only behind one do commas
/// and brackets part anything.
fn segments<'a>(line: &'a str, flow: &mut bool) -> Vec<&'a str> {
    let mut parts = Vec::new();
    // A comment, or a part of a longer text: neither holds a scalar, unless a quotation ends in it.
    let is_passed = |rest: &str| rest.starts_with('#') && !rest.contains(['"', '\'']);
    if is_passed(line.trim_start_matches(BLANKS)) {
        return parts;
    }
    let (mut start, mut before) = (0, ' ');
    for (at, c) in line.char_indices() {
        let after = line[at + c.len_utf8()..].chars().next().unwrap_or(' ');
        *flow |= matches!(c, '[' | '{');
        if c == '#' && BLANKS.contains(&before) {
            parts.push(&line[start..at]);
            if is_passed(&line[at..]) {
                return parts;
            }
            start = at + 1;
        }
        let ends = match c {
            ',' | '[' | ']' | '{' | '}' | '?' => *flow,
            ':' if BLANKS.contains(&after) => true,
            ':' => {
                let inner = before.is_alphanumeric() && after.is_alphanumeric();
                *flow && (!inner || line[start..at].trim_start_matches(BLANKS).starts_with(['*', '&']))
            }
            _ => false,
        };
        if ends {
            parts.push(&line[start..at]);
            start = at + c.len_utf8();
        }
        before = c;
    }
    parts.push(&line[start..]);
    parts
}

const BLANKS: [char; 3] = [' ', '\t', '\u{feff}'];

/// What is wrong with a part, taken for a plain scalar with what may stand before it.
fn differs(part: &str) -> Option<String> {
    let mut rest = part.trim_matches(BLANKS);
    loop {
        let word = rest.split(BLANKS).next().unwrap_or_default();
        if matches!(word, "-" | "?" | ":" | "---") || word.starts_with(['&', '*']) {
            rest = rest[word.len()..].trim_start_matches(BLANKS);
        } else if word.starts_with('!') {
            const SAME: [&str; 7] = ["!!str", "!!map", "!!seq", "!!int", "!!float", "!!bool", "!!null"];
            if !SAME.contains(&word) {
                return Some(format!("the tag `{}` is not read here", shown(word)));
            }
            rest = rest[word.len()..].trim_start_matches(BLANKS);
        } else {
            break;
        }
        if word.is_empty() {
            break;
        }
    }
    if rest.starts_with("%TAG") {
        return Some("`%TAG` is not read here".to_owned());
    }
    let lower = rest.to_ascii_lowercase();
    match lower.as_str() {
        "y" | "yes" | "on" => Some(boolean(rest, true)),
        "n" | "no" | "off" => Some(boolean(rest, false)),
        "<<" => Some("`<<` merges in YAML 1.1 and does not here: write the members themselves".to_owned()),
        _ if is_other_number(&lower, rest) => Some(format!(
            "`{0}` is a number in YAML 1.1 (OPA's) or another one than here: write it in decimal without `_` and zeros in front, or \"{0}\" in quotes for the text",
            shown(rest)
        )),
        _ => None,
    }
}

fn boolean(text: &str, means: bool) -> String {
    format!(
        "`{text}` is {means} in YAML 1.1 (OPA's) and a text in 1.2: write {means}, or \"{text}\" in quotes for the text"
    )
}

/// Whether a text is a number to one of the versions alone, or another one. Too many are taken for such.
fn is_other_number(lower: &str, text: &str) -> bool {
    let digits = lower.strip_prefix(['+', '-']).unwrap_or(lower);
    let is_begun = |c: char| c.is_ascii_digit() || c == '.' || (c == '_' && digits.len() < lower.len());
    if !digits.starts_with(is_begun) {
        return false;
    }
    if digits.contains('_') {
        let made = |c: char| c.is_ascii_hexdigit() || matches!(c, '_' | '.' | '+' | '-' | 'x' | 'o');
        return digits.chars().all(made) && digits.contains(|c: char| c.is_ascii_digit());
    }
    let Some(behind) = digits.strip_prefix('0') else { return false };
    // Further than 63 bits reach, the versions differ again.
    let based = |base: char, most: usize| {
        behind.strip_prefix(base).is_some_and(|d| {
            !d.is_empty()
                && d.chars().all(|c| c.is_ascii_hexdigit())
                && (d.len() > most || text.contains(base.to_ascii_uppercase()))
        })
    };
    (!behind.is_empty() && behind.bytes().all(|b| b.is_ascii_digit()))
        || based('x', 15)
        || based('o', 20)
        || (behind.starts_with('b') && based('b', 62))
}

/// A part of a text, for an error.
fn shown(text: &str) -> Cow<'_, str> {
    if text.chars().count() <= 40 {
        text.into()
    } else {
        text.chars().take(40).chain("…".chars()).collect::<String>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OPA 1.20 reads otherwise than YAML 1.2 does, each tried on it.
    const OTHER: [&str; 49] = [
        "y",
        "Y",
        "n",
        "N",
        "yes",
        "Yes",
        "YES",
        "no",
        "No",
        "NO",
        "on",
        "On",
        "ON",
        "off",
        "Off",
        "OFF",
        "012",
        "-012",
        "0O12",
        "08",
        "09",
        "0B1",
        "0X1f",
        "1_000",
        "1_",
        "1__0",
        "1_0.5",
        "1_000.5",
        "0x1_F",
        "0b1_0",
        "00",
        "000",
        "0o_7",
        "018",
        "-_1",
        "+_1",
        "0_8",
        "0_7",
        "1_e3",
        "1e_3",
        "1e3_0",
        "0xFFFFFFFFFFFFFFFFF",
        "0777777777777777777777777",
        "!!binary aGk=",
        "!!int 012",
        "!!bool yes",
        "!x 1",
        "! yes",
        "<<",
    ];
    /// What both read alike.
    const SAME: [&str; 50] = [
        "true",
        "False",
        "null",
        "~",
        "tRUE",
        "0o12",
        "+12",
        "012e3",
        "0b101",
        "-0b11",
        "0x1F",
        "_1",
        "1e3",
        ".5",
        "-.5",
        "5.",
        "1.e3",
        "1:30",
        "190:20:30",
        "2001-01-01",
        "2001-12-14t21:59:43.10-05:00",
        "=",
        "<<a",
        "0",
        "-0",
        "0.0",
        "1.50",
        "12345678901234567890",
        "1,000",
        "0x",
        "0o8",
        "1.2.3",
        "1e",
        "inf",
        "._",
        "_",
        "!!str x",
        "\"no\"",
        "'012'",
        "nothing",
        "yes we can",
        "10.0.0.0/8",
        "no-store",
        "a_b",
        "x_1",
        "0.1.2",
        "north",
        "one",
        "--",
        "v012",
    ];

    #[test]
    fn what_the_versions_read_differently_is_refused_wherever_it_stands() {
        for scalar in OTHER {
            for text in [
                scalar.to_owned(),
                format!("a: {scalar}"),
                format!("a:\t{scalar}  "),
                format!("a: {scalar} # why"),
                format!("a: {scalar} # it's \"so\""),
                format!("a:\n  {scalar}\nb: 1"),
                format!("- {scalar}"),
                format!("- - {scalar}"),
                format!("--- {scalar}"),
                format!("a: &x {scalar}"),
                format!("[{scalar}]"),
                format!("[a, {scalar} , b]"),
                format!("{{\"a\":{scalar}}}"),
                format!("{{'a' : {scalar}}}"),
                format!("[a,\n  {scalar}\n]"),
                format!("[\"a #b\", {scalar}]"),
                format!("a: it's\nb: {scalar}\nc: it's"),
                format!("a: \"x\n  # y\", {scalar}]\n").replacen("a: ", "a: [", 1),
                format!("\u{feff}{scalar}"),
                format!("a: 1\r\nb: {scalar}\r\n"),
                format!("a: 1\u{2028}b: {scalar}"),
            ] {
                assert!(check(&text).is_err(), "{text:?}");
            }
            if !scalar.starts_with('!') {
                for text in [
                    format!("{scalar}: 1"),
                    format!("? {scalar}\n: 1"),
                    format!("{{{scalar}: 1}}"),
                    format!("{{{scalar}}}"),
                ] {
                    assert!(check(&text).is_err(), "{text:?}");
                }
            }
        }
        // What only a flow's alias can have before it.
        assert!(check("a: &x k\nb: {*x:no}").is_err() && check("a: &x k\nb: {*x :no}").is_err());
    }

    #[test]
    fn what_they_read_alike_is_taken() {
        for scalar in SAME {
            for text in [
                format!("a: {scalar}\n"),
                format!("- {scalar}\n"),
                format!("# a: no\na: {scalar} # or: yes\n"),
            ] {
                assert_eq!(check(&text), Ok(()), "{text:?}");
            }
        }
        for text in [
            "",
            "{\"a\": \"x, no, y\"}",
            "a: yes, indeed\nb: no comment\n",
            "a: \"x: no\"\nb: 'off: y'\n",
            "url: https://a.example:8443/no\n",
            "a: {b: [1, 2], c: \"no\"}\n",
        ] {
            assert_eq!(check(text), Ok(()), "{text:?}");
        }
    }

    #[test]
    fn the_error_names_the_line_and_what_to_write() {
        let said = check("users:\r\n  bob:\r\n    admin: no\r\n").unwrap_err();
        assert!(
            said.starts_with("line 3: `no` is false") && said.contains("write false, or \"no\""),
            "{said}"
        );
        assert!(check("a: 1\nb: 012\n").unwrap_err().starts_with("line 2: `012`"));
    }

    #[test]
    fn unmarshal_fails_the_decision_where_it_would_differ() {
        let call = |text: &str| unmarshal(&[Value::from(text)]);
        assert_eq!(call("a: [1, x]").unwrap(), Value::from_json_str(r#"{"a": [1, "x"]}"#).unwrap());
        assert!(matches!(call("a: yes"), Err(Fault::Fatal(_))));
        assert!(matches!(call("a: ["), Err(Fault::Failed(_))));
        assert!(matches!(unmarshal(&[Value::from(1)]), Err(Fault::Failed(_))));
        let ten = |of: &str| [of; 10].join(",");
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let more =
            names.windows(2).map(|n| format!("{}: &{} [{}]\n", n[1], n[1], ten(&format!("*{}", n[0]))));
        let many = format!("a: &a [1]\n{}", more.collect::<String>());
        assert!(matches!(call(&many), Err(Fault::Limit { .. } | Fault::Failed(_))));
        assert!(call("a: &a [1]\nb: [*a]").is_ok());
    }
}
