//! Resource limits (getrlimit(2)).

use crate::error::{LaunchError, Step};
use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Sets them. One that this process may not raise is set as high as it may, with a warning.
pub(crate) fn apply(limits: &[PosixRlimit], warnings: &mut Vec<String>) -> Result<(), LaunchError> {
    for limit in limits {
        let resource = resource(limit.typ());
        let value = |number: u64| (number != u64::MAX).then_some(number);
        let wanted = Rlimit { current: value(limit.soft()), maximum: value(limit.hard()) };
        match setrlimit(resource, wanted) {
            Ok(()) => {}
            Err(Errno::PERM) => {
                let have = getrlimit(resource).maximum;
                let lower = |wanted: Option<u64>| match (wanted, have) {
                    (Some(wanted), Some(have)) => Some(wanted.min(have)),
                    (wanted, have) => wanted.or(have),
                };
                let clamped = Rlimit { current: lower(wanted.current), maximum: lower(wanted.maximum) };
                setrlimit(resource, clamped).step(|| format!("set rlimit {:?}", limit.typ()))?;
                warnings.push(format!(
                    "{:?} cannot be raised above the engine's own limit here; it is set to that",
                    limit.typ()
                ));
            }
            Err(errno) => return Err(errno).step(|| format!("set rlimit {:?}", limit.typ())),
        }
    }
    Ok(())
}

fn resource(typ: PosixRlimitType) -> Resource {
    match typ {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}
