//! `why`: why a container is in the state that it is in.
//!
//! ```text
//!  inspect, exit record, last lines of the log --+
//!                                                +--> Facts --explain--> summary, details, hint   (pure)
//!  program of a start that failed --examine------+
//! ```
//!
//! A summary is what is known for sure; what is only likely stands in the details, and a hint is given only
//! where it can be acted on.

mod explain;
mod port;
mod program;

use super::record::Cleaning;
use super::{Containers, Inspect, LogOptions, Why};
use crate::files::Root;
use berth_shim_proto::ExitRecord;
use berth_types::{Phase, Result};
use explain::Facts;
use std::path::Path;

/// So many of the last lines of a log are quoted.
const LINES_MAX: usize = 5;
/// A start writes some hundred kilobytes.
const ROOM_BYTES_MIN: u64 = 1 << 20;
/// Longer ones are cut.
const LINE_BYTES_MAX: usize = 200;

impl Containers {
    /// Why it is in the state that it is in.
    pub async fn why(&self, container: &str) -> Result<Why> {
        let inspect = self.inspect(container, false).await?;
        let exit = self.exit_record(&inspect).await;
        let failed_start = !inspect.state.error.is_empty() && !matches!(inspect.state.phase, Phase::Running { .. });
        let said_127 =
            matches!(inspect.state.exit_code, 126 | 127) && matches!(inspect.state.phase, Phase::Exited { .. });
        let (lines, program) = match inspect.state.phase {
            Phase::Exited { .. } | Phase::Created => {
                let lines = self.last_lines(inspect.id.as_str()).await;
                let looked = inspect.clone();
                let program = match failed_start || said_127 {
                    true => super::archive::blocking(move || Ok(examine(&looked))).await.unwrap_or_default(),
                    false => None,
                };
                (lines, program)
            }
            _ => (Vec::new(), None),
        };
        let taken = port::named(&inspect.state.error).filter(|_| failed_start);
        let (engine, own) = (self.engine.clone(), inspect.id.to_string());
        let port_holder = match taken {
            Some(port) => {
                let look = move || Ok(port::publisher(engine.table(), &own, port));
                super::archive::blocking(look).await.unwrap_or_default()
            }
            None => None,
        };
        let config = self.engine.config();
        let full = [&config.data_root, &config.exec_root].into_iter().filter_map(|folder| full(folder)).collect();
        let unwritten =
            self.get(inspect.id.as_str()).is_ok_and(|found| *found.live().cleaned.borrow() == Cleaning::Unwritten);
        let facts = Facts {
            full,
            unwritten,
            port_holder: port_holder.as_deref(),
            inspect: &inspect,
            exit: exit.as_ref(),
            program: program.as_ref(),
            lines: &lines,
            now_unix_nanos: crate::events::now_unix_nanos(),
        };
        let (summary, details, hint) = explain::explain(&facts);
        Ok(Why { name: inspect.name, id: inspect.id, summary, details, hint })
    }

    /// How the last run ended, in the shim's words.
    async fn exit_record(&self, inspect: &Inspect) -> Option<ExitRecord> {
        self.get(inspect.id.as_str()).ok()?.last_exit()
    }

    /// The newest lines of the log, none where it cannot be read.
    async fn last_lines(&self, container: &str) -> Vec<String> {
        let options = LogOptions { stdout: true, stderr: true, tail: Some(LINES_MAX), ..LogOptions::default() };
        let Ok(mut stream) = self.logs(container, options).await else { return Vec::new() };
        let mut lines = Vec::new();
        while let Some(Ok(record)) = stream.next().await {
            let line = record.line.get(..LINE_BYTES_MAX).unwrap_or(&record.line);
            lines.push(String::from_utf8_lossy(line).trim_end().to_owned());
        }
        lines
    }
}

/// What a person is told of a folder whose disk has no room for the next start.
fn full(folder: &Path) -> Option<String> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    let (free, whole) = (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize));
    let no_files = disk.f_files > 0 && disk.f_favail == 0;
    let what = match (free < ROOM_BYTES_MIN, no_files) {
        (true, _) => format!("{} of {} are free", explain::bytes(free), explain::bytes(whole)),
        (false, true) => "it can hold no more files (inodes)".to_owned(),
        (false, false) => return None,
    };
    Some(format!("the disk of {} is full: {what}", folder.display()))
}

/// Looks at the program that could not be started.
fn examine(inspect: &Inspect) -> Option<program::Program> {
    let root = Root::of_layers(inspect.rootfs.as_ref()?).ok()?;
    let env = inspect.spec.config.env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
    let path = env.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let cwd = if inspect.spec.config.working_dir.is_empty() { "/" } else { &inspect.spec.config.working_dir };
    Some(program::examine(&root, &inspect.path, path, Path::new(cwd)))
}
