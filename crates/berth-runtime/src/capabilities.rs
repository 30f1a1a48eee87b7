//! The five capability sets (capabilities(7)).

use crate::error::{LaunchError, Step};
use oci_spec::runtime::{Capability, LinuxCapabilities};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::collections::HashSet;

/// Highest number that any kernel of ours knows (CAP_CHECKPOINT_RESTORE).
const LAST: u32 = 40;

/// What the program is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sets {
    bounding: CapabilitySet,
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

impl Sets {
    pub(crate) fn of(listed: Option<&LinuxCapabilities>) -> Sets {
        let set = |names: Option<&HashSet<Capability>>| {
            names.into_iter().flatten().fold(CapabilitySet::empty(), |set, name| set | bit(*name))
        };
        let Some(listed) = listed else {
            let none = CapabilitySet::empty();
            return Sets { bounding: none, effective: none, permitted: none, inheritable: none, ambient: none };
        };
        Sets {
            bounding: set(listed.bounding().as_ref()),
            effective: set(listed.effective().as_ref()),
            permitted: set(listed.permitted().as_ref()),
            inheritable: set(listed.inheritable().as_ref()),
            ambient: set(listed.ambient().as_ref()),
        }
    }

    /// While still privileged: drops from the bounding set, keeps capabilities across the change of user.
    pub(crate) fn bound(&self) -> Result<(), LaunchError> {
        for number in 0..=LAST {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding.contains(capability) {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // Newer than this kernel.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err(errno).step(|| format!("drop capability {number} from the bounding set")),
            }
        }
        rustix::thread::set_keep_capabilities(true).step(|| "keep capabilities".to_owned())
    }

    /// After the change of user: what the program gets, and `extra` for the steps that are left.
    pub(crate) fn apply(&self, extra: CapabilitySet) -> Result<(), LaunchError> {
        set(self.within_own(extra)?)
    }

    /// What takes `extra` away again, for [`set`] once capabilities can no longer be asked for.
    pub(crate) fn last_step(&self, extra: CapabilitySet) -> Result<Option<CapabilitySets>, LaunchError> {
        if extra.is_empty() { Ok(None) } else { self.within_own(CapabilitySet::empty()).map(Some) }
    }

    fn within_own(&self, extra: CapabilitySet) -> Result<CapabilitySets, LaunchError> {
        // What cannot be had (the caller itself lacks it) is left out, as runc does.
        let own = rustix::thread::capabilities(None).step(|| "read capabilities".to_owned())?.permitted;
        let permitted = (self.permitted | extra) & own;
        Ok(CapabilitySets {
            effective: (self.effective | extra) & permitted,
            permitted,
            inheritable: self.inheritable & (own | self.inheritable & self.bounding) & own,
        })
    }

    /// After [`Sets::apply`]: an ambient capability must be permitted and inheritable.
    pub(crate) fn raise_ambient(&self) -> Result<(), LaunchError> {
        for number in 0..=LAST {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if !self.ambient.contains(capability) {
                continue;
            }
            match rustix::thread::configure_capability_in_ambient_set(capability, true) {
                Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
                Err(errno) => return Err(errno).step(|| format!("raise ambient capability {number}")),
            }
        }
        Ok(())
    }
}

/// capset(2) and nothing else: a container's filter may be in force and allow no more.
pub(crate) fn set(sets: CapabilitySets) -> Result<(), LaunchError> {
    rustix::thread::set_capabilities(None, sets).step(|| "set capabilities".to_owned())
}

fn bit(capability: Capability) -> CapabilitySet {
    use Capability as C;
    let number = match capability {
        C::Chown => 0,
        C::DacOverride => 1,
        C::DacReadSearch => 2,
        C::Fowner => 3,
        C::Fsetid => 4,
        C::Kill => 5,
        C::Setgid => 6,
        C::Setuid => 7,
        C::Setpcap => 8,
        C::LinuxImmutable => 9,
        C::NetBindService => 10,
        C::NetBroadcast => 11,
        C::NetAdmin => 12,
        C::NetRaw => 13,
        C::IpcLock => 14,
        C::IpcOwner => 15,
        C::SysModule => 16,
        C::SysRawio => 17,
        C::SysChroot => 18,
        C::SysPtrace => 19,
        C::SysPacct => 20,
        C::SysAdmin => 21,
        C::SysBoot => 22,
        C::SysNice => 23,
        C::SysResource => 24,
        C::SysTime => 25,
        C::SysTtyConfig => 26,
        C::Mknod => 27,
        C::Lease => 28,
        C::AuditWrite => 29,
        C::AuditControl => 30,
        C::Setfcap => 31,
        C::MacOverride => 32,
        C::MacAdmin => 33,
        C::Syslog => 34,
        C::WakeAlarm => 35,
        C::BlockSuspend => 36,
        C::AuditRead => 37,
        C::Perfmon => 38,
        C::Bpf => 39,
        C::CheckpointRestore => 40,
    };
    CapabilitySet::from_bits_retain(1 << number)
}
