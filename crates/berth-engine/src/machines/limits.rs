//! How much passes a machine's network cards, and how much its disks read and write, a second.
//!
//! ```text
//!  cards   a token bucket at each end of the guest's wire (`berth_net::rate`)
//!  disks   QEMU's own throttle of each disk's device, set by `berth-vmm` before the guest runs on
//! ```
//!
//! Neither needs the guest: both change while it runs, at once.

use super::record::Record;
use super::types::Changed;
use super::{Machines, monitor, plug, start};
use crate::containers::{Container, blocking};
use berth_net::rate::{BITS_PER_SECOND_MAX, BITS_PER_SECOND_MIN, Bandwidth};
use berth_net::slot::Namespace;
use berth_types::{Error, ErrorKind, Result};
use berth_vm::command;
use berth_vm::spec::{DISK_LIMIT_MAX, DiskKind, DiskLimits};
use std::sync::Arc;

pub(super) fn check_bandwidth(bandwidth: Bandwidth) -> Result<()> {
    for bits in [bandwidth.in_bits_per_second, bandwidth.out_bits_per_second] {
        if bits != 0 && !(BITS_PER_SECOND_MIN..=BITS_PER_SECOND_MAX).contains(&bits) {
            return Err(Error::invalid(format!(
                "a bandwidth of {bits} bits a second: at least {BITS_PER_SECOND_MIN}, at most {BITS_PER_SECOND_MAX}; 0 is no limit"
            )));
        }
    }
    Ok(())
}

pub(super) fn check_disk(limits: DiskLimits) -> Result<()> {
    let numbers = [limits.read_bytes, limits.write_bytes, limits.read_operations, limits.write_operations];
    match numbers.into_iter().find(|number| *number > DISK_LIMIT_MAX) {
        None => Ok(()),
        Some(number) => Err(Error::invalid(format!("a disk's limit of {number} a second: at most {DISK_LIMIT_MAX}"))),
    }
}

/// Sets the limits of disks in a record; names that it lacks are refused.
pub(super) fn set_disks(record: &mut Record, wanted: &[(String, DiskLimits)], of: &Container) -> Result<()> {
    for (name, limits) in wanted {
        check_disk(*limits)?;
        let disk = record.disks.iter_mut().find(|disk| disk.name == *name && disk.kind == DiskKind::Disk);
        disk.ok_or_else(|| plug::no_disk(of, name))?.limits = *limits;
    }
    Ok(())
}

impl Machines {
    /// Gives a running machine's cards and disks the limits of its record, which is stored already.
    pub(super) async fn limit_running(
        &self,
        container: &Arc<Container>,
        bandwidth: Option<Bandwidth>,
        disks: Vec<(String, DiskLimits)>,
        changed: &mut Changed,
    ) -> Result<()> {
        let failed = |error: Error| error.context(format!("cannot limit machine {}", container.name()));
        if let Some(bandwidth) = bandwidth {
            let attachment = container.live().run.attachment.clone();
            let limit = move || {
                let refused = |cause| Error::because(ErrorKind::Internal, "cannot limit its network cards", &cause);
                let interfaces = attachment.endpoints.values().map(|one| &one.interface);
                let mut interfaces = interfaces.filter(|name| !name.is_empty()).peekable();
                if interfaces.peek().is_none() {
                    return Ok(());
                }
                let namespace = Namespace::open(&attachment.netns).map_err(refused)?;
                for interface in interfaces {
                    let (tap, _) = start::beside(interface);
                    namespace.limit(interface, &tap, bandwidth).map_err(refused)?;
                }
                Ok(())
            };
            blocking(limit).await.map_err(failed)?;
            changed.now.push(format!("{}: at once", bandwidth_words(bandwidth)));
        }
        if !disks.is_empty() {
            let wanted = disks.clone();
            let talk = move |monitor: &mut berth_vm::qmp::Client| {
                let mut all = wanted.iter().map(|(name, limits)| command::throttle(name, *limits));
                all.try_for_each(|arguments| monitor.ask(command::THROTTLE, arguments).map(drop))
            };
            self.ask(container, monitor::ANSWER_SECONDS_MAX, talk).await.map_err(failed)?;
            changed.now.extend(disks.iter().map(|(name, limits)| format!("{}: at once", disk_words(name, *limits))));
        }
        Ok(())
    }
}

fn rate(bits_per_second: u64) -> String {
    let units = [(1_000_000_000, "Gbit/s"), (1_000_000, "Mbit/s"), (1_000, "kbit/s")];
    match units.into_iter().find(|(unit, _)| bits_per_second != 0 && bits_per_second.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", bits_per_second / unit),
        None if bits_per_second == 0 => "no limit".to_owned(),
        None => format!("{bits_per_second} bit/s"),
    }
}

fn bandwidth_words(bandwidth: Bandwidth) -> String {
    format!("bandwidth in {}, out {}", rate(bandwidth.in_bits_per_second), rate(bandwidth.out_bits_per_second))
}

fn disk_words(name: &str, limits: DiskLimits) -> String {
    let parts = [
        (limits.read_bytes, "B/s read"),
        (limits.write_bytes, "B/s written"),
        (limits.read_operations, "reads/s"),
        (limits.write_operations, "writes/s"),
    ];
    let parts: Vec<String> =
        parts.into_iter().filter(|(number, _)| *number != 0).map(|(number, unit)| format!("{number} {unit}")).collect();
    match parts.is_empty() {
        true => format!("{name} without limits"),
        false => format!("{name} with at most {}", parts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_says_what_it_is_in_words() {
        let bandwidth = Bandwidth { in_bits_per_second: 100_000_000, out_bits_per_second: 1_500 };
        assert_eq!(bandwidth_words(bandwidth), "bandwidth in 100 Mbit/s, out 1500 bit/s");
        assert_eq!(bandwidth_words(Bandwidth::default()), "bandwidth in no limit, out no limit");
        assert_eq!(disk_words("disk0", DiskLimits::default()), "disk0 without limits");
        let limits = DiskLimits { read_bytes: 1 << 20, write_operations: 50, ..DiskLimits::default() };
        assert_eq!(disk_words("disk0", limits), "disk0 with at most 1048576 B/s read, 50 writes/s");
    }

    #[test]
    fn limits_that_nothing_passes_or_that_qemu_refuses_are_refused() {
        let of = |bits| check_bandwidth(Bandwidth { in_bits_per_second: bits, out_bits_per_second: 0 });
        assert!(of(0).is_ok() && of(8_000).is_ok());
        assert!(of(7_999).is_err() && of(u64::MAX).is_err());
        assert!(check_disk(DiskLimits { read_operations: u64::MAX, ..DiskLimits::default() }).is_err());
        assert!(check_disk(DiskLimits { write_bytes: 1, ..DiskLimits::default() }).is_ok());
    }
}
