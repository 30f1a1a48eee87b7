//! `--name`, `--name=value` of an instruction.

use crate::suggest;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum FlagKind {
    Bool,
    Text,
    /// May be given several times.
    List,
}

/// Flags that were given, by name.
pub(crate) struct Flags {
    given: Vec<(&'static str, String)>,
}

impl Flags {
    pub(crate) fn parse(flags: &[String], allowed: &[(&'static str, FlagKind)]) -> Result<Flags, String> {
        let mut given: Vec<(&'static str, String)> = Vec::new();
        for flag in flags {
            if flag == "--" {
                break;
            }
            let Some(bare) = flag.strip_prefix("--") else {
                return Err(format!("arg should start with -- : {flag}"));
            };
            let (name, value) = match bare.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (bare, None),
            };
            let Some((known, kind)) = allowed.iter().find(|(known, _)| *known == name) else {
                let message = format!("unknown flag: --{name}");
                return Err(suggest::with_suggestion(message, name, allowed.iter().map(|(known, _)| *known), true));
            };
            if *kind != FlagKind::List && given.iter().any(|(other, _)| other == known) {
                return Err(format!("duplicate flag specified: --{name}"));
            }
            let missing = || format!("missing a value on flag: --{name}");
            let value = match (kind, value) {
                (FlagKind::Bool, Some("")) => return Err(missing()),
                (FlagKind::Bool, None) => "true".to_owned(),
                (FlagKind::Bool, Some(value)) => match value.to_lowercase().as_str() {
                    "true" => "true".to_owned(),
                    "false" => "false".to_owned(),
                    _ => return Err(format!("expecting boolean value for flag --{name}, not: {value}")),
                },
                (_, None) => return Err(missing()),
                (_, Some(value)) => value.to_owned(),
            };
            given.push((known, value));
        }
        Ok(Flags { given })
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.given.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone()).unwrap_or_default()
    }

    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        self.given.iter().filter(|(known, _)| *known == name).map(|(_, value)| value.clone()).collect()
    }

    pub(crate) fn bool(&self, name: &str) -> Option<bool> {
        self.given.iter().find(|(known, _)| *known == name).map(|(_, value)| value == "true")
    }
}
