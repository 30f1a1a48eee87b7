//! `stats`: a container's meters, read from its cgroup and its network namespace.

use super::record::{Container, Record};
use super::{Containers, Inspect, InterfaceStats, Stats, StatsOptions, StatsSample, StatsStream};
use crate::Engine;
use crate::events::now_unix_nanos;
use crate::oci::HostFacts;
use berth_cgroup::{Cgroup, CgroupError, GaugeReader, Hierarchy};
use berth_types::{ContainerId, Phase, Result};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc;

/// How long between two readings.
const INTERVAL: Duration = Duration::from_secs(1);
/// The kernel counts processor time of the whole host in hundredths of a second (proc(5), USER_HZ).
const TICK_NANOS: u64 = 10_000_000;

impl Containers {
    /// Its meters.
    pub async fn stats(&self, container: &str, options: StatsOptions) -> Result<StatsStream> {
        let source = Source::of(&self.engine, &*self.get(container)?);
        let (sender, samples) = mpsc::channel(1);
        tokio::spawn(send(self.clone(), source, options, sender));
        Ok(StatsStream { samples })
    }

    /// Gauges of all that runs, machines too: read in one go on a thread that may wait, a few files each.
    pub async fn gauges(&self) -> Result<Vec<(String, Gauge)>> {
        let engine = self.engine.clone();
        super::archive::blocking(move || Ok(gauges(&engine, &engine.table().all()))).await
    }

    /// The same of one; `None`: it does not run.
    pub async fn gauge(&self, container: &str) -> Result<Option<Gauge>> {
        let (engine, container) = (self.engine.clone(), self.get(container)?);
        super::archive::blocking(move || Ok(gauges(&engine, &[container]).pop().map(|(_, gauge)| gauge))).await
    }
}

/// The meters that are read of everything all the time; counters since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauge {
    pub read_unix_nanos: i64,
    pub cpu_nanos: u64,
    /// Without the file cache that goes as soon as it is needed.
    pub memory_bytes: u64,
    pub memory_limit_bytes: u64,
    pub pids: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

/// Of those that run, all read in one go.
fn gauges(engine: &Engine, containers: &[Arc<Container>]) -> Vec<(String, Gauge)> {
    let mut running = Vec::with_capacity(containers.len());
    let mut networked = Vec::new();
    for container in containers {
        let live = container.live();
        if matches!(live.run.phase, Phase::Running { .. } | Phase::Paused { .. }) {
            if !live.run.attachment.endpoints.is_empty() {
                networked.push(container.id.clone());
            }
            running.push(live.record.clone());
        }
    }
    // Without the host's cgroups all of it is zero, as in a cgroup that is gone.
    let mut reader = hierarchy().ok().map(GaugeReader::new);
    let mut traffic = engine.networks().traffic(&networked);
    let host_memory = HostFacts::get().memory_bytes;
    let mut gauge = |record: &Record| {
        let path = crate::oci::cgroup_path(&engine.config().cgroup_parent, &record.spec, &record.id);
        let meters = reader.as_mut().and_then(|reader| reader.read(&path).ok()).unwrap_or_default();
        let (received_bytes, sent_bytes) = traffic.remove(&record.id).unwrap_or_default();
        Gauge {
            read_unix_nanos: now_unix_nanos(),
            cpu_nanos: meters.cpu_nanos,
            memory_bytes: meters.memory_bytes.saturating_sub(meters.cache_bytes),
            memory_limit_bytes: meters.memory_limit_bytes.unwrap_or(u64::MAX).min(host_memory),
            pids: meters.pids,
            read_bytes: meters.read_bytes,
            written_bytes: meters.written_bytes,
            received_bytes,
            sent_bytes,
        }
    };
    running.iter().map(|record| (record.id.to_string(), gauge(record))).collect()
}

/// What of a container a reading needs: looked up every second for each that is followed.
struct Source {
    id: ContainerId,
    name: String,
    /// Of its cgroup.
    path: String,
    running: bool,
    /// With interfaces of its own: not the host's, nor another container's.
    networked: bool,
    /// Opened by the first reading.
    cgroup: Option<Cgroup>,
}

impl Source {
    fn of(engine: &Engine, container: &Container) -> Source {
        let live = container.live();
        let record = &live.record;
        Source {
            id: record.id.clone(),
            name: record.name.clone(),
            path: crate::oci::cgroup_path(&engine.config().cgroup_parent, &record.spec, &record.id),
            running: matches!(live.run.phase, Phase::Running { .. } | Phase::Paused { .. }),
            networked: !live.run.attachment.endpoints.is_empty(),
            cgroup: None,
        }
    }

