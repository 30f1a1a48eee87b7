//! Words and variables, as a shell reads them.
//!
//! ```text
//!  'a $b'    as it is                 $a ${a}        the value, or nothing
//!  "a $b"    variables are put in     ${a:-w} ${a-w} w where it is empty or unset / unset
//!  \$        the escaped character    ${a:+w} ${a+w} w where it is not
//!                                     ${a:?w} ${a?w} an error that says w
//!                                     ${a#p} ${a##p} without the shortest / longest beginning that matches p
//!                                     ${a%p} ${a%%p} without the end that matches p
//!                                     ${a/p/w} ${a//p/w}  the first / every match replaced
//! ```
//!
//! A result is at most [`RESULT_BYTES_MAX`] long and braces nest at most [`NESTING_MAX`] deep: a line that doubles
//! its variable again and again ends in an error, not in the machine's memory.

use crate::glob::Pattern;
use std::collections::BTreeSet;

/// What one expansion may come to; an environment beyond that could not start a program anyway (execve(2)).
pub const RESULT_BYTES_MAX: usize = 1 << 20;
/// `${a:-${b:-${c...}}}`
pub const NESTING_MAX: usize = 64;

/// A word that cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {}: {message}", crate::quote(&shortened(.word)))]
pub struct ShellError {
    pub word: String,
    pub message: String,
}

fn shortened(word: &str) -> String {
    match word.char_indices().nth(200) {
        Some((at, _)) => format!("{}...", &word[..at]),
        None => word.to_owned(),
    }
}

/// Where values come from.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How to read words.
#[derive(Debug, Clone)]
pub struct Shell {
    pub escape: char,
    /// Quotes stay in the result.
    pub raw_quotes: bool,
    /// Escapes stay in the result.
    pub raw_escapes: bool,
    /// Quotes are ordinary characters.
    pub skip_quotes: bool,
    /// Variables that are not set stay as they are written.
    pub skip_unset: bool,
}

/// A word with its variables put in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded {
    pub text: String,
    /// Variables that were set, and those that were not.
    pub matched: BTreeSet<String>,
    pub unmatched: BTreeSet<String>,
}

impl Shell {
    pub fn new(escape: char) -> Shell {
        Shell { escape, raw_quotes: false, raw_escapes: false, skip_quotes: false, skip_unset: false }
    }

    /// One word; blanks stay.
    pub fn word(&self, word: &str, lookup: Lookup<'_>) -> Result<Expanded, ShellError> {
        let (text, _, run) = self.run(word, lookup)?;
        Ok(Expanded { text, matched: run.0, unmatched: run.1 })
    }

    /// Several words, split at blanks that are not quoted, after variables were put in.
    pub fn words(&self, text: &str, lookup: Lookup<'_>) -> Result<Vec<String>, ShellError> {
        Ok(self.run(text, lookup)?.1)
    }

    #[allow(clippy::type_complexity)]
    fn run(
        &self,
        word: &str,
        lookup: Lookup<'_>,
    ) -> Result<(String, Vec<String>, (BTreeSet<String>, BTreeSet<String>)), ShellError> {
        let failed = |message: String| ShellError { word: word.to_owned(), message };
        let chars: Vec<char> = word.strip_prefix('\u{feff}').unwrap_or(word).chars().collect();
        let mut run = Run {
            shell: self,
            chars: &chars,
            at: 0,
            lookup,
            raw_escapes: self.raw_escapes,
            depth: 0,
            made: 0,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        };
        let (text, words) = run.until(None, self.raw_escapes).map_err(failed)?;
        Ok((text, words, (run.matched, run.unmatched)))
    }
}

struct Run<'a> {
    shell: &'a Shell,
    chars: &'a [char],
    at: usize,
    lookup: Lookup<'a>,
    raw_escapes: bool,
    depth: usize,
    /// Bytes put in so far.
    made: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

#[derive(Default)]
struct Words {
    word: String,
    list: Vec<String>,
}

impl Words {
    fn push(&mut self, c: char) {
        match c.is_whitespace() {
            true => self.end(),
            false => self.word.push(c),
        }
    }

    fn end(&mut self) {
        if !self.word.is_empty() {
            self.list.push(std::mem::take(&mut self.word));
        }
    }
}

