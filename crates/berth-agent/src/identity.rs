//! A guest that becomes another one: after a clone or a fork two must share nothing that has to be their own.

use crate::network;
use berth_agent_proto::{Failure, FailureKind, Identity};
use rustix::time::{ClockId, Timespec};
use std::process::Command;

const HOST_KEYS: &str = "/etc/ssh";

fn internal(what: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Internal, what.to_string())
}

pub(crate) fn set_clock(unix_nanos: i64) -> Result<(), Failure> {
    let time = Timespec { tv_sec: unix_nanos.div_euclid(1_000_000_000), tv_nsec: unix_nanos.rem_euclid(1_000_000_000) };
    rustix::time::clock_settime(ClockId::Realtime, time)
        .map_err(|errno| internal(format!("cannot set the clock: {errno}")))
}

/// Does all of it, entropy first: what is made anew must differ. Answers what could not be done.
pub(crate) fn become_another(identity: &Identity) -> Result<Vec<String>, Failure> {
    let mut notes = Vec::new();
    if !identity.entropy.is_empty() {
        let bytes = bytes_of(&identity.entropy)
            .ok_or_else(|| Failure::new(FailureKind::Invalid, "the entropy is not in hexadecimal digits"))?;
        berth_sys::entropy::mix_in(&bytes).map_err(|errno| internal(format!("cannot mix in entropy: {errno}")))?;
    }
    if identity.clock_unix_nanos != 0 {
        set_clock(identity.clock_unix_nanos)?;
    }
    if let Some(id) = &identity.machine_id {
        if id.len() != 32 || bytes_of(id).is_none() {
            return Err(Failure::new(FailureKind::Invalid, "a machine-id has 32 hexadecimal digits"));
        }
        write("/etc/machine-id", &format!("{id}\n"), &mut notes);
    }
    if let Some(name) = &identity.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(|errno| internal(format!("cannot set the host name: {errno}")))?;
        write("/etc/hostname", &format!("{name}\n"), &mut notes);
    }
    network::interfaces(&identity.interfaces)?;
    if identity.new_host_keys {
        host_keys(&mut notes);
    }
    Ok(notes)
}

fn write(path: &str, text: &str, notes: &mut Vec<String>) {
    if let Err(cause) = std::fs::write(path, text) {
        notes.push(format!("{path} was not written: {cause}"));
    }
}

fn bytes_of(hexadecimal: &str) -> Option<Vec<u8>> {
    let digits = hexadecimal.as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(pair).collect()).flatten()
}

fn host_keys(notes: &mut Vec<String>) {
    let is_key = |name: &str| name.starts_with("ssh_host_") && (name.ends_with("_key") || name.ends_with("_key.pub"));
    for entry in std::fs::read_dir(HOST_KEYS).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_key)
            && let Err(cause) = std::fs::remove_file(entry.path())
        {
            notes.push(format!("{} stays: {cause}", entry.path().display()));
        }
    }
    match Command::new("ssh-keygen").arg("-A").output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => notes.push(format!("ssh-keygen: {}", String::from_utf8_lossy(&output.stderr).trim())),
        // No SSH, no keys.
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
        Err(cause) => notes.push(format!("cannot start ssh-keygen: {cause}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_come_in_pairs() {
        assert_eq!(bytes_of("00ff7a"), Some(vec![0, 255, 0x7a]));
        assert_eq!(bytes_of("0"), None);
        assert_eq!(bytes_of("zz"), None);
    }
}