    /// One reading; zeros where it does not run, or ends meanwhile.
    async fn sample(&mut self, engine: &Engine) -> StatsSample {
        if !self.running {
            return StatsSample::default();
        }
        if self.cgroup.is_none() {
            self.cgroup = hierarchy().and_then(|all| Cgroup::open(all, &self.path)).ok();
        }
        sample(engine, self).await
    }

    fn stats(&self, now: StatsSample, before: StatsSample) -> Result<Stats> {
        Ok(Stats { id: self.id.clone(), name: self.name.clone(), now, before })
    }
}

/// Reads until nobody listens or the container is gone.
async fn send(containers: Containers, mut source: Source, options: StatsOptions, sender: mpsc::Sender<Result<Stats>>) {
    let engine = &containers.engine;
    if !options.stream {
        let mut before = StatsSample::default();
        if source.running && !options.one_shot {
            before = source.sample(engine).await;
            tokio::time::sleep(INTERVAL).await;
        }
        let now = source.sample(engine).await;
        // A receiver that went away has no further wishes; the same below.
        sender.send(source.stats(now, before)).await.ok();
        return;
    }
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = StatsSample::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = sender.closed() => return,
        }
        // Renamed, stopped, started again: its paths stay.
        let Ok(container) = containers.get(source.id.as_str()) else { return };
        source = Source { cgroup: source.cgroup.take(), ..Source::of(engine, &container) };
        let now = source.sample(engine).await;
        if sender.send(source.stats(now.clone(), before)).await.is_err() {
            return;
        }
        before = now;
    }
}

/// The host's cgroups; they do not change while it runs.
pub(crate) fn hierarchy() -> Result<&'static Hierarchy, CgroupError> {
    static HIERARCHY: OnceLock<Hierarchy> = OnceLock::new();
    if let Some(known) = HIERARCHY.get() {
        return Ok(known);
    }
    let found = Hierarchy::detect()?;
    Ok(HIERARCHY.get_or_init(|| found))
}

/// The container's cgroup, as its shim made it.
pub(super) fn cgroup_of(engine: &Engine, inspect: &Inspect) -> Result<Cgroup, CgroupError> {
    let path = crate::oci::cgroup_path(&engine.config().cgroup_parent, &inspect.spec, &inspect.id);
    Cgroup::open(hierarchy()?, &path)
}

async fn sample(engine: &Engine, source: &Source) -> StatsSample {
    let facts = HostFacts::get();
    let meters = source.cgroup.as_ref().map(Cgroup::stats).unwrap_or_default();
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let mut sample = StatsSample {
        read_unix_nanos: now_unix_nanos(),
        cpu_total_nanos: meters.cpu_total_nanos,
        cpu_user_nanos: meters.cpu_user_nanos,
        cpu_kernel_nanos: meters.cpu_kernel_nanos,
        per_cpu_nanos: meters.per_cpu_nanos,
        system_nanos: system_nanos(&stat),
        online_cpus: facts.cpus,
        throttling_periods: meters.periods,
        throttled_periods: meters.throttled_periods,
        throttled_nanos: meters.throttled_nanos,
        memory_usage_bytes: meters.memory_usage_bytes,
        memory_max_usage_bytes: meters.memory_max_usage_bytes,
        // Without a limit of its own a container may have what the host has.
        memory_limit_bytes: meters.memory_limit_bytes.unwrap_or(u64::MAX).min(facts.memory_bytes),
        memory_fail_count: meters.memory_fail_count,
        memory_stat: meters.memory_stat,
        pids_current: meters.pids_current,
        pids_limit: meters.pids_limit.unwrap_or(0),
        io_service_bytes: meters.io_service_bytes,
        io_serviced: meters.io_serviced,
        networks: Default::default(),
    };
    if source.networked
        && let Ok(counters) = engine.networks().counters(&source.id).await
    {
        for (name, c) in counters {
            let stats = InterfaceStats {
                rx_bytes: c.rx_bytes,
                rx_packets: c.rx_packets,
                rx_errors: c.rx_errors,
                rx_dropped: c.rx_dropped,
                tx_bytes: c.tx_bytes,
                tx_packets: c.tx_packets,
                tx_errors: c.tx_errors,
                tx_dropped: c.tx_dropped,
            };
            sample.networks.insert(name, stats);
        }
    }
    sample
}

/// All time that all processors have spent, busy or idle: the first line of /proc/stat.
fn system_nanos(stat: &str) -> u64 {
    let first = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    // user nice system idle iowait irq softirq; guests are counted in user already.
    let ticks: u64 = first.split_ascii_whitespace().take(7).filter_map(|word| word.parse::<u64>().ok()).sum();
    ticks.saturating_mul(TICK_NANOS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_time_is_the_sum_of_its_first_seven_counts() {
        assert_eq!(system_nanos("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1\n"), 28 * TICK_NANOS);
        assert_eq!(system_nanos(""), 0);
    }
}
