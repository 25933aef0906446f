//! Rust source as the rules see it: no comments, no literals, and where the tests begin.

/// `text` with comments and the insides of literals blanked; lines keep their numbers.
pub fn bare(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let end = match chars[i] {
            '/' if chars.get(i + 1) == Some(&'/') => line_end(&chars, i),
            '/' if chars.get(i + 1) == Some(&'*') => block_comment_end(&chars, i),
            '"' => string_end(&chars, i),
            'r' if !follows_word(&chars, i) => raw_string_end(&chars, i),
            'b' if !follows_word(&chars, i) && chars.get(i + 1) == Some(&'r') => {
                let end = raw_string_end(&chars, i + 1);
                if end == i + 1 { i } else { end }
            }
            '\'' => char_end(&chars, i),
            _ => i,
        };
        if end == i {
            out.push(chars[i]);
            i += 1;
        } else {
            out.extend(chars[i..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            i = end;
        }
    }
    out
}

fn follows_word(chars: &[char], i: usize) -> bool {
    i > 0 && is_word(chars[i - 1])
}

fn line_end(chars: &[char], start: usize) -> usize {
    (start..chars.len()).find(|i| chars[*i] == '\n').unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut i = start;
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                i += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    chars.len()
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// The end of `r"…"` or `r#"…"#` that begins at `start`, or `start` if none does (an `r#word`, a plain `r`).
fn raw_string_end(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return start;
    }
    (open + 1..chars.len())
        .find(|i| chars[*i] == '"' && chars[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes)
        .map_or(chars.len(), |i| i + 1 + hashes)
}

/// The end of a character literal, or `start` where the quote begins a lifetime.
fn char_end(chars: &[char], start: usize) -> usize {
    match (chars.get(start + 1), chars.get(start + 2)) {
        (Some('\\'), Some(_)) => {
            (start + 3..chars.len()).find(|i| chars[*i] == '\'').map_or(chars.len(), |i| i + 1)
        }
        (Some(_), Some('\'')) => start + 3,
        _ => start,
    }
}

pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The part of bare source before its test module. Tests may reach over walls to set a scene.
pub fn without_tests(bare: &str) -> &str {
    let mut at = 0;
    for line in bare.split_inclusive('\n') {
        let is_marker = line.trim_end() == "#[cfg(test)]";
        let rest = &bare[at + line.len()..];
        let next = rest.lines().map(str::trim).find(|next| !next.is_empty() && !next.starts_with("#["));
        if is_marker && next.is_some_and(|next| next.starts_with("mod ") && next.ends_with('{')) {
            return &bare[..at];
        }
        at += line.len();
    }
    bare
}

/// Places where `word` stands alone, with the text before and after: `(line, before, after)`.
pub fn words<'a>(bare: &'a str, word: &str) -> Vec<(usize, &'a str, &'a str)> {
    bare.match_indices(word)
        .map(|(at, _)| (&bare[..at], &bare[at + word.len()..]))
        .filter(|(before, after)| !before.ends_with(is_word) && !after.starts_with(is_word))
        .map(|(before, after)| (before.matches('\n').count() + 1, before, after))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_kept() {
        let text = "a // aya::x\n\"aya::y\\\" \" b /* aya /* in */ it */ c\nr#\"aya\" \"# d 'a' '\\'' &'a e";
        let bare = bare(text);
        assert!(!bare.contains("aya"), "{bare}");
        assert_eq!(bare.lines().count(), 3);
        for kept in ["a ", " b ", " c", " d ", "&'a e"] {
            assert!(bare.contains(kept), "{kept:?} in {bare:?}");
        }
    }

    #[test]
    fn raw_identifiers_and_byte_strings_are_told_apart() {
        assert_eq!(bare("r#type b\"aya\" br\"aya\" bar"), format!("r#type b{}bar", " ".repeat(14)));
    }

    #[test]
    fn the_test_module_is_cut_off_and_single_test_items_are_not() {
        let text = "#[cfg(test)]\nuse x;\nfn a() {}\n#[cfg(test)]\n#[allow(y)]\nmod tests {\n}\n";
        assert_eq!(without_tests(text), "#[cfg(test)]\nuse x;\nfn a() {}\n");
    }

    #[test]
    fn words_stand_alone() {
        let lines: Vec<usize> = words("aya\naya_log\nmyaya\n{aya}", "aya").iter().map(|w| w.0).collect();
        assert_eq!(lines, [1, 4]);
    }
}
