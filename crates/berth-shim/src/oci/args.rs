//! Arguments of the OCI command line.
//!
//! A command is a table of flags; [`parse`] turns words into flags and the rest. What callers of runc and
//! crun write works: `--flag value`, `--flag=value`, `-f value`, `--switch=false`, `--` and Go's `-flag`.
//! A parser of our own because the program starts for every container: clap costs more than the parsing.

use std::ffi::OsString;
use std::path::PathBuf;

/// One flag of a command. `value` is the word for its value in the help, empty for a switch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) value: &'static str,
    pub(crate) help: &'static str,
}

/// A switch.
pub(crate) const fn switch(long: &'static str, short: Option<char>, help: &'static str) -> Flag {
    Flag { long, short, value: "", help }
}

/// A flag with a value.
pub(crate) const fn takes(long: &'static str, short: Option<char>, value: &'static str, help: &'static str) -> Flag {
    Flag { long, short, value, help }
}

/// Words that were refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ArgsError {
    #[error("unknown flag {0}")]
    Unknown(String),
    #[error("flag --{0} needs a value")]
    NeedsValue(&'static str),
    #[error("flag --{flag}: \"{value}\" is not {wanted}")]
    BadValue { flag: &'static str, value: String, wanted: &'static str },
    #[error("an argument is not UTF-8: {0}")]
    NotText(String),
    #[error("{command}: {what}")]
    Count { command: &'static str, what: &'static str },
}

/// The flags given, in order, and the words that were none.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    flags: Vec<(&'static str, String)>,
    pub(crate) rest: Vec<String>,
}

/// The program's words as text.
pub(crate) fn words(args: impl Iterator<Item = OsString>) -> Result<Vec<String>, ArgsError> {
    args.map(|word| word.into_string().map_err(|word| ArgsError::NotText(word.to_string_lossy().into_owned())))
        .collect()
}

/// Parses `words` by `table`. With `stop_early` the first word that is no flag ends the flags.
pub(crate) fn parse(words: &[String], table: &[Flag], stop_early: bool) -> Result<Parsed, ArgsError> {
    let mut parsed = Parsed::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.rest.extend(words.cloned());
            break;
        }
        let Some(body) = word.strip_prefix('-').filter(|body| !body.is_empty()) else {
            parsed.rest.push(word.clone());
            if stop_early {
                parsed.rest.extend(words.cloned());
                break;
            }
            continue;
        };
        let body = body.strip_prefix('-').unwrap_or(body);
        let (name, attached) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let one_letter = |flag: &&Flag| flag.short.is_some_and(|short| name.chars().eq([short]));
        let Some(flag) = table.iter().find(|flag| flag.long == name).or_else(|| table.iter().find(one_letter)) else {
            // Several switches in one word: -it.
            let letters: Option<Vec<&Flag>> = (!word.starts_with("--") && attached.is_none())
                .then(|| {
                    name.chars().map(|c| table.iter().find(|f| f.short == Some(c) && f.value.is_empty())).collect()
                })
                .flatten();
            let Some(letters) = letters else { return Err(ArgsError::Unknown(word.clone())) };
            parsed.flags.extend(letters.into_iter().map(|flag| (flag.long, "true".to_owned())));
            continue;
        };
        let value = match attached {
            Some(value) => value,
            None if flag.value.is_empty() => "true".to_owned(),
            None => words.next().cloned().ok_or(ArgsError::NeedsValue(flag.long))?,
        };
        if flag.value.is_empty() && !matches!(value.as_str(), "true" | "false" | "1" | "0") {
            return Err(ArgsError::BadValue { flag: flag.long, value, wanted: "true or false" });
        }
        parsed.flags.push((flag.long, value));
    }
    Ok(parsed)
}

impl Parsed {
    /// Whether the switch was given (and not as `=false`).
    pub(crate) fn has(&self, long: &str) -> bool {
        self.get(long).is_some_and(|value| value != "false" && value != "0")
    }

    /// The last value of a flag.
    pub(crate) fn get(&self, long: &str) -> Option<&str> {
        self.flags.iter().rev().find(|(name, _)| *name == long).map(|(_, value)| value.as_str())
    }

    pub(crate) fn path(&self, long: &str) -> Option<PathBuf> {
        self.get(long).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// All values of a repeatable flag.
    pub(crate) fn all<'a>(&'a self, long: &'a str) -> impl Iterator<Item = &'a str> {
        self.flags.iter().filter(move |(name, _)| *name == long).map(|(_, value)| value.as_str())
    }

    /// A number, if the flag was given.
    pub(crate) fn number<T: std::str::FromStr>(&self, long: &'static str) -> Result<Option<T>, ArgsError> {
        self.get(long)
            .map(|value| {
                let wrong = || ArgsError::BadValue { flag: long, value: value.to_owned(), wanted: "a number in range" };
                value.parse().map_err(|_| wrong())
            })
            .transpose()
    }

    /// The only word that is no flag: a container's id.
    pub(crate) fn only_id(&self, command: &'static str) -> Result<&str, ArgsError> {
        match self.rest.as_slice() {
            [id] => Ok(id),
            [] => Err(ArgsError::Count { command, what: "needs a container's ID" }),
            _ => Err(ArgsError::Count { command, what: "takes only a container's ID" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Flag] = &[
        takes("bundle", Some('b'), "DIR", ""),
        switch("detach", Some('d'), ""),
        switch("tty", Some('t'), ""),
        takes("env", Some('e'), "K=V", ""),
    ];

    fn parsed(line: &str, stop_early: bool) -> Result<Parsed, ArgsError> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words, TABLE, stop_early)
    }

    #[test]
    fn flags_take_values_in_every_spelling() {
        for line in ["--bundle x id", "--bundle=x id", "-b x id", "-b=x id", "-bundle x id", "id --bundle x"] {
            let parsed = parsed(line, false).unwrap();
            assert_eq!(parsed.get("bundle"), Some("x"), "{line}");
            assert_eq!(parsed.rest, ["id"], "{line}");
        }
    }

    #[test]
    fn switches_can_be_joined_and_turned_off() {
        let joined = parsed("-dt id", false).unwrap();
        assert!(joined.has("detach") && joined.has("tty"));
        assert!(!parsed("--detach=false id", false).unwrap().has("detach"));
        assert!(parsed("--detach=maybe", false).is_err());
    }

    #[test]
    fn words_after_the_id_belong_to_the_program_when_asked() {
        let exec = parsed("-e A=1 -e B=2 id ls -d --bundle", true).unwrap();
        assert_eq!(exec.rest, ["id", "ls", "-d", "--bundle"]);
        assert_eq!(exec.all("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert!(!exec.has("detach"));
    }

    #[test]
    fn what_is_unknown_or_unfinished_is_refused() {
        assert_eq!(parsed("--nope", false).unwrap_err(), ArgsError::Unknown("--nope".into()));
        assert_eq!(parsed("-dz", false).unwrap_err(), ArgsError::Unknown("-dz".into()));
        assert_eq!(parsed("--bundle", false).unwrap_err(), ArgsError::NeedsValue("bundle"));
    }
}
