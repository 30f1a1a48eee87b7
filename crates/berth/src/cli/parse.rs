//! Words to flags and arguments, by pflag's rules.

use super::Called;
use crate::error::{CliError, Result};
use crate::suggest;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Flag {
    pub(crate) short: Option<char>,
    pub(crate) long: &'static str,
    /// `string`, `list`, `int`...; empty for a switch.
    pub(crate) word: &'static str,
    pub(crate) help: &'static str,
}

impl Flag {
    /// Reads `-m, --memory bytes  Memory limit`.
    pub(crate) fn from_line(line: &'static str) -> Option<Flag> {
        let line = line.trim();
        let (spec, help) = line.split_once("  ")?;
        let (short, spec) = match spec.split_once(", ") {
            Some((short, rest)) => (short.strip_prefix('-')?.chars().next(), rest),
            None => (None, spec),
        };
        let (long, word) = spec.split_once(' ').unwrap_or((spec, ""));
        Some(Flag { short, long: long.strip_prefix("--")?, word, help: help.trim() })
    }
}

/// A command's flags as given and its arguments.
#[derive(Debug, Default)]
pub(crate) struct Args {
    flags: Vec<Flag>,
    given: Vec<(&'static str, String)>,
    pub(crate) words: Vec<String>,
}

impl Args {
    fn known(&self, name: &str) -> &Flag {
        self.flags.iter().find(|f| f.long == name).expect("code asks only for flags of its command's table")
    }

    pub(crate) fn has_flag(&self, name: &str) -> bool {
        self.flags.iter().any(|f| f.long == name)
    }

    pub(crate) fn changed(&self, name: &str) -> bool {
        self.known(name);
        self.given.iter().any(|(n, _)| *n == name)
    }

    /// The last value given, or an empty string.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.known(name);
        self.given.iter().rev().find(|(n, _)| *n == name).map_or("", |(_, v)| v)
    }

    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        self.known(name);
        self.given.iter().filter(|(n, _)| *n == name).map(|(_, v)| v.as_str()).collect()
    }

    /// As `list`, but commas separate values too (pflag's `strings`).
    pub(crate) fn commas(&self, name: &str) -> Vec<&str> {
        self.list(name).into_iter().flat_map(|v| v.split(',')).filter(|v| !v.is_empty()).collect()
    }

    /// A switch; one whose help ends in `(default true)` is on unless turned off.
    pub(crate) fn on(&self, name: &str) -> bool {
        match self.given.iter().rev().find(|(n, _)| *n == name) {
            Some((_, v)) => v == "true",
            None => self.known(name).help.ends_with("(default true)"),
        }
    }

    pub(crate) fn int(&self, name: &str) -> Result<i64> {
        match self.text(name) {
            "" => Ok(0),
            text => parse_int(text).ok_or_else(|| self.invalid(name, text, "strconv.ParseInt: parsing")),
        }
    }

    pub(crate) fn bytes(&self, name: &str) -> Result<i64> {
        match self.text(name) {
            "" => Ok(0),
            text => crate::units::parse_bytes(text).map_err(|e| self.because(name, text, &e)),
        }
    }

    /// Nanoseconds.
    pub(crate) fn duration(&self, name: &str) -> Result<i64> {
        match self.text(name) {
            "" => Ok(0),
            text => crate::units::parse_duration(text).map_err(|e| self.because(name, text, &e)),
        }
    }

    pub(crate) fn because(&self, name: &str, value: &str, why: &str) -> CliError {
        let flag = self.known(name);
        let shown = match flag.short {
            Some(c) => format!("-{c}, --{name}"),
            None => format!("--{name}"),
        };
        CliError::usage(format!("invalid argument {value:?} for {shown:?} flag: {why}"))
    }

    fn invalid(&self, name: &str, value: &str, what: &str) -> CliError {
        self.because(name, value, &format!("{what} {value:?}: invalid syntax"))
    }
}

