//! Looks at a module's brackets, chains and bodies before regorus reads it.
//!
//! regorus (0.14.1) reads the first element of each `[` and `{` twice, as a comprehension and as what it is, so that
//! nesting costs two to the power of its depth; names of many parts cost their cube, chains of operators, bodies and
//! rules their square; and it calls itself for each level, so that a long chain ends the process. A few hundred
//! bytes could thus hold up the loader or end the daemon. This walks the text once, adds up what it will cost, and
//! refuses what no policy needs. [`super::depth`] looks at what rules call, once they are read.

mod lexer;

use self::lexer::{Lexer, Token};
use super::LoadError;

/// Most that one set may cost, in readings of a bracket: some seconds.
const MOST_COST: u64 = 100_000;
/// Deepest nesting: brackets, and the operators and parts of names that they stand behind.
const MOST_LEVELS: u64 = 320;
/// Most parts of one name, such as `input.request.headers["host"]`.
const MOST_PARTS: u64 = 64;
/// Most operators in one chain, such as `a + b + c`.
const MOST_OPERATORS: u64 = 250;

/// What a set has cost so far.
#[derive(Default)]
pub(super) struct Shape {
    cost: u64,
    rules: u64,
}

/// A bracket that is open, or the module itself.
#[derive(Clone, Copy)]
struct Level {
    /// Levels above this one.
    above: u64,
    /// How often regorus reads it.
    readings: u64,
    /// Whether it is read once more for its first element, and this is still that.
    doubled: bool,
    /// Operators of this chain.
    operators: u64,
    /// Parts of this name.
    parts: u64,
    /// Statements of this body.
    statements: u64,
}

/// What stood before, blanks and comments left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing, an opening bracket, a comma or a semicolon.
    Nothing,
    Operator,
    Dot,
    Operand,
}

impl Shape {
    /// Looks at a module. Its brackets need not match: that is regorus's to say.
    pub fn see(&mut self, file: &str, text: &str) -> Result<(), LoadError> {
        let mut lexer = Lexer::new(text);
        self.walk(&mut lexer).map_err(|message| {
            let (line, column) = lexer.place();
            LoadError::Rego { file: file.to_owned(), line, column, message }
        })
    }

    fn walk(&mut self, lexer: &mut Lexer<'_>) -> Result<(), String> {
        let outermost =
            Level { above: 0, readings: 1, doubled: false, operators: 0, parts: 0, statements: 0 };
        let (mut level, mut around) = (outermost, Vec::new());
        let mut before = Before::Nothing;
        while let Some((token, begins_line)) = lexer.next() {
            // A line that neither ends nor goes on with an operator ends a statement.
            if begins_line && before == Before::Operand && token != Token::Operator {
                self.statement(&mut level, around.is_empty())?;
            }
            before = match token {
                Token::Open(bracket) => {
                    if bracket == b'[' && before == Before::Operand {
                        self.part(&mut level)?;
                    }
                    let above = level.above + level.operators + level.parts + 1;
                    if above > MOST_LEVELS {
                        return Err(format!(
                            "this is nested deeper than {MOST_LEVELS} levels; give parts of it names of their own"
                        ));
                    }
                    let (readings, doubled) = (level.readings << u32::from(level.doubled), bracket != b'(');
                    if doubled {
                        self.spend(readings)?;
                    }
                    around.push(level);
                    level = Level { above, readings, doubled, ..outermost };
                    Before::Nothing
                }
                Token::Close => {
                    level = around.pop().unwrap_or(outermost);
                    Before::Operand
                }
                Token::Comma => {
                    (level.doubled, level.operators, level.parts) = (false, 0, 0);
                    Before::Nothing
                }
                Token::Semicolon => {
                    self.statement(&mut level, around.is_empty())?;
                    Before::Nothing
                }
                Token::Dot => {
                    self.part(&mut level)?;
                    Before::Dot
                }
                Token::Operator | Token::Word => {
                    level.operators += 1;
                    if level.operators > MOST_OPERATORS {
                        return Err(format!(
                            "more than {MOST_OPERATORS} operators in one expression; put what they join into a set or \
                             an array, and ask that"
                        ));
                    }
                    self.spend(level.operators / 40)?;
                    Before::Operator
                }
                Token::Operand => {
                    if before != Before::Dot {
                        level.parts = 0;
                    }
                    Before::Operand
                }
            };
        }
        Ok(())
    }

