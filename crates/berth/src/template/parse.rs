//! Tokens to nodes.

use super::lex::{Spanned, Token};
use super::{DEPTH_MAX, TemplateError};
use crate::value::Value;

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    If { when: Pipeline, then: Vec<Node>, other: Vec<Node> },
    With { what: Pipeline, then: Vec<Node>, other: Vec<Node> },
    Range { over: Pipeline, body: Vec<Node>, other: Vec<Node> },
    Break,
    Continue,
}

/// `$a, $b := first | second | third`
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) variables: Vec<String>,
    pub(super) declares: bool,
    pub(super) commands: Vec<Vec<Operand>>,
}

#[derive(Debug)]
pub(super) struct Operand {
    pub(super) base: Base,
    /// `.A.B` behind the base.
    pub(super) fields: Vec<String>,
    /// Line and column that an error names: Go counts a chain of fields from its second one.
    pub(super) place: (usize, usize),
}

#[derive(Debug)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Function(String),
    Literal(Value),
    Pipeline(Box<Pipeline>),
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Spanned>>,
    line: usize,
    column: usize,
    depth: usize,
    loops: usize,
}

/// What closed a list of nodes.
#[derive(PartialEq)]
enum Closed {
    Eof,
    End,
    Else,
    ElseIf,
    ElseWith,
}

pub(super) fn parse(tokens: Vec<Spanned>) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { tokens: tokens.into_iter().peekable(), line: 1, column: 0, depth: 0, loops: 0 };
    let (nodes, end) = parser.list()?;
    match end {
        Closed::Eof => Ok(nodes),
        Closed::End => parser.error("unexpected {{end}}"),
        _ => parser.error("unexpected {{else}}"),
    }
}

impl Parser {
    fn error<T>(&self, message: impl Into<String>) -> Result<T, TemplateError> {
        Err(TemplateError::Parse { line: self.line, message: message.into() })
    }

    fn next(&mut self) -> Option<Token> {
        let spanned = self.tokens.next()?;
        (self.line, self.column) = (spanned.line, spanned.column);
        Some(spanned.token)
    }

    fn peek(&mut self) -> Option<&Token> {
        self.tokens.peek().map(|s| &s.token)
    }

