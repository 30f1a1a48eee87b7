//! Nodes and data to text.

use super::parse::{Base, Node, Operand, Pipeline};
use super::{TemplateError, funcs};
use crate::value::Value;

struct Exec<'a> {
    out: String,
    variables: Vec<(String, Value)>,
    root: &'a Value,
    header: bool,
}

enum Flow {
    On,
    Break,
    Continue,
}

/// A value with the name of the field it came from, by which a null prints as `[]` or `map[]`.
struct Found {
    value: Value,
    name: Option<String>,
}

impl Found {
    fn plain(value: Value) -> Found {
        Found { value, name: None }
    }
}

pub(super) fn execute(nodes: &[Node], data: &Value, header: bool) -> Result<String, TemplateError> {
    let mut exec = Exec { out: String::new(), variables: Vec::new(), root: data, header };
    exec.nodes(nodes, data)?;
    Ok(exec.out)
}

impl Exec<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        for node in nodes {
            match self.node(node, dot)? {
                Flow::On => {}
                flow => return Ok(flow),
            }
        }
        Ok(Flow::On)
    }

    fn scoped(&mut self, nodes: &[Node], dot: &Value, mark: usize) -> Result<Flow, TemplateError> {
        let flow = self.nodes(nodes, dot)?;
        self.variables.truncate(mark);
        Ok(flow)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, TemplateError> {
        let mark = self.variables.len();
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
            Node::Print(pipeline) => {
                let found = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    let text = match &found.name {
                        Some(name) => funcs::print_field(name, &found.value),
                        None => funcs::print(&found.value),
                    };
                    self.out.push_str(&text);
                }
            }
            Node::If { when, then, other } => {
                let yes = funcs::truth(&self.pipeline(when, dot)?.value);
                return self.scoped(if yes { then } else { other }, dot, mark);
            }
            Node::With { what, then, other } => {
                let value = self.pipeline(what, dot)?.value;
                return match funcs::truth(&value) {
                    true => self.scoped(then, &value, mark),
                    false => self.scoped(other, dot, mark),
                };
            }
            Node::Range { over, body, other } => {
                let value = self.range_value(over, dot)?;
                let items = pairs(value).map_err(|message| exec_error("range", message))?;
                if items.is_empty() {
                    return self.scoped(other, dot, mark);
                }
                for (key, item) in items {
                    match over.variables.as_slice() {
                        [one] => self.variables.push((one.clone(), item.clone())),
                        [first, second, ..] => {
                            self.variables.push((first.clone(), key));
                            self.variables.push((second.clone(), item.clone()));
                        }
                        [] => {}
                    }
                    if let Flow::Break = self.scoped(body, &item, mark)? {
                        break;
                    }
                }
                return Ok(Flow::On);
            }
        }
        Ok(Flow::On)
    }

    /// In `range $i, $e := x` the variables are set per element, not to the whole.
    fn range_value(&mut self, over: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut last = None;
        for command in &over.commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.map_or(Value::Null, |f| f.value))
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Found, TemplateError> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, dot, last)?);
        }
        let found = last.unwrap_or(Found::plain(Value::Null));
        for name in &pipeline.variables {
            if pipeline.declares {
                self.variables.push((name.clone(), found.value.clone()));
            } else {
                match self.variables.iter_mut().rev().find(|(n, _)| n == name) {
                    Some(slot) => slot.1 = found.value.clone(),
                    None => return Err(exec_error(&format!("${name}"), format!("undefined variable \"${name}\""))),
                }
            }
        }
        Ok(found)
    }

    fn command(&mut self, operands: &[Operand], dot: &Value, piped: Option<Found>) -> Result<Found, TemplateError> {
        let first = operands.first().expect("the parser makes no empty command");
        placed(self.call(operands, dot, piped), first)
    }

    fn call(&mut self, operands: &[Operand], dot: &Value, piped: Option<Found>) -> Result<Found, TemplateError> {
        let (first, rest) = operands.split_first().expect("the parser makes no empty command");
        if let Base::Function(name) = &first.base
            && first.fields.is_empty()
        {
            // `and` and `or` stop at the first operand that decides.
            if matches!(name.as_str(), "and" | "or") {
                return self.short_circuit(name == "and", rest, dot, piped);
            }
            let mut arguments = Vec::with_capacity(rest.len() + 1);
            for operand in rest {
                arguments.push(self.operand(operand, dot)?.value);
            }
            arguments.extend(piped.map(|f| f.value));
            let value = funcs::call(name, arguments, self.header)
                .map_err(|message| exec_error(name, format!("error calling {name}: {message}")))?;
            return Ok(Found::plain(value));
        }
        let mut found = self.operand(first, dot)?;
        let mut arguments = Vec::new();
        for operand in rest {
            arguments.push(self.operand(operand, dot)?.value);
        }
        arguments.extend(piped.map(|f| f.value));
        match (&found.value, arguments.first()) {
            (Value::Lookup(map), Some(key)) => {
                let key = funcs::print(key);
                let value = map.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone()).unwrap_or_default();
                found = Found::plain(Value::Str(value));
            }
            (_, Some(_)) => {
                let at = describe(first);
                return Err(exec_error(&at, format!("can't give argument to non-function {at}")));
            }
            _ => {}
        }
        Ok(found)
    }

    fn short_circuit(
        &mut self,
        and: bool,
        rest: &[Operand],
        dot: &Value,
        piped: Option<Found>,
    ) -> Result<Found, TemplateError> {
        let mut last = Found::plain(Value::Null);
        for operand in rest {
            last = self.operand(operand, dot)?;
            if funcs::truth(&last.value) != and {
                return Ok(last);
            }
        }
        Ok(piped.unwrap_or(last))
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Found, TemplateError> {
        placed(self.evaluate(operand, dot), operand)
    }

    fn evaluate(&mut self, operand: &Operand, dot: &Value) -> Result<Found, TemplateError> {
        match &operand.base {
            Base::Dot => field_of(dot, operand),
            Base::Variable(name) if name.is_empty() => field_of(self.root, operand),
            Base::Variable(name) => match self.variables.iter().rev().find(|(n, _)| n == name) {
                Some((_, value)) => field_of(value, operand),
                None => Err(exec_error(&format!("${name}"), format!("undefined variable \"${name}\""))),
            },
            Base::Literal(value) => Ok(Found::plain(value.clone())),
            Base::Function(name) => {
                let value = funcs::call(name, Vec::new(), self.header)
                    .map_err(|message| exec_error(name, format!("error calling {name}: {message}")))?;
                Ok(Found::plain(value))
            }
            Base::Pipeline(inner) => {
                let value = self.pipeline(inner, dot)?.value;
                field_of(&value, operand)
            }
        }
    }
}

