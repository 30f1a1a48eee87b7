//! Tokens: text outside `{{ }}`, words inside.

use super::TemplateError;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// `.Name`; a lone dot is an empty name. `glued`: no space before it, so it continues an operand.
    Field {
        name: String,
        glued: bool,
    },
    Variable(String),
    Word(String),
    Str(String),
    Int(i64),
    Float(f64),
    Pipe,
    Comma,
    Declare,
    Assign,
    LeftParen,
    RightParen,
}

#[derive(Debug, Clone)]
pub(super) struct Spanned {
    pub(super) token: Token,
    pub(super) line: usize,
    /// Bytes of the line in front of it.
    pub(super) column: usize,
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    column: usize,
    out: Vec<Spanned>,
}

pub(super) fn lex(source: &str) -> Result<Vec<Spanned>, TemplateError> {
    let mut lexer = Lexer { rest: source, line: 1, column: 0, out: Vec::new() };
    lexer.text()?;
    Ok(lexer.out)
}

impl Lexer<'_> {
    fn error<T>(&self, message: impl Into<String>) -> Result<T, TemplateError> {
        Err(TemplateError::Parse { line: self.line, message: message.into() })
    }

    fn push(&mut self, token: Token) {
        self.out.push(Spanned { token, line: self.line, column: self.column });
    }

    fn skip(&mut self, bytes: usize) {
        match self.rest[..bytes].rfind('\n') {
            Some(last) => self.column = bytes - last - 1,
            None => self.column += bytes,
        }
        self.line += self.rest[..bytes].matches('\n').count();
        self.rest = &self.rest[bytes..];
    }

    fn text(&mut self) -> Result<(), TemplateError> {
        let mut trim_start = false;
        while !self.rest.is_empty() {
            let end = self.rest.find("{{").unwrap_or(self.rest.len());
            let trim_end = self.rest[end..].starts_with("{{-") && self.rest[end + 3..].starts_with([' ', '\t', '\n']);
            let mut text = &self.rest[..end];
            if trim_start {
                text = text.trim_start_matches([' ', '\t', '\r', '\n']);
            }
            if trim_end {
                text = text.trim_end_matches([' ', '\t', '\r', '\n']);
            }
            if !text.is_empty() {
                let text = text.to_owned();
                self.push(Token::Text(text));
            }
            self.skip(end);
            if self.rest.is_empty() {
                break;
            }
            self.skip(if trim_end { 3 } else { 2 });
            trim_start = self.action()?;
        }
        Ok(())
    }

    /// Reads up to and with `}}`; true when ` -}}` closed it.
    fn action(&mut self) -> Result<bool, TemplateError> {
        let inner = self.rest.trim_start();
        if inner.starts_with("/*") {
            let Some(end) = inner.find("*/") else { return self.error("unclosed comment") };
            let after = inner[end + 2..].trim_start();
            let trim = after.starts_with("-}}");
            if !trim && !after.starts_with("}}") {
                return self.error("comment ends before closing delimiter");
            }
            let used = self.rest.len() - after.len() + if trim { 3 } else { 2 };
            self.skip(used);
            return Ok(trim);
        }
        self.push(Token::Open);
        loop {
            let spaces = self.rest.len() - self.rest.trim_start().len();
            self.skip(spaces);
            if spaces > 0 && self.rest.starts_with("-}}") {
                self.push(Token::Close);
                self.skip(3);
                return Ok(true);
            }
            if self.rest.starts_with("}}") {
                self.push(Token::Close);
                self.skip(2);
                return Ok(false);
            }
            let Some(c) = self.rest.chars().next() else { return self.error("unclosed action") };
            self.token(c, spaces == 0)?;
        }
    }

    fn token(&mut self, c: char, glued: bool) -> Result<(), TemplateError> {
        match c {
            '|' => self.one(Token::Pipe, 1),
            ',' => self.one(Token::Comma, 1),
            '(' => self.one(Token::LeftParen, 1),
            ')' => self.one(Token::RightParen, 1),
            '=' => self.one(Token::Assign, 1),
            ':' if self.rest.starts_with(":=") => self.one(Token::Declare, 2),
            '"' => self.quoted(),
            '\'' => self.character(),
            '`' => {
                let Some(end) = self.rest[1..].find('`') else { return self.error("unterminated raw quoted string") };
                let s = self.rest[1..=end].to_owned();
                self.push(Token::Str(s));
                self.skip(end + 2);
            }
            '.' if !self.rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let len = word_len(&self.rest[1..]);
                let name = self.rest[1..1 + len].to_owned();
                self.push(Token::Field { name, glued });
                self.skip(1 + len);
            }
            '$' => {
                let len = word_len(&self.rest[1..]);
                let name = self.rest[1..1 + len].to_owned();
                self.push(Token::Variable(name));
                self.skip(1 + len);
            }
            c if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => return self.number(),
            c if c.is_alphabetic() || c == '_' => {
                let len = word_len(self.rest);
                let word = self.rest[..len].to_owned();
                self.push(Token::Word(word));
                self.skip(len);
            }
            c => return self.error(format!("unexpected {c:?} in command")),
        }
        match self.out.last() {
            // A quoted token that found no end left a marker; see `quoted`.
            Some(Spanned { token: Token::Word(w), .. }) if w == "\0" => self.error("unterminated quoted string"),
            _ => Ok(()),
        }
    }

    fn one(&mut self, token: Token, bytes: usize) {
        self.push(token);
        self.skip(bytes);
    }

    fn quoted(&mut self) {
        match unquote(&self.rest[1..], '"') {
            Some((text, used)) => self.one(Token::Str(text), 1 + used),
            None => self.push(Token::Word("\0".into())),
        }
    }

    fn character(&mut self) {
        match unquote(&self.rest[1..], '\'') {
            Some((text, used)) if text.chars().count() == 1 => {
                let code = text.chars().next().map_or(0, |c| i64::from(c as u32));
                self.one(Token::Int(code), 1 + used);
            }
            _ => self.push(Token::Word("\0".into())),
        }
    }

    fn number(&mut self) -> Result<(), TemplateError> {
        let len = self
            .rest
            .char_indices()
            .position(|(i, c)| {
                !(c.is_ascii_alphanumeric() || c == '.' || c == '_' || (i == 0 && (c == '-' || c == '+')))
            })
            .unwrap_or(self.rest.len());
        let text = self.rest[..len].replace('_', "");
        let (sign, digits) = match text.strip_prefix('-') {
            Some(d) => (-1, d),
            None => (1, text.strip_prefix('+').unwrap_or(&text)),
        };
        let int = if let Some(hex) = digits.strip_prefix("0x") {
            i64::from_str_radix(hex, 16).ok()
        } else if let Some(octal) = digits.strip_prefix("0o") {
            i64::from_str_radix(octal, 8).ok()
        } else {
            digits.parse::<i64>().ok()
        };
        let token = match (int, text.parse::<f64>()) {
            (Some(n), _) => Token::Int(sign * n),
            (None, Ok(f)) => Token::Float(f),
            (None, Err(_)) => return self.error(format!("bad number syntax: {text:?}")),
        };
        self.one(token, len);
        Ok(())
    }
}

fn word_len(s: &str) -> usize {
    s.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(s.len())
}

/// Undoes Go's escapes up to `quote`; the text and the bytes used with the closing quote.
fn unquote(s: &str, quote: char) -> Option<(String, usize)> {
    let mut out = String::new();
    let mut chars = s.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            c if c == quote => return Some((out, i + 1)),
            '\n' => return None,
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'a' => out.push('\u{7}'),
                'b' => out.push('\u{8}'),
                'f' => out.push('\u{c}'),
                'v' => out.push('\u{b}'),
                kind @ ('x' | 'u' | 'U') => {
                    let digits = match kind {
                        'x' => 2,
                        'u' => 4,
                        _ => 8,
                    };
                    let mut code = 0;
                    for _ in 0..digits {
                        code = code * 16 + chars.next()?.1.to_digit(16)?;
                    }
                    out.push(char::from_u32(code)?);
                }
                c @ ('\\' | '"' | '\'') => out.push(c),
                _ => return None,
            },
            c => out.push(c),
        }
    }
    None
}
