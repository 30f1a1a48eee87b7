//! Lines become nodes: a keyword, its flags, its arguments, its here-documents.

use crate::directive::{Directive, Reader};
use crate::error::{Lines, ParseError};
use crate::lint::{Rule, Warning};
use crate::shell::Shell;
use crate::words;

/// A whole Dockerfile; BuildKit's gateway has the same limit for one.
pub(crate) const BYTES_MAX: usize = 16 << 20;
/// One line of the file (Go's `bufio.MaxScanTokenSize`).
const LINE_BYTES_MAX: usize = 64 << 10;

/// One instruction's text, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// As written.
    pub keyword: String,
    /// The joined line.
    pub original: String,
    pub flags: Vec<String>,
    pub args: Vec<String>,
    /// The arguments came as a JSON list.
    pub json: bool,
    /// `ONBUILD`'s instruction.
    pub child: Option<Box<Node>>,
    pub heredocs: Vec<Heredoc>,
    pub lines: Lines,
    /// Comment lines directly above.
    pub comments: Vec<String>,
}

/// `<<NAME` and the lines up to NAME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    pub descriptor: u64,
    /// Variables in it are to be put in: no part of the name was quoted.
    pub expand: bool,
    /// `<<-`: leading tabs go.
    pub chomp: bool,
    pub content: String,
}

impl Heredoc {
    /// Content with leading tabs taken away, if it asks for that.
    pub fn text(&self) -> String {
        match self.chomp {
            true => chomp(&self.content),
            false => self.content.clone(),
        }
    }
}

/// Takes leading tabs from every line.
pub(crate) fn chomp(text: &str) -> String {
    text.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

/// What the text of a Dockerfile says.
#[derive(Debug)]
pub(crate) struct Text {
    pub nodes: Vec<Node>,
    pub escape: char,
    pub directives: Vec<Directive>,
    pub warnings: Vec<Warning>,
}

struct Source<'a> {
    lines: std::iter::Peekable<std::str::SplitInclusive<'a, char>>,
    number: usize,
}

impl<'a> Source<'a> {
    /// The next line with its end.
    fn next(&mut self) -> Result<Option<&'a str>, ParseError> {
        let Some(line) = self.lines.next() else { return Ok(None) };
        if line.len() > LINE_BYTES_MAX {
            let message = format!("dockerfile line greater than max allowed size of {}", LINE_BYTES_MAX - 1);
            return Err(ParseError::text(message, self.number + 1, self.number + 1));
        }
        self.number += 1;
        Ok(Some(line))
    }
}