/// A key that a map lacks is no value; a field that is null is an empty list or map.
fn field_of(from: &Value, operand: &Operand) -> Result<Found, TemplateError> {
    Ok(match follow(from, &operand.fields, operand)? {
        Some(value) => {
            let name = match operand.fields.as_slice() {
                [.., parent, last] if parent == "LogConfig" => Some(format!("{parent}.{last}")),
                fields => fields.last().cloned(),
            };
            Found { value: value.clone(), name }
        }
        None => Found::plain(Value::Null),
    })
}

/// What `.A.B.C` names. Go's field names differ from the JSON ones in case only (`.ID` and `.Id`,
/// `.NanoCPUs` and `.NanoCpus`), so a name that is not there is tried without regard to case.
fn follow<'v>(from: &'v Value, fields: &[String], operand: &Operand) -> Result<Option<&'v Value>, TemplateError> {
    static NULL: Value = Value::Null;
    let mut value = from;
    let (mut parent, mut in_map) = ("", false);
    for name in fields {
        value = match value {
            Value::Map(map) => {
                let exact = map.iter().find(|(k, _)| k == name);
                match exact.or_else(|| map.iter().find(|(k, _)| k.eq_ignore_ascii_case(name))) {
                    Some((_, v)) => v,
                    None if in_map => return Ok(None),
                    None if funcs::POINTERS.contains(&name.as_str()) => &NULL,
                    None => return Err(exec_error(&describe(operand), format!("map has no entry for key {name:?}"))),
                }
            }
            Value::Null if in_map => return Ok(None),
            Value::Null => {
                return Err(exec_error(&describe(operand), format!("nil data; no entry for key {name:?}")));
            }
            _ => {
                let message = format!("can't evaluate field {name} in type interface {{}}");
                return Err(exec_error(&describe(operand), message));
            }
        };
        in_map = funcs::MAPS.contains(&name.as_str()) || (parent == "LogConfig" && name == "Config");
        parent = name;
    }
    Ok(Some(value))
}

fn describe(operand: &Operand) -> String {
    let base = match &operand.base {
        Base::Variable(name) => format!("${name}"),
        Base::Function(name) => name.clone(),
        Base::Literal(value) => funcs::print(value),
        Base::Pipeline(_) => "(...)".to_owned(),
        Base::Dot => String::new(),
    };
    let fields: String = operand.fields.iter().map(|f| format!(".{f}")).collect();
    if base.is_empty() && fields.is_empty() { ".".to_owned() } else { base + &fields }
}

fn exec_error(at: &str, message: impl Into<String>) -> TemplateError {
    TemplateError::Exec { name: "", place: UNPLACED, at: at.to_owned(), message: message.into() }
}

const UNPLACED: (usize, usize) = (0, 0);

/// Says where in the template an error is; the innermost operand knows best.
fn placed<T>(result: Result<T, TemplateError>, operand: &Operand) -> Result<T, TemplateError> {
    result.map_err(|error| match error {
        TemplateError::Exec { name, place: UNPLACED, at, message } => {
            TemplateError::Exec { name, place: operand.place, at, message }
        }
        error => error,
    })
}

/// What `range` walks: lists in order, maps by sorted key as Go does.
fn pairs(value: Value) -> Result<Vec<(Value, Value)>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::List(items) => Ok(items.into_iter().enumerate().map(|(i, v)| (Value::Int(i as i64), v)).collect()),
        Value::Map(mut fields) => {
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(fields.into_iter().map(|(k, v)| (Value::Str(k), v)).collect())
        }
        Value::Int(n) if (0..=1_000_000).contains(&n) => Ok((0..n).map(|i| (Value::Int(i), Value::Int(i))).collect()),
        other => Err(format!("range can't iterate over {}", funcs::print(&other))),
    }
}
