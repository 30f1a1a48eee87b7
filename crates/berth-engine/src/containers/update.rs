//! What changes on a container that is there: limits, restart policy, health check, log and published ports, live where
//! it runs.

use super::record::{Container, Record};
use super::start::health_probe;
use super::types::{DiskLimits, Update};
use super::{Containers, exited};
use crate::oci;
use berth_shim_proto::Body;
use berth_types::spec::{Healthcheck, NetworkMode, Resources, RestartPolicy, ThrottleDevice, WeightDevice};
use berth_types::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;

impl Containers {
    /// Changes what is given and leaves the rest as it is. Answers warnings.
    pub async fn update(&self, container: &str, update: Update) -> Result<Vec<String>> {
        let found = self.get(container)?;
        let _ops = found.ops.lock().await;
        let mut record = (*found.record()).clone();
        let host = &mut record.spec.host;
        let mut asked = update.resources.clone();
        set_disks(&mut asked, &update.disks);
        let mut warnings = oci::validate_update(&host.resources, &asked, oci::HostFacts::get())?;
        if let Some(restart) = update.restart {
            if host.auto_remove && restart != RestartPolicy::No {
                return Err(Error::conflict(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container",
                ));
            }
            host.restart = restart;
        }
        merge_limits(&mut host.resources, &update.resources);
        set_disks(&mut host.resources, &update.disks);
        if let Some(check) = &update.healthcheck {
            merge_check(&mut record, check)?;
        }
        if let Some(ports) = update.ports {
            let mode = &record.spec.host.network_mode;
            if matches!(mode, NetworkMode::Host | NetworkMode::None | NetworkMode::Container(_)) {
                return Err(Error::conflict(format!(
                    "{} has no network of its own whose ports could be published",
                    record.name
                )));
            }
            record.spec.config.exposed_ports.extend(ports.keys());
            record.spec.host.port_bindings = ports;
        }
        if let Some(log) = update.log {
            let own = &mut record.spec.host.log;
            if !log.driver.is_empty() && log.driver != own.driver {
                return Err(Error::invalid(format!(
                    "the log of {} is kept by the driver {}, which stays until the container is made again",
                    record.name, own.driver
                ))
                .with_hint("the driver's options can be changed"));
            }
            own.options.extend(log.options);
            record.log = self.log_target(&record.spec, &record.id)?;
        }
        // The whole, as if it were created so: an option that is none, a check without a command.
        oci::validate(&record.spec, oci::HostFacts::get())?;
        let notes = self
            .apply(&found, &record)
            .await
            .map_err(|error| error.context(format!("Cannot update container {}", found.id)))?;
        warnings.extend(notes);
        self.store_record(&record).await?;
        found.live().record = Arc::new(record);
        self.tell(&found, "update", &[]);
        Ok(warnings)
    }

    /// Other limits than the record's, while it runs.
    pub(crate) async fn limit(&self, container: &Arc<Container>, limits: &Resources) -> Result<()> {
        let Ok(shim) = container.shim() else { return Ok(()) };
        let resources = serde_json::to_value(oci::resources(limits)?)
            .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write the limits", &cause))?;
        shim.tell(Body::Update { resources }).await.map(drop)
    }

    /// Tells the shim what differs from what it knows, and a machine's guest; what has to wait, in words.
    async fn apply(&self, container: &Arc<Container>, new: &Record) -> Result<Vec<String>> {
        let Ok(shim) = container.shim() else { return Ok(Vec::new()) };
        let now = container.record();
        // First, as it may be refused: somebody else has the port.
        if now.spec.host.port_bindings != new.spec.host.port_bindings {
            let old = (&now.spec.host, &now.spec.config.exposed_ports);
            let wanted = (&new.spec.host, &new.spec.config.exposed_ports);
            let attachment = self.engine.networks().republish(&container.id, old, wanted).await?;
            self.attached(container, &now, &attachment)?;
        }
        if now.log != new.log {
            shim.tell(Body::UpdateLog { log: new.log.clone() }).await?;
        }
        if now.spec.config.healthcheck != new.spec.config.healthcheck {
            shim.tell(Body::UpdateHealth { health: health_probe(&new.spec, Some(new))? }).await?;
            // Of another check the verdicts so far say nothing.
            container.live().health = exited::health_at_start(&new.spec);
        }
        let mut limits = new.spec.host.resources.clone();
        // One that is gone needs no lifting.
        lift(&now.spec.host.resources, &mut limits, &|path| Path::new(path).exists());
        let mut notes = Vec::new();
        if crate::guests::is_guest(&new.spec) {
            if container.live().is_running() {
                notes = crate::guests::update(&self.engine, container, &now, new).await?;
            }
            // The machine's own are those of its guest, and room for itself: they are set already.
            (limits.memory_bytes, limits.memory_swap_bytes, limits.memory_reservation_bytes) = (0, 0, 0);
            limits.pids_limit = None;
        }
        let resources = serde_json::to_value(oci::resources(&limits)?)
            .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write the limits", &cause))?;
        shim.tell(Body::Update { resources }).await?;
        Ok(notes)
    }
}

