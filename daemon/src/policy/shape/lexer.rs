//! The little of Rego's lexical grammar that its shape needs: brackets, operators, names; strings and comments are
//! stepped over.

/// What stands in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// `[`, `{` or `(`.
    Open(u8),
    Close,
    Comma,
    Semicolon,
    Dot,
    /// An operator of signs.
    Operator,
    /// An operator that is a word, such as `in`.
    Word,
    /// A name, number or string.
    Operand,
}

/// Reads a text from its beginning.
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    /// Where the last token stands: line and the first byte of the line.
    line: u32,
    line_start: usize,
    begun: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text: text.as_bytes(), at: 0, line: 1, line_start: 0, begun: 0 }
    }

    /// Line and column of the last token, from 1.
    pub fn place(&self) -> (u32, u32) {
        (self.line, u32::try_from(self.begun.saturating_sub(self.line_start) + 1).unwrap_or(u32::MAX))
    }

    /// The next token, and whether it is the first of its line.
    pub fn next(&mut self) -> Option<(Token, bool)> {
        let begins_line = self.blanks();
        self.begun = self.at;
        let byte = *self.text.get(self.at)?;
        self.at += 1;
        let token = match byte {
            b'[' | b'{' | b'(' => Token::Open(byte),
            b']' | b'}' | b')' => Token::Close,
            b',' => Token::Comma,
            b';' => Token::Semicolon,
            b'.' => Token::Dot,
            b'"' | b'`' => {
                self.string(byte);
                Token::Operand
            }
            b':' | b'=' | b'!' | b'<' | b'>' => {
                self.while_next(|b| b == b'=');
                Token::Operator
            }
            b'+' | b'-' | b'*' | b'/' | b'%' | b'&' | b'|' => Token::Operator,
            _ => {
                self.while_next(|b| b.is_ascii_alphanumeric() || b == b'_' || !b.is_ascii());
                match &self.text[self.begun..self.at] {
                    b"in" | b"not" | b"with" | b"as" | b"every" | b"some" => Token::Word,
                    _ => Token::Operand,
                }
            }
        };
        Some((token, begins_line))
    }

    /// Steps over blanks and comments; whether a line ended among them.
    fn blanks(&mut self) -> bool {
        let mut ended = false;
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                b'\n' => {
                    self.at += 1;
                    (self.line, self.line_start, ended) = (self.line.saturating_add(1), self.at, true);
                }
                b'#' => self.while_next(|b| b != b'\n'),
                _ if byte.is_ascii_whitespace() => self.at += 1,
                _ => break,
            }
        }
        ended
    }

    /// Steps over a string. One in quotation marks ends with its line at the latest.
    fn string(&mut self, quote: u8) {
        while let Some(&byte) = self.text.get(self.at) {
            if byte == b'\n' {
                if quote == b'"' {
                    return;
                }
                (self.line, self.line_start) = (self.line.saturating_add(1), self.at + 1);
            }
            self.at += 1;
            match byte {
                b'\\' if quote == b'"' && self.text.get(self.at) != Some(&b'\n') => self.at += 1,
                _ if byte == quote => return,
                _ => {}
            }
        }
        self.at = self.text.len();
    }

    fn while_next(&mut self, takes: impl Fn(u8) -> bool) {
        while self.text.get(self.at).is_some_and(|b| takes(*b)) {
            self.at += 1;
        }
    }
}