fn without_end(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// The line without its continuation mark, and whether it had one.
fn continued(line: &str, escape: char) -> (&str, bool) {
    let end = line.trim_end_matches([' ', '\t']);
    match end.strip_suffix(escape) {
        // An escaped escape is none. One that stands alone on its line is.
        Some(before) if before.is_empty() || !before.ends_with(escape) => (before, true),
        _ => (line, false),
    }
}

pub(crate) fn read(text: &str) -> Result<Text, ParseError> {
    if text.len() > BYTES_MAX {
        return Err(ParseError::plain(format!("dockerfile is larger than {BYTES_MAX} bytes")));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut source = Source { lines: text.split_inclusive('\n').peekable(), number: 0 };
    let mut reader = Reader::default();
    let mut out = Text { nodes: Vec::new(), escape: '\\', directives: Vec::new(), warnings: Vec::new() };
    let mut comments: Vec<String> = Vec::new();
    while let Some(raw) = source.next()? {
        let first = source.number;
        if is_comment(raw) {
            // BuildKit takes one byte away, whatever it is.
            let mut chars = raw.chars();
            chars.next();
            match chars.as_str().trim() {
                "" => comments.clear(),
                comment => comments.push(comment.to_owned()),
            }
        }
        let line = without_end(raw).trim_start();
        match reader.read(line).map_err(|message| ParseError::text(message, first, first))? {
            Some(directive) => {
                comments.pop();
                if directive.name == "escape" {
                    out.escape = match directive.value.as_str() {
                        "\\" => '\\',
                        "`" => '`',
                        other => {
                            let message = format!("invalid escape token '{other}' does not match ` or \\");
                            return Err(ParseError::text(message, first, first));
                        }
                    };
                }
                out.directives.push(directive);
            }
            None if is_comment(line) => {}
            None => {
                if let Some(node) = statement(line, &mut source, &mut reader, &mut out)? {
                    out.nodes.push(Node { comments: std::mem::take(&mut comments), ..node });
                }
            }
        }
    }
    if out.nodes.is_empty() {
        return Err(ParseError::text("file with no instructions", source.number, source.number));
    }
    Ok(out)
}

/// The instruction that begins with `line`, with the lines that continue it and its here-documents.
fn statement(
    line: &str,
    source: &mut Source<'_>,
    reader: &mut Reader,
    out: &mut Text,
) -> Result<Option<Node>, ParseError> {
    let first = source.number;
    let (start, mut more) = continued(line, out.escape);
    if !more && start.is_empty() {
        return Ok(None);
    }
    let mut whole = start.to_owned();
    let mut empty_line = false;
    while more {
        let Some(raw) = source.next()? else { break };
        reader.read(without_end(raw)).ok();
        if is_comment(raw) {
            continue;
        }
        let line = without_end(raw);
        if line.trim_start().is_empty() {
            empty_line = true;
            continue;
        }
        let (part, again) = continued(line, out.escape);
        whole.push_str(part);
        more = again;
    }
    if empty_line {
        let lines = Lines::new(source.number, source.number);
        out.warnings.push(Warning::new(Rule::NoEmptyContinuation, "Empty continuation line".to_owned(), lines));
    }
    let mut node = node(&whole, out.escape, 0).map_err(|message| ParseError::text(message, first, source.number))?;
    if can_have_heredocs(&node) && whole.contains("<<") {
        for mut heredoc in heredocs_of(&whole) {
            let mut ended = false;
            while let Some(raw) = source.next()? {
                let end = without_end(raw);
                let end = if heredoc.chomp { end.trim_start_matches('\t') } else { end };
                if end == heredoc.name {
                    ended = true;
                    break;
                }
                heredoc.content.push_str(raw);
            }
            if !ended {
                return Err(ParseError::text("unterminated heredoc", first, source.number));
            }
            node.heredocs.push(heredoc);
        }
    }
    node.lines = Lines::new(first, source.number);
    if let Some(child) = &mut node.child {
        child.lines = node.lines;
    }
    Ok(Some(node))
}

fn can_have_heredocs(node: &Node) -> bool {
    let node = match &node.child {
        Some(child) if node.keyword.eq_ignore_ascii_case("onbuild") => child,
        _ => node,
    };
    !node.json && ["add", "copy", "run"].iter().any(|name| node.keyword.eq_ignore_ascii_case(name))
}

/// `ONBUILD ONBUILD ONBUILD ...` is refused later; it must not exhaust the stack before.
const NESTING_MAX: usize = 8;

fn node(line: &str, escape: char, depth: usize) -> Result<Node, String> {
    let trimmed = line.trim();
    let (keyword, rest) = words::split_first(trimmed).unwrap_or((trimmed, ""));
    let (flags, rest) = words::flags(rest, escape);
    let rest = rest.trim();
    let mut node = Node {
        keyword: keyword.to_owned(),
        original: line.to_owned(),
        flags,
        args: Vec::new(),
        json: false,
        child: None,
        heredocs: Vec::new(),
        lines: Lines::new(0, 0),
        comments: Vec::new(),
    };
    match keyword.to_ascii_lowercase().as_str() {
        "add" | "copy" | "volume" => match json_list(rest)? {
            Some(list) => (node.args, node.json) = (list, true),
            None => node.args = blank_separated(rest),
        },
        "cmd" | "entrypoint" | "run" | "shell" => maybe_json(rest, &mut node)?,
        "env" => node.args = key_values(rest, "ENV", escape)?,
        "label" => node.args = key_values(rest, "LABEL", escape)?,
        "arg" => node.args = words::words(rest, escape),
        "expose" | "from" => node.args = blank_separated(rest),
        "maintainer" | "stopsignal" | "user" | "workdir" => node.args.extend(whole(rest)),
        "healthcheck" => {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            if end > 0 {
                node.args.push(rest[..end].to_owned());
                maybe_json(rest[end..].trim_start(), &mut node)?;
            }
        }
        "onbuild" if !rest.is_empty() => {
            if depth >= NESTING_MAX {
                return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned());
            }
            let child = self::node(rest, escape, depth + 1)?;
            node.args.push(child.keyword.clone());
            node.args.extend(child.args.iter().cloned());
            node.child = Some(Box::new(child));
        }
        _ => {}
    }
    Ok(node)
}

fn whole(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

fn blank_separated(text: &str) -> Vec<String> {
    match text {
        "" => Vec::new(),
        _ => words::split_blanks(text).into_iter().map(str::to_owned).collect(),
    }
}

fn maybe_json(text: &str, node: &mut Node) -> Result<(), String> {
    match json_list(text)? {
        Some(list) => {
            node.args.extend(list);
            node.json = true;
        }
        None => node.args.extend(whole(text)),
    }
    Ok(())
}

/// `Some`: a JSON list of texts. A list of other things is an error, everything else is no list.
fn json_list(text: &str) -> Result<Option<Vec<String>>, String> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(list) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
    let texts = list.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err("when using JSON array syntax, arrays must be comprised of strings only".to_owned()),
    });
    texts.collect::<Result<Vec<_>, _>>().map(Some)
}