fn set_disks(limits: &mut Resources, disks: &DiskLimits) {
    fn set<T: Clone>(now: &mut Vec<T>, new: &Option<Vec<T>>) {
        if let Some(new) = new {
            now.clone_from(new);
        }
    }
    set(&mut limits.blkio_weight_device, &disks.weight);
    set(&mut limits.blkio_read_bps, &disks.read_bps);
    set(&mut limits.blkio_write_bps, &disks.write_bps);
    set(&mut limits.blkio_read_iops, &disks.read_iops);
    set(&mut limits.blkio_write_iops, &disks.write_iops);
}

/// A cgroup keeps what it is not told: disks that `now` limits and `new` does not are told zero, no limit.
fn lift(now: &Resources, new: &mut Resources, here: &dyn Fn(&str) -> bool) {
    let rates = |now: &[ThrottleDevice], new: &mut Vec<ThrottleDevice>| {
        for device in now {
            if here(&device.path) && !new.iter().any(|other| other.path == device.path) {
                new.push(ThrottleDevice { rate: 0, ..device.clone() });
            }
        }
    };
    rates(&now.blkio_read_bps, &mut new.blkio_read_bps);
    rates(&now.blkio_write_bps, &mut new.blkio_write_bps);
    rates(&now.blkio_read_iops, &mut new.blkio_read_iops);
    rates(&now.blkio_write_iops, &mut new.blkio_write_iops);
    for device in &now.blkio_weight_device {
        if here(&device.path) && !new.blkio_weight_device.iter().any(|other| other.path == device.path) {
            new.blkio_weight_device.push(WeightDevice { weight: 0, ..device.clone() });
        }
    }
}

/// Zero, empty and `None` leave a limit as it is.
fn merge_limits(now: &mut Resources, new: &Resources) {
    let number = |now: &mut i64, new: i64| {
        if new != 0 {
            *now = new
        }
    };
    number(&mut now.memory_bytes, new.memory_bytes);
    number(&mut now.memory_reservation_bytes, new.memory_reservation_bytes);
    number(&mut now.memory_swap_bytes, new.memory_swap_bytes);
    number(&mut now.cpu_shares, new.cpu_shares);
    number(&mut now.nano_cpus, new.nano_cpus);
    number(&mut now.cpu_period_micros, new.cpu_period_micros);
    number(&mut now.cpu_quota_micros, new.cpu_quota_micros);
    number(&mut now.cpu_rt_period_micros, new.cpu_rt_period_micros);
    number(&mut now.cpu_rt_runtime_micros, new.cpu_rt_runtime_micros);
    for (now, new) in [(&mut now.cpuset_cpus, &new.cpuset_cpus), (&mut now.cpuset_mems, &new.cpuset_mems)] {
        if !new.is_empty() {
            now.clone_from(new);
        }
    }
    if new.blkio_weight != 0 {
        now.blkio_weight = new.blkio_weight;
    }
    now.pids_limit = new.pids_limit.or(now.pids_limit);
    now.memory_swappiness = new.memory_swappiness.or(now.memory_swappiness);
}

fn merge_check(record: &mut Record, new: &Healthcheck) -> Result<()> {
    let now = record.spec.config.healthcheck.get_or_insert_with(Healthcheck::default);
    if !new.test.is_empty() {
        now.test.clone_from(&new.test);
    }
    if now.test.is_empty() {
        return Err(Error::invalid(format!("{} has no health check whose times could change", record.name))
            .with_hint("give a command too: --health-cmd"));
    }
    for (now, new) in [
        (&mut now.interval_nanos, new.interval_nanos),
        (&mut now.timeout_nanos, new.timeout_nanos),
        (&mut now.start_period_nanos, new.start_period_nanos),
        (&mut now.start_interval_nanos, new.start_interval_nanos),
    ] {
        if new != 0 {
            *now = new;
        }
    }
    if new.retries != 0 {
        now.retries = new.retries;
    }
    oci::health_process(&record.spec).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_not_limited_any_more_is_told_so() {
        let disk = |path: &str, rate| ThrottleDevice { path: path.to_owned(), rate };
        let now = Resources { blkio_read_bps: vec![disk("/a", 5), disk("/b", 6)], ..Resources::default() };
        let mut new = now.clone();
        set_disks(&mut new, &DiskLimits { read_bps: Some(vec![disk("/b", 7)]), ..DiskLimits::default() });
        assert_eq!(new.blkio_read_bps, [disk("/b", 7)]);
        lift(&now, &mut new, &|path| path == "/a");
        assert_eq!(new.blkio_read_bps, [disk("/b", 7), disk("/a", 0)]);
        set_disks(&mut new, &DiskLimits::default());
        assert_eq!(new.blkio_read_bps.len(), 2, "what is not given stays");
    }
}