    fn list(&mut self) -> Result<(Vec<Node>, Closed), TemplateError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.error("nested too deeply");
        }
        let mut nodes = Vec::new();
        let end = loop {
            match self.next() {
                None => break Closed::Eof,
                Some(Token::Text(text)) => nodes.push(Node::Text(text)),
                Some(Token::Open) => {
                    if let Some(end) = self.action(&mut nodes)? {
                        break end;
                    }
                }
                Some(_) => return self.error("unexpected token outside an action"),
            }
        };
        self.depth -= 1;
        Ok((nodes, end))
    }

    fn action(&mut self, nodes: &mut Vec<Node>) -> Result<Option<Closed>, TemplateError> {
        let word = match self.peek() {
            Some(Token::Word(word)) => word.clone(),
            _ => String::new(),
        };
        match word.as_str() {
            "end" => {
                self.next();
                self.close()?;
                return Ok(Some(Closed::End));
            }
            "else" => {
                self.next();
                match self.next() {
                    Some(Token::Close) => return Ok(Some(Closed::Else)),
                    Some(Token::Word(w)) if w == "if" => return Ok(Some(Closed::ElseIf)),
                    Some(Token::Word(w)) if w == "with" => return Ok(Some(Closed::ElseWith)),
                    _ => return self.error("unexpected token in else clause"),
                }
            }
            "if" | "with" => {
                self.next();
                let node = self.branch(word == "with")?;
                nodes.push(node);
            }
            "range" => {
                self.next();
                let over = self.pipeline()?;
                self.close()?;
                self.loops += 1;
                let (body, end) = self.list()?;
                self.loops -= 1;
                let other = self.otherwise(end)?;
                nodes.push(Node::Range { over, body, other });
            }
            "break" | "continue" => {
                self.next();
                if self.loops == 0 {
                    return self.error(format!("{{{{{word}}}}} outside {{{{range}}}}"));
                }
                self.close()?;
                nodes.push(if word == "break" { Node::Break } else { Node::Continue });
            }
            "define" | "template" | "block" => return self.error(format!("{word} is not supported in --format")),
            _ => {
                if matches!(self.peek(), Some(Token::Close)) {
                    return self.error("missing value for command");
                }
                let pipeline = self.pipeline()?;
                self.close()?;
                nodes.push(Node::Print(pipeline));
            }
        }
        Ok(None)
    }

    /// The rest of `if` or `with` behind its keyword.
    fn branch(&mut self, with: bool) -> Result<Node, TemplateError> {
        let when = self.pipeline()?;
        self.close()?;
        let (then, end) = self.list()?;
        let other = self.otherwise(end)?;
        Ok(if with { Node::With { what: when, then, other } } else { Node::If { when, then, other } })
    }

    fn otherwise(&mut self, end: Closed) -> Result<Vec<Node>, TemplateError> {
        match end {
            Closed::End => Ok(Vec::new()),
            Closed::Eof => self.error("unexpected EOF"),
            Closed::Else => match self.list()? {
                (nodes, Closed::End) => Ok(nodes),
                (_, Closed::Eof) => self.error("unexpected EOF"),
                _ => self.error("expected end; found {{else}}"),
            },
            Closed::ElseIf | Closed::ElseWith => {
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return self.error("nested too deeply");
                }
                let node = self.branch(end == Closed::ElseWith)?;
                self.depth -= 1;
                Ok(vec![node])
            }
        }
    }

    fn close(&mut self) -> Result<(), TemplateError> {
        match self.next() {
            Some(Token::Close) => Ok(()),
            Some(Token::RightParen) => self.error("unexpected right paren"),
            Some(token) => self.error(format!("unexpected {token:?} in command")),
            None => self.error("unclosed action"),
        }
    }

    fn pipeline(&mut self) -> Result<Pipeline, TemplateError> {
        let (mut variables, mut declares) = (Vec::new(), false);
        // `$x` may open a declaration or be a value: look at what follows it.
        while let Some(Token::Variable(name)) = self.peek().cloned() {
            let follows = self.tokens.clone().nth(1).map(|s| s.token);
            match follows {
                Some(Token::Declare | Token::Assign) => {
                    self.next();
                    declares = self.next() == Some(Token::Declare);
                    variables.push(name);
                    break;
                }
                Some(Token::Comma) => {
                    self.next();
                    self.next();
                    variables.push(name);
                }
                _ => break,
            }
        }
        let mut commands = Vec::new();
        loop {
            let command = self.command()?;
            if command.is_empty() {
                return self.error("missing value for command");
            }
            commands.push(command);
            if !matches!(self.peek(), Some(Token::Pipe)) {
                return Ok(Pipeline { variables, declares, commands });
            }
            self.next();
        }
    }

    fn command(&mut self) -> Result<Vec<Operand>, TemplateError> {
        let mut operands: Vec<Operand> = Vec::new();
        loop {
            match self.peek() {
                None | Some(Token::Close | Token::Pipe | Token::RightParen) => return Ok(operands),
                _ => {}
            }
            let token = self.next();
            let place = (self.line, self.column);
            let base = match token {
                Some(Token::Field { name, glued }) => {
                    let continues = glued
                        && operands
                            .last()
                            .is_some_and(|o| !o.fields.is_empty() || !matches!(o.base, Base::Function(_) | Base::Dot));
                    if continues && let Some(last) = operands.last_mut() {
                        last.fields.push(name);
                        if last.fields.len() == 2 && matches!(last.base, Base::Dot) {
                            last.place = place;
                        }
                        continue;
                    }
                    let fields = if name.is_empty() { Vec::new() } else { vec![name] };
                    operands.push(Operand { base: Base::Dot, fields, place });
                    continue;
                }
                Some(Token::Variable(name)) => Base::Variable(name),
                Some(Token::Str(s)) => Base::Literal(Value::Str(s)),
                Some(Token::Int(n)) => Base::Literal(Value::Int(n)),
                Some(Token::Float(f)) => Base::Literal(Value::Float(f)),
                Some(Token::Word(word)) => match word.as_str() {
                    "true" => Base::Literal(Value::Bool(true)),
                    "false" => Base::Literal(Value::Bool(false)),
                    "nil" => Base::Literal(Value::Null),
                    _ if super::funcs::exists(&word) => Base::Function(word),
                    _ => return self.error(format!("function {word:?} not defined")),
                },
                Some(Token::LeftParen) => {
                    self.depth += 1;
                    if self.depth > DEPTH_MAX {
                        return self.error("nested too deeply");
                    }
                    let inner = self.pipeline()?;
                    if self.next() != Some(Token::RightParen) {
                        return self.error("unclosed left paren");
                    }
                    self.depth -= 1;
                    Base::Pipeline(Box::new(inner))
                }
                token => return self.error(format!("unexpected {token:?} in operand")),
            };
            operands.push(Operand { base, fields: Vec::new(), place });
        }
    }
}

pub(super) fn mentions(nodes: &[Node], name: &str) -> bool {
    fn in_pipeline(p: &Pipeline, name: &str) -> bool {
        p.commands.iter().flatten().any(|o| {
            // The whole row holds it too: `{{json .}}`, `{{json $}}`.
            let whole = match &o.base {
                Base::Dot => true,
                Base::Variable(variable) => variable.is_empty(),
                _ => false,
            };
            o.fields.first().map_or(whole, |field| field.eq_ignore_ascii_case(name))
                || matches!(&o.base, Base::Pipeline(inner) if in_pipeline(inner, name))
        })
    }
    nodes.iter().any(|node| match node {
        Node::Text(_) | Node::Break | Node::Continue => false,
        Node::Print(p) => in_pipeline(p, name),
        Node::If { when: p, then, other }
        | Node::With { what: p, then, other }
        | Node::Range { over: p, body: then, other } => {
            in_pipeline(p, name) || mentions(then, name) || mentions(other, name)
        }
    })
}