/// Key, value and separator (empty for the old form `KEY rest of line`) of each pair in turn.
fn key_values(text: &str, name: &str, escape: char) -> Result<Vec<String>, String> {
    let list = words::words(text, escape);
    let Some(first) = list.first() else { return Ok(Vec::new()) };
    if !first.contains('=') {
        let (key, value) = words::split_first(text).ok_or_else(|| format!("{name} must have two arguments"))?;
        return Ok(vec![key.to_owned(), value.to_owned(), String::new()]);
    }
    let mut out = Vec::with_capacity(list.len() * 3);
    for word in &list {
        let (key, value) = word.split_once('=').ok_or_else(|| {
            let shown = crate::quote(word);
            format!("Syntax error - can't find = in {shown}. Must be of the form: name=value")
        })?;
        out.extend([key.to_owned(), value.to_owned(), "=".to_owned()]);
    }
    Ok(out)
}

/// The here-documents that a line announces.
fn heredocs_of(line: &str) -> Vec<Heredoc> {
    let shell = Shell { raw_quotes: true, raw_escapes: true, skip_unset: true, ..Shell::new('\\') };
    // What cannot be split announces none, as in BuildKit.
    let words = shell.words(line, &|_: &str| None).unwrap_or_default();
    words.iter().filter_map(|word| parse_heredoc(word)).collect()
}

/// Reads `3<<-"NAME"`; `None` where the word is no here-document.
pub fn parse_heredoc(word: &str) -> Option<Heredoc> {
    let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    let rest = word[digits..].strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start_matches(['\t', '\n', '\x0c', '\r', ' ']);
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let shell = Shell { skip_unset: true, ..Shell::new('\\') };
    let raw = Shell { raw_quotes: true, ..shell.clone() };
    let none = |_: &str| None;
    let [name] = <[String; 1]>::try_from(shell.words(rest, &none).ok()?).ok()?;
    let [with_quotes] = <[String; 1]>::try_from(raw.words(rest, &none).ok()?).ok()?;
    let quotes = |text: &str| text.chars().filter(|c| matches!(c, '\'' | '"')).count();
    Some(Heredoc {
        expand: quotes(&name) == quotes(&with_quotes),
        name,
        descriptor: word[..digits].parse().unwrap_or(0),
        chomp,
        content: String::new(),
    })
}