fn parse_int(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Options of `berth` itself, in front of the command.
#[derive(Debug, Default)]
pub(crate) struct Global {
    pub(crate) host: Option<String>,
    pub(crate) context: Option<String>,
    pub(crate) config: Option<String>,
    pub(crate) tls_verify: bool,
    pub(crate) tls_ca: Option<String>,
    pub(crate) tls_cert: Option<String>,
    pub(crate) tls_key: Option<String>,
    pub(crate) version: bool,
    pub(crate) help: bool,
}

pub(crate) const GLOBAL_FLAGS: &str = "
    --config string  Location of client config files (default ~/.docker)
-c, --context string  Name of the context to use (overrides DOCKER_HOST and the default context)
-D, --debug  Accepted for compatibility
-H, --host list  Engine socket to connect to, or the name of a host (berth host ls)
-l, --log-level string  Accepted for compatibility
    --tls  Refused: use --tlsverify, which checks who answers
    --tlscacert string  Trust certs signed only by this CA (default ca.pem of DOCKER_CERT_PATH)
    --tlscert string  Path to TLS certificate file (default cert.pem there)
    --tlskey string  Path to TLS key file (default key.pem there)
    --tlsverify  Use TLS and verify the remote
-v, --version  Print version information and quit
    --help  Print usage";

pub(crate) fn parse_global(argv: Vec<String>) -> Result<(Global, Vec<String>)> {
    let flags: Vec<Flag> = GLOBAL_FLAGS.lines().filter_map(Flag::from_line).collect();
    let args = parse(argv, flags, true)?;
    if args.on("tls") && !args.on("tlsverify") {
        return Err(CliError::usage("--tls alone would accept anybody's certificate").with_hint("use --tlsverify"));
    }
    let text = |name: &str| args.changed(name).then(|| args.text(name).to_owned());
    let global = Global {
        host: text("host"),
        context: text("context"),
        config: text("config"),
        tls_verify: args.on("tlsverify"),
        tls_ca: text("tlscacert"),
        tls_cert: text("tlscert"),
        tls_key: text("tlskey"),
        version: args.on("version"),
        help: args.on("help"),
    };
    Ok((global, args.words))
}

/// None when help was asked for.
pub(crate) fn parse_command(called: Called, argv: Vec<String>) -> Result<Option<Args>> {
    let command = called.command;
    let mut flags = command.parsed_flags();
    flags.push(Flag { short: None, long: "help", word: "", help: "Print usage" });
    if !flags.iter().any(|f| f.short == Some('h')) {
        flags.push(Flag { short: Some('h'), long: "h", word: "", help: "Print usage" });
    }
    let args = parse(argv, flags, command.tail)?;
    if args.on("help") || (args.has_flag("h") && args.on("h")) {
        return Ok(None);
    }
    let count = args.words.len();
    if count < command.min || count > command.max {
        // Only a lower bound says "See", as Docker has it.
        let (how, see) = match (command.min, command.max) {
            (0, 0) => ("accepts no arguments".to_owned(), "Run"),
            (min, max) if min == max => (format!("requires {min} argument{}", plural(min)), "Run"),
            (min, usize::MAX) => (format!("requires at least {min} argument{}", plural(min)), "See"),
            (0, max) => (format!("requires at most {max} argument{}", plural(max)), "Run"),
            (min, max) => (format!("requires at least {min} and at most {max} arguments"), "Run"),
        };
        let (path, usage) = (called.path, called.usage());
        return Err(CliError::failed(format!(
            "berth: 'berth {path}' {how}\n\nUsage:  {usage}\n\n{see} 'berth {path} --help' for more information"
        )));
    }
    Ok(Some(args))
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

fn parse(argv: Vec<String>, flags: Vec<Flag>, tail: bool) -> Result<Args> {
    let mut args = Args { flags, ..Args::default() };
    let mut rest = argv.into_iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            args.words.extend(rest);
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let Some(flag) = args.flags.iter().find(|f| f.long == name && f.long.len() > 1).cloned() else {
                let near = suggest::nearest(name, args.flags.iter().map(|f| f.long));
                let error = CliError::usage(format!("unknown flag: --{name}"));
                return Err(match near {
                    Some(near) => error.with_hint(format!("did you mean --{near}?")),
                    None => error,
                });
            };
            let value = match (flag.word.is_empty(), value) {
                (true, value) => switch(&args, &flag, value)?,
                (false, Some(value)) => value,
                (false, None) => {
                    rest.next().ok_or_else(|| CliError::usage(format!("flag needs an argument: --{name}")))?
                }
            };
            args.given.push((flag.long, value));
        } else if word.len() > 1 && word.starts_with('-') {
            for (at, letter) in word[1..].char_indices() {
                let Some(flag) = args.flags.iter().find(|f| f.short == Some(letter)).cloned() else {
                    return Err(CliError::usage(format!("unknown shorthand flag: {letter:?} in {word}")));
                };
                let behind = &word[1 + at + letter.len_utf8()..];
                if flag.word.is_empty() {
                    match behind.strip_prefix('=') {
                        Some(value) => {
                            let value = switch(&args, &flag, Some(value.to_owned()))?;
                            args.given.push((flag.long, value));
                            break;
                        }
                        None => args.given.push((flag.long, "true".to_owned())),
                    }
                    continue;
                }
                let value = match behind {
                    "" => rest
                        .next()
                        .ok_or_else(|| CliError::usage(format!("flag needs an argument: {letter:?} in {word}")))?,
                    behind => behind.strip_prefix('=').unwrap_or(behind).to_owned(),
                };
                args.given.push((flag.long, value));
                break;
            }
        } else {
            args.words.push(word);
            if tail {
                args.words.extend(rest);
                break;
            }
        }
    }
    Ok(args)
}