    fn part(&mut self, level: &mut Level) -> Result<(), String> {
        level.parts += 1;
        if level.parts > MOST_PARTS {
            return Err(format!(
                "a name of more than {MOST_PARTS} parts; give a part of it a name of its own"
            ));
        }
        self.spend(level.parts * level.parts / 128)
    }

    fn statement(&mut self, level: &mut Level, is_rule: bool) -> Result<(), String> {
        (level.doubled, level.operators, level.parts) = (false, 0, 0);
        if is_rule {
            self.rules += 1;
            return self.spend(self.rules / 500);
        }
        level.statements += 1;
        self.spend(level.statements / 425)
    }

    fn spend(&mut self, readings: u64) -> Result<(), String> {
        self.cost += readings;
        if self.cost > MOST_COST {
            return Err(
                "up to here the set takes too long to be read: brackets within brackets, long chains, long \
                        bodies or very many rules; keep tables in a data file"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(text: &str) -> Result<u64, String> {
        let mut shape = Shape::default();
        shape.see("a.rego", text).map(|()| shape.cost).map_err(|e| e.to_string())
    }

    #[test]
    fn what_policies_look_like_costs_little() {
        let text = r#"package a # [[[[[
            x := {"request": {"headers": {"a": ["}", `{{{"{`]}}} if {
                input.a["b"].c == "\"[[["
                some y in [1, 2, [3]]
                y + 1 > 2
            }
            else := [] if { true }
        "#;
        assert!(see(text).unwrap() < 60, "{:?}", see(text));
    }

    #[test]
    fn nesting_costs_twice_for_each_first_element() {
        let nested = |n: usize| format!("x := {}1{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(see(&nested(1)), Ok(1));
        assert_eq!(see(&nested(10)), Ok((1 << 10) - 1));
        assert!(see(&nested(17)).unwrap_err().contains("a.rego:1:22: up to here"), "{:?}", see(&nested(17)));
        // As second elements they are read once.
        let second = |n: usize| format!("x := {}1{}", "[0, ".repeat(n), "]".repeat(n));
        assert_eq!(see(&second(100)), Ok(100));
        assert!(see(&second(400)).unwrap_err().contains("nested deeper"), "{:?}", see(&second(400)));
    }

    #[test]
    fn chains_have_an_end() {
        let sum = |n: usize, joint: &str| format!("x := 1{}", format!("{joint}1").repeat(n));
        assert!(see(&sum(200, " + ")).is_ok());
        for joint in [" + ", "\n+ ", " +\n", " == ", " in ", " | ", ":="] {
            assert!(see(&sum(300, joint)).unwrap_err().contains("operators"), "{joint}");
        }
        assert!(see(&format!("x := {}1", "-".repeat(300))).unwrap_err().contains("operators"));
        assert!(see(&format!("x := input{}", ".a".repeat(63))).is_ok());
        for part in [".a", "[0]", "[\"a\"]", ". a"] {
            assert!(see(&format!("x := input{}", part.repeat(65))).unwrap_err().contains("parts"), "{part}");
        }
        // Statements of their own are no chain.
        let body = "input.a.b == 1 + 1\n".repeat(1000);
        assert!(see(&format!("x if {{\n{body}}}")).is_ok());
        let list = "input.a.b, ".repeat(1000);
        assert!(see(&format!("x := [{list}]")).is_ok());
    }

    #[test]
    fn a_set_counts_as_a_whole() {
        let mut shape = Shape::default();
        let rules = "r := 1\n".repeat(5000);
        assert!(shape.see("a.rego", &rules).is_ok());
        assert!(shape.see("b.rego", &rules.repeat(2)).is_err());
    }

    #[test]
    fn unclosed_texts_end() {
        for text in ["\"", "`", "\"\\", "x := \"a\n]]]", "]]]]}})", "#", "é := ✓", "\u{0}"] {
            assert!(see(text).is_ok(), "{text:?}");
        }
    }
}
