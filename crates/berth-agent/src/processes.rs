//! Processes of the container, as `ps` would list them.

use berth_agent_proto::Process;
use std::path::Path;

/// USER_HZ of every kernel on this processor.
const TICKS_PER_SECOND: u64 = 100;
const PAGE_BYTES: u64 = 4096;
const COMMAND_BYTES_MAX: usize = 4096;

/// Those of `pids` that are still there.
pub(crate) fn list(pids: &[i32], root: i32) -> Vec<Process> {
    let users = std::fs::read_to_string(format!("/proc/{root}/root/etc/passwd")).unwrap_or_default();
    let booted = std::fs::read_to_string("/proc/stat")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
        .unwrap_or(0);
    pids.iter().filter_map(|&pid| read(pid, &users, booted)).collect()
}

fn read(pid: i32, users: &str, booted: i64) -> Option<Process> {
    use std::os::unix::fs::MetadataExt;
    let folder = Path::new("/proc").join(pid.to_string());
    let uid = std::fs::metadata(&folder).ok()?.uid();
    let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
    let mut command = std::fs::read(folder.join("cmdline")).unwrap_or_default();
    command.truncate(COMMAND_BYTES_MAX);
    let words = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    parse(pid, &stat, words, uid, booted, users)
}

fn parse(pid: i32, stat: &str, words: String, uid: u32, booted: i64, users: &str) -> Option<Process> {
    // The name is in parentheses and may have some of its own.
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let name = stat.get(open + 1..close)?;
    let fields: Vec<&str> = stat.get(close + 1..)?.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|text| text.parse::<i64>().ok());
    let count = |at: usize| number(at).and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
    let (terminal, started) = (number(4)?, count(19));
    let user = users.lines().find_map(|line| {
        let mut parts = line.split(':');
        let (name, id) = (parts.next()?, parts.nth(1)?);
        (id == uid.to_string()).then(|| name.to_owned())
    });
    let seconds = i64::try_from(started / TICKS_PER_SECOND).unwrap_or(0);
    Some(Process {
        pid,
        parent: i32::try_from(number(1)?).ok()?,
        uid,
        user: user.unwrap_or_else(|| uid.to_string()),
        terminal: if terminal == 0 { "?".to_owned() } else { format!("pts/{}", terminal & 0xff) },
        started_unix_seconds: booted + seconds,
        cpu_millis: (count(11) + count(12)) * 1000 / TICKS_PER_SECOND,
        resident_bytes: count(21) * PAGE_BYTES,
        virtual_bytes: count(20),
        state: (*fields.first()?).to_owned(),
        command: if words.is_empty() { format!("[{name}]") } else { words },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read_whatever_the_name() {
        let stat = "7 (a) b (c) S 1 7 7 34816 7 4194560 100 0 0 0 3 4 0 0 20 0 1 0 250 4096000 25 0 0";
        let process = parse(7, stat, String::new(), 33, 1000, "root:x:0:0::/:\nweb:x:33:33::/:\n").unwrap();
        assert_eq!((process.parent, process.user.as_str(), process.terminal.as_str()), (1, "web", "pts/0"));
        assert_eq!((process.cpu_millis, process.started_unix_seconds), (70, 1002));
        assert_eq!((process.resident_bytes, process.command.as_str()), (25 * 4096, "[a) b (c]"));
        assert!(parse(7, "nonsense", String::new(), 0, 0, "").is_none());
    }
}