impl Run<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Vec<String>), String> {
        let before = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let result = self.until_inner(stop);
        self.raw_escapes = before;
        result
    }

    fn until_inner(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), String> {
        let (mut text, mut words) = (String::new(), Words::default());
        while let Some(c) = self.peek() {
            if stop == Some(c) {
                self.at += 1;
                words.end();
                return Ok((text, words.list));
            }
            match c {
                '$' => {
                    let part = self.dollar()?;
                    part.chars().for_each(|c| words.push(c));
                    text.push_str(&part);
                }
                '\'' | '"' if !self.shell.skip_quotes => {
                    let part = if c == '\'' { self.single_quoted()? } else { self.double_quoted()? };
                    words.word.push_str(&part);
                    text.push_str(&part);
                }
                '<' => {
                    let part = self.possible_heredoc();
                    words.word.push_str(&part);
                    text.push_str(&part);
                }
                _ => {
                    self.at += 1;
                    if c != self.shell.escape {
                        words.push(c);
                        text.push(c);
                        continue;
                    }
                    if self.raw_escapes {
                        words.word.push(c);
                        text.push(c);
                    }
                    // An escape at the end is dropped.
                    let Some(next) = self.next() else { break };
                    words.word.push(next);
                    text.push(next);
                }
            }
        }
        match stop {
            Some(stop) => Err(format!("unexpected end of statement while looking for matching {stop}")),
            None => {
                words.end();
                Ok((text, words.list))
            }
        }
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let mut out = String::new();
        let raw = self.shell.raw_quotes;
        out.extend(self.next().filter(|_| raw));
        loop {
            match self.next() {
                None => return Err("unexpected end of statement while looking for matching single-quote".to_owned()),
                Some('\'') => {
                    out.extend(raw.then_some('\''));
                    return Ok(out);
                }
                Some(c) => out.push(c),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        let mut out = String::new();
        let raw = self.shell.raw_quotes;
        out.extend(self.next().filter(|_| raw));
        loop {
            match self.peek() {
                None => return Err("unexpected end of statement while looking for matching double-quote".to_owned()),
                Some('"') => {
                    self.at += 1;
                    out.extend(raw.then_some('"'));
                    return Ok(out);
                }
                Some('$') => out.push_str(&self.dollar()?),
                Some(c) => {
                    self.at += 1;
                    if c != self.shell.escape {
                        out.push(c);
                        continue;
                    }
                    if self.raw_escapes {
                        out.push(c);
                    }
                    match self.peek() {
                        None => {}
                        // Only these can be escaped; before others the escape stays.
                        Some(next) if next == '"' || next == '$' || next == self.shell.escape => {
                            self.at += 1;
                            out.push(next);
                        }
                        Some(_) => out.push(c),
                    }
                }
            }
        }
    }

    /// `<<` takes the blanks behind it along, so that `<< NAME` is one word.
    fn possible_heredoc(&mut self) -> String {
        self.at += 1;
        if self.peek() != Some('<') {
            return "<".to_owned();
        }
        self.at += 1;
        let mut out = "<<".to_owned();
        while let Some(c) = self.peek().filter(|c| matches!(c, '\t' | '\r' | ' ')) {
            out.push(c);
            self.at += 1;
        }
        out
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if name.is_empty() && c.is_numeric() {
                while let Some(c) = self.peek().filter(|c| c.is_numeric()) {
                    name.push(c);
                    self.at += 1;
                }
                return name;
            }
            if name.is_empty() && matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
                self.at += 1;
                return c.to_string();
            }
            if !c.is_alphanumeric() && c != '_' {
                break;
            }
            name.push(c);
            self.at += 1;
        }
        name
    }

    fn value(&mut self, name: &str) -> Result<Option<String>, String> {
        let value = (self.lookup)(name);
        let set = if value.is_some() { &mut self.matched } else { &mut self.unmatched };
        set.insert(name.to_owned());
        self.made += value.as_ref().map_or(0, String::len);
        if self.made > RESULT_BYTES_MAX {
            return Err(format!("the result is longer than {RESULT_BYTES_MAX} bytes"));
        }
        Ok(value)
    }

    fn dollar(&mut self) -> Result<String, String> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.value(&name)? {
                None if self.shell.skip_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.at += 1;
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(format!("syntax error: more than {NESTING_MAX} nested substitutions"));
        }
        let result = self.braces();
        self.depth -= 1;
        result
    }

    /// Behind `${`.
    fn braces(&mut self) -> Result<String, String> {
        match self.peek() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        let name = self.name();
        let unsupported = |what: &str| format!("unsupported modifier ({what}) in substitution");
        let Some(first) = self.next() else { return Err(unsupported("\u{fffd}")) };
        match first {
            '}' => Ok(match self.value(&name)? {
                None if self.shell.skip_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            ':' => {
                let Some(modifier) = self.next() else { return Err(unsupported(":\u{fffd}")) };
                match modifier {
                    '+' | '-' | '?' => self.alternative(&name, modifier, true),
                    '#' | '%' => Err(unsupported(&format!(":{modifier}"))),
                    other => {
                        // The word is read first, as in BuildKit: a missing brace is the better message.
                        self.modifier_word(false)?;
                        Err(unsupported(&format!(":{other}")))
                    }
                }
            }
            '+' | '-' | '?' => self.alternative(&name, first, false),
            '#' | '%' => self.trimmed(&name, first),
            '/' => self.replaced(&name),
            other => Err(unsupported(&other.to_string())),
        }
    }

    fn modifier_word(&mut self, raw_escapes: bool) -> Result<String, String> {
        match self.until(Some('}'), raw_escapes) {
            Ok((word, _)) => Ok(word),
            Err(_) if self.peek().is_none() => Err("syntax error: missing '}'".to_owned()),
            Err(message) => Err(message),
        }
    }

    fn alternative(&mut self, name: &str, modifier: char, empty_is_unset: bool) -> Result<String, String> {
        let word = self.modifier_word(false)?;
        let value = self.value(name)?;
        let colon = if empty_is_unset { ":" } else { "" };
        if self.shell.skip_unset && value.is_none() {
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let usable = value.as_ref().is_some_and(|value| !empty_is_unset || !value.is_empty());
        match modifier {
            '-' => Ok(if usable { value.unwrap_or_default() } else { word }),
            '+' => Ok(if usable { word } else { String::new() }),
            _ if usable => Ok(value.unwrap_or_default()),
            _ => {
                let what = if value.is_none() { "is not allowed to be unset" } else { "is not allowed to be empty" };
                Err(format!("{name}: {}", if word.is_empty() { what } else { &word }))
            }
        }
    }

    fn trimmed(&mut self, name: &str, modifier: char) -> Result<String, String> {
        let word = self.modifier_word(true)?;
        let value = self.value(name)?;
        if self.shell.skip_unset && value.is_none() {
            return Ok(format!("${{{name}{modifier}{word}}}"));
        }
        let (longest, word) = match word.strip_prefix(modifier) {
            Some(rest) => (true, rest),
            None => (false, word.as_str()),
        };
        let failed = |cause: String| format!("invalid pattern ({word}) in substitution: {cause}");
        let pattern = Pattern::new(word).map_err(failed)?;
        let mut chars: Vec<char> = value.unwrap_or_default().chars().collect();
        let mut steps = 0;
        if modifier == '%' {
            chars.reverse();
            let length = pattern.reversed().prefix(&chars, longest, &mut steps).map_err(failed)?.unwrap_or(0);
            return Ok(chars[length..].iter().rev().collect());
        }
        let length = pattern.prefix(&chars, longest, &mut steps).map_err(failed)?.unwrap_or(0);
        Ok(chars[length..].iter().collect())
    }

    fn replaced(&mut self, name: &str) -> Result<String, String> {
        let all = self.peek() == Some('/');
        self.at += usize::from(all);
        let pattern = match self.until(Some('/'), true) {
            Ok((pattern, _)) => pattern,
            Err(_) if self.peek().is_none() => return Err("syntax error: missing '/' in ${}".to_owned()),
            Err(message) => return Err(message),
        };
        let with = self.modifier_word(true)?;
        let value = self.value(name)?;
        if self.shell.skip_unset && value.is_none() {
            return Ok(format!("${{{name}/{pattern}/{with}}}"));
        }
        let failed = |cause: String| format!("invalid pattern ({pattern}) in substitution: {cause}");
        let replaced = Pattern::new(&pattern).map_err(failed)?.replace(&value.unwrap_or_default(), &with, all);
        let replaced = replaced.map_err(failed)?;
        self.made += replaced.len();
        if self.made > RESULT_BYTES_MAX {
            return Err(format!("the result is longer than {RESULT_BYTES_MAX} bytes"));
        }
        Ok(replaced)
    }
}

/// Looks names up in `KEY=value` entries; the last one counts.
pub fn env_lookup(env: &[String]) -> impl Fn(&str) -> Option<String> + '_ {
    |name| env.iter().rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}