fn switch(args: &Args, flag: &Flag, value: Option<String>) -> Result<String> {
    match value {
        None => Ok("true".to_owned()),
        Some(text) => match parse_bool(&text) {
            Some(b) => Ok(b.to_string()),
            None => Err(args.invalid(flag.long, &text, "strconv.ParseBool: parsing")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &str = "-i, --interactive  Keep STDIN open
-t, --tty  Allocate a terminal
    --rm  Remove
-e, --env list  Environment
-m, --memory bytes  Memory
    --sig-proxy  Proxy signals (default true)
-p, --publish list  Ports";

    fn read(words: &[&str], tail: bool) -> Result<Args> {
        let flags = FLAGS.lines().filter_map(Flag::from_line).collect();
        parse(words.iter().map(|w| (*w).to_owned()).collect(), flags, tail)
    }

    #[test]
    fn short_flags_combine_and_take_values_glued_or_not() {
        let args = read(&["-it", "-p80:80", "-p=81:81", "-p", "82:82", "-ie", "A=1", "img"], true).unwrap();
        assert!(args.on("interactive") && args.on("tty") && !args.on("rm"));
        assert_eq!(args.list("publish"), ["80:80", "81:81", "82:82"]);
        assert_eq!(args.list("env"), ["A=1"]);
        assert_eq!(args.words, ["img"]);
    }

    #[test]
    fn options_end_at_the_image() {
        let args = read(&["--rm", "img", "sh", "-c", "--rm", "-x"], true).unwrap();
        assert_eq!(args.words, ["img", "sh", "-c", "--rm", "-x"]);
        let args = read(&["a", "--rm", "b", "--", "--tty"], false).unwrap();
        assert!(args.on("rm"));
        assert_eq!(args.words, ["a", "b", "--tty"]);
    }

    #[test]
    fn switches_take_values_only_after_an_equals_sign() {
        let args = read(&["--sig-proxy=false", "--rm=1", "--tty", "false"], true).unwrap();
        assert!(!args.on("sig-proxy") && args.on("rm") && args.on("tty"));
        assert_eq!(args.words, ["false"]);
        assert!(read(&["x"], true).unwrap().on("sig-proxy"));
        assert!(read(&["--rm=maybe"], true).is_err());
    }

    #[test]
    fn wrong_flags_are_named_with_a_guess() {
        let error = read(&["--memroy", "1g"], true).unwrap_err();
        assert!(error.to_string().starts_with("unknown flag: --memroy"));
        assert_eq!(error.hint(), Some("did you mean --memory?"));
        assert_eq!(error.exit_code(), 125);
        assert!(read(&["-x"], true).unwrap_err().to_string().starts_with("unknown shorthand flag: 'x' in -x"));
        assert!(read(&["--env"], true).unwrap_err().to_string().starts_with("flag needs an argument: --env"));
    }
}
