//! Instructions, typed, and their variables.

use crate::error::Lines;
use crate::lint::Warning;
use crate::mount::Mount;
use crate::shell::ShellError;

/// A whole file.
#[derive(Debug, Clone)]
pub struct Dockerfile {
    pub stages: Vec<Stage>,
    /// `ARG` before the first `FROM`.
    pub meta_args: Vec<Instruction>,
    pub escape: char,
    pub directives: Vec<crate::Directive>,
    pub warnings: Vec<Warning>,
}

/// `FROM` and what follows it.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Lower case; `None` without `AS`.
    pub name: Option<String>,
    pub base: String,
    /// `--platform`, empty where not given.
    pub platform: String,
    pub keyword: String,
    pub code: String,
    pub lines: Lines,
    pub comments: Vec<String>,
    pub instructions: Vec<Instruction>,
}

#[derive(Debug, Clone)]
pub struct Instruction {
    /// As written.
    pub keyword: String,
    /// The joined line.
    pub code: String,
    pub lines: Lines,
    pub comments: Vec<String>,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Add(Add),
    Arg(Vec<Arg>),
    Cmd(Command),
    Copy(Copy),
    Entrypoint(Command),
    Env(Vec<Pair>),
    Expose(Vec<String>),
    Healthcheck(Health),
    Label(Vec<Pair>),
    Maintainer(String),
    /// The trigger's text.
    Onbuild(String),
    Run(Box<Run>),
    Shell(Vec<String>),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub key: String,
    pub value: String,
    /// The old form `ENV key value`.
    pub no_delimiter: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    pub key: String,
    pub value: Option<String>,
}

/// What is copied, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sources {
    pub paths: Vec<String>,
    pub contents: Vec<Content>,
    pub destination: String,
}

/// A file whose content is a here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub path: String,
    pub data: String,
    pub expand: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Add {
    pub sources: Sources,
    pub chown: String,
    pub chmod: String,
    pub link: bool,
    pub exclude: Vec<String>,
    pub keep_git_dir: Option<bool>,
    pub checksum: String,
    pub unpack: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copy {
    pub sources: Sources,
    pub from: String,
    pub chown: String,
    pub chmod: String,
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<String>,
}

/// A command in one of its forms.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    pub line: Vec<String>,
    pub files: Vec<crate::Heredoc>,
    /// Not a JSON list: the stage's shell runs it.
    pub in_shell: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Run {
    pub command: Command,
    /// As written; [`Run::mounts`] has them read.
    pub mount_flags: Vec<String>,
    pub mounts: Vec<Mount>,
    pub network: Network,
    /// `--security=insecure`
    pub insecure: bool,
    /// `--device`, kept to be refused with a clear word.
    pub devices: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    #[default]
    Default,
    None,
    Host,
}

/// As in an image's configuration; times in nanoseconds, 0 where not given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    pub test: Vec<String>,
    pub interval_nanos: i64,
    pub timeout_nanos: i64,
    pub start_period_nanos: i64,
    pub start_interval_nanos: i64,
    pub retries: u32,
}

impl Health {
    /// As Go prints the structure (`%+v`), which is what BuildKit writes into the history.
    pub fn go_format(&self) -> String {
        use crate::duration::go_format;
        format!(
            "{{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            self.test.join(" "),
            go_format(self.interval_nanos),
            go_format(self.timeout_nanos),
            go_format(self.start_period_nanos),
            go_format(self.start_interval_nanos),
            self.retries
        )
    }
}

/// Puts variables into a word.
pub type Expander<'a> = &'a mut dyn FnMut(&str) -> Result<String, ShellError>;

/// Why variables could not be put in.
#[derive(Debug, thiserror::Error)]
pub enum ExpandError {
    #[error(transparent)]
    Word(#[from] ShellError),
    #[error("{0}")]
    Mount(String),
}

fn all(list: &mut [String], expander: Expander<'_>) -> Result<(), ShellError> {
    for word in list {
        *word = expander(word)?;
    }
    Ok(())
}

impl Sources {
    fn expand(&mut self, expander: Expander<'_>) -> Result<(), ShellError> {
        all(&mut self.paths, expander)?;
        self.destination = expander(&self.destination)?;
        Ok(())
    }

    fn expand_contents(&mut self, expander: Expander<'_>) -> Result<(), ShellError> {
        for content in self.contents.iter_mut().filter(|content| content.expand) {
            content.data = expander(&content.data)?;
        }
        Ok(())
    }
}

impl Instruction {
    /// Puts variables in where this instruction has them. `ARG` is left to the caller: its values depend on
    /// what was given from outside. `EXPOSE` may become several words and is left too.
    pub fn expand(&mut self, expander: Expander<'_>) -> Result<(), ExpandError> {
        match &mut self.kind {
            Kind::Add(add) => {
                for text in [&mut add.chown, &mut add.chmod, &mut add.checksum] {
                    *text = expander(text)?;
                }
                add.sources.expand(expander)?;
            }
            Kind::Copy(copy) => {
                for text in [&mut copy.chown, &mut copy.chmod] {
                    *text = expander(text)?;
                }
                copy.sources.expand(expander)?;
            }
            Kind::Env(pairs) | Kind::Label(pairs) => {
                for pair in pairs {
                    pair.key = expander(&pair.key)?;
                    pair.value = expander(&pair.value)?;
                }
            }
            Kind::User(word) | Kind::Workdir(word) | Kind::StopSignal(word) => *word = expander(word)?,
            Kind::Volume(list) => all(list, expander)?,
            Kind::Run(run) => {
                let mut mounts = Vec::with_capacity(run.mount_flags.len());
                for flag in &run.mount_flags {
                    mounts.push(crate::mount::parse(flag, Some(expander)).map_err(ExpandError::Mount)?);
                }
                run.mounts = mounts;
            }
            Kind::Arg(_)
            | Kind::Cmd(_)
            | Kind::Entrypoint(_)
            | Kind::Expose(_)
            | Kind::Healthcheck(_)
            | Kind::Maintainer(_)
            | Kind::Onbuild(_)
            | Kind::Shell(_) => {}
        }
        Ok(())
    }

    /// Puts variables into here-documents; quotes in them are ordinary characters.
    pub fn expand_contents(&mut self, expander: Expander<'_>) -> Result<(), ShellError> {
        match &mut self.kind {
            Kind::Add(add) => add.sources.expand_contents(expander),
            Kind::Copy(copy) => copy.sources.expand_contents(expander),
            _ => Ok(()),
        }
    }
}
