//! Go's text/template, as far as `--format` needs it.
//!
//! ```text
//! source --lex--> tokens --parse--> nodes --execute(data)--> text
//! ```
//!
//! Actions, pipelines, variables, `if`/`else if`/`with`/`range` (with `break` and `continue`),
//! trim markers, comments, Go's own functions and Docker's (`json`, `split`, `join`, `title`, `lower`,
//! `upper`, `pad`, `truncate`, `println`). `define`, `template` and `block` are refused by name.
//! Messages have Go's wording, since scripts show them to people who look them up.

mod exec;
mod funcs;
mod lex;
mod parse;
mod printf;
#[cfg(test)]
mod tests;

use crate::value::Value;

/// Nesting of control structures and parentheses: a deeper template is a mistake, not a wish.
const DEPTH_MAX: usize = 100;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("template: :{line}: {message}")]
    Parse { line: usize, message: String },
    #[error("template: {name}:{}:{}: executing {name:?} at <{at}>: {message}", place.0, place.1)]
    Exec { name: &'static str, place: (usize, usize), at: String, message: String },
}

impl TemplateError {
    /// The same, said of a template that has a name.
    pub(crate) fn named(self, name: &'static str) -> TemplateError {
        match self {
            TemplateError::Exec { place, at, message, .. } => TemplateError::Exec { name, place, at, message },
            parse => parse,
        }
    }

    /// The same, said of rows of the Go type `kind` instead of a map.
    pub(crate) fn about(self, kind: &str) -> TemplateError {
        match self {
            TemplateError::Exec { name, place, at, message } => {
                let field = message.strip_prefix("map has no entry for key ").map(|field| field.trim_matches('"'));
                let message = match field {
                    Some(field) => format!("can't evaluate field {field} in type {kind}"),
                    None => message,
                };
                TemplateError::Exec { name, place, at, message }
            }
            parse => parse,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<parse::Node>,
    /// The header row is made by the same template; there the functions leave their argument alone.
    header: bool,
}

impl Template {
    pub(crate) fn parse(source: &str) -> Result<Template, TemplateError> {
        Ok(Template { nodes: parse::parse(lex::lex(source)?)?, header: false })
    }

    pub(crate) fn into_header(mut self) -> Template {
        self.header = true;
        self
    }

    pub(crate) fn execute(&self, data: &Value) -> Result<String, TemplateError> {
        exec::execute(&self.nodes, data, self.header)
    }

    /// Whether `.name` occurs anywhere, so that a costly figure is asked for only when it is shown.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        parse::mentions(&self.nodes, name)
    }
}
