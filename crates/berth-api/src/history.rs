//! One hour of meters: of every running instance and of the host.
//!
//! One reader reads all instances every five seconds and keeps 720 points each, 28 bytes a point: 20 KB an hour
//! and instance, [`INSTANCES_MAX`] at most. An instance whose page is open is read every second for it, once for
//! all its viewers. Pages get readings by the hub; nothing is read twice and nobody polls.

use crate::hub::{Hub, Message};
use crate::schema::answers;
use berth_engine::Engine;
use berth_engine::containers::Gauge;
use berth_engine::host::HostMeters;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast;

pub(crate) const STEP_SECONDS: u64 = 5;
const POINTS_MAX: usize = 720;
const INSTANCES_MAX: usize = 2000;
const LIVE_STEP: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, Default)]
struct Point {
    unix: u32,
    /// Processors in use: 1.5 is one and a half.
    cpu: f32,
    memory: f32,
    received: f32,
    sent: f32,
    read: f32,
    written: f32,
}

answers! {
    /// Meters over time, one list each, oldest first; rates are per second.
    Series {
        unix: Vec<u32>,
        /// Processors in use.
        cpu: Vec<f32>,
        memory_bytes: Vec<f32>,
        received: Vec<f32>,
        sent: Vec<f32>,
        read: Vec<f32>,
        written: Vec<f32>,
    }
    /// The newest meters of an instance.
    Reading {
        id: String,
        unix: u32,
        cpu: f32,
        memory_bytes: u64,
        memory_limit_bytes: u64,
        received: f32,
        sent: f32,
        read: f32,
        written: f32,
        processes: u64,
    }
    /// The newest meters of the host.
    HostReading {
        unix: u32,
        cpu: f32,
        cpus: u32,
        load: f64,
        memory_bytes: u64,
        memory_total_bytes: u64,
        disk_used_bytes: u64,
        disk_total_bytes: u64,
        received: f32,
        sent: f32,
        /// From its disks, bytes a second.
        read: f32,
        written: f32,
    }
}

#[derive(Default)]
struct Track {
    points: VecDeque<Point>,
    last: Option<Counters>,
    newest: Option<Reading>,
}

/// What rates are made from.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    nanos: i64,
    cpu_nanos: u64,
    received: u64,
    sent: u64,
    read: u64,
    written: u64,
}

#[derive(Default)]
struct State {
    instances: HashMap<String, Track>,
    host: Track,
    host_newest: Option<HostReading>,
    host_before: Option<HostMeters>,
    live: BTreeMap<String, broadcast::Sender<Arc<str>>>,
}

pub(crate) struct History {
    engine: Engine,
    hub: Arc<Hub>,
    state: Mutex<State>,
}

fn counters(gauge: &Gauge) -> Counters {
    Counters {
        nanos: gauge.read_unix_nanos,
        cpu_nanos: gauge.cpu_nanos,
        received: gauge.received_bytes,
        sent: gauge.sent_bytes,
        read: gauge.read_bytes,
        written: gauge.written_bytes,
    }
}

fn point(now: Counters, before: Option<Counters>, memory: u64) -> Point {
    let mut point = Point {
        unix: u32::try_from(now.nanos / 1_000_000_000).unwrap_or(u32::MAX),
        memory: memory as f32,
        ..Point::default()
    };
    if let Some(before) = before.filter(|before| before.nanos < now.nanos) {
        let seconds = (now.nanos - before.nanos) as f64 / 1e9;
        // A counter that went back is that of a new run.
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as f32;
        point.cpu = rate(now.cpu_nanos, before.cpu_nanos) / 1e9;
        point.received = rate(now.received, before.received);
        point.sent = rate(now.sent, before.sent);
        point.read = rate(now.read, before.read);
        point.written = rate(now.written, before.written);
    }
    point
}

fn reading(id: &str, gauge: &Gauge, point: Point) -> Reading {
    Reading {
        id: id.to_owned(),
        unix: point.unix,
        cpu: point.cpu,
        memory_bytes: gauge.memory_bytes,
        memory_limit_bytes: gauge.memory_limit_bytes,
        received: point.received,
        sent: point.sent,
        read: point.read,
        written: point.written,
        processes: gauge.pids,
    }
}

fn push(points: &mut VecDeque<Point>, point: Point) {
    if points.len() == POINTS_MAX {
        points.pop_front();
    }
    points.push_back(point);
}

fn series(points: &VecDeque<Point>) -> Series {
    let of = |get: fn(&Point) -> f32| points.iter().map(get).collect();
    Series {
        unix: points.iter().map(|point| point.unix).collect(),
        cpu: of(|point| point.cpu),
        memory_bytes: of(|point| point.memory),
        received: of(|point| point.received),
        sent: of(|point| point.sent),
        read: of(|point| point.read),
        written: of(|point| point.written),
    }
}

impl History {
    pub(crate) fn new(engine: Engine, hub: Arc<Hub>) -> History {
        History { engine, hub, state: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Reads for as long as the engine lives.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(STEP_SECONDS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.read_all().await;
        }
    }

    async fn read_all(&self) {
        let running = match self.engine.containers().gauges().await {
            Ok(running) => running,
            Err(error) => return tracing::warn!(%error, "cannot read meters"),
        };
        let heard = self.hub.is_heard();
        let mut readings = Vec::new();
        {
            let mut state = self.lock();
            for (id, gauge) in running.iter().take(INSTANCES_MAX) {
                let track = state.instances.entry(id.clone()).or_default();
                let now = counters(gauge);
                let point = point(now, track.last, gauge.memory_bytes);
                // The first reading of a run has no rates: it would draw a dip that was not there.
                if track.last.replace(now).is_some() {
                    push(&mut track.points, point);
                }
                let reading = reading(id, gauge, point);
                if heard {
                    readings.push(reading.clone());
                }
                track.newest = Some(reading);
            }
        }
        let host = self.read_host();
        self.forget(&running.into_iter().map(|(id, _)| id).collect()).await;
        self.hub.send(Message::Meters { meters: readings, host });
    }

    fn read_host(&self) -> HostReading {
        let now = berth_engine::host::meters(&self.engine.config().data_root);
        let mut state = self.lock();
        let as_counters = |meters: &HostMeters| Counters {
            nanos: meters.unix_nanos,
            cpu_nanos: meters.cpu_busy_nanos,
            received: meters.received_bytes,
            sent: meters.sent_bytes,
            read: meters.read_bytes,
            written: meters.written_bytes,
        };
        let before = state.host_before.as_ref().map(as_counters);
        let point = point(as_counters(&now), before, now.memory_used_bytes);
        if before.is_some() {
            push(&mut state.host.points, point);
        }
        let reading = HostReading {
            unix: point.unix,
            cpu: point.cpu,
            cpus: now.cpus,
            load: now.load,
            memory_bytes: now.memory_used_bytes,
            memory_total_bytes: now.memory_total_bytes,
            disk_used_bytes: now.disk_used_bytes,
            disk_total_bytes: now.disk_total_bytes,
            received: point.received,
            sent: point.sent,
            read: point.read,
            written: point.written,
        };
        state.host_before = Some(now);
        state.host_newest = Some(reading.clone());
        reading
    }

    /// Drops the hours of instances that are gone; those that only stopped keep theirs.
    async fn forget(&self, running: &HashSet<String>) {
        let idle: Vec<String> = {
            let mut state = self.lock();
            for (id, track) in &mut state.instances {
                if !running.contains(id) {
                    (track.last, track.newest) = (None, None);
                }
            }
            state.instances.keys().filter(|id| !running.contains(*id)).cloned().collect()
        };
        for id in idle {
            if self.engine.containers().resolve(&id).await.is_err() {
                self.lock().instances.remove(&id);
            }
        }
        let mut state = self.lock();
        if state.instances.len() > INSTANCES_MAX {
            state.instances.retain(|id, _| running.contains(id));
        }
    }

    pub(crate) fn series(&self, id: &str) -> Series {
        self.lock().instances.get(id).map(|track| series(&track.points)).unwrap_or_else(|| series(&VecDeque::new()))
    }

    /// The newest readings of those that `wanted` names.
    pub(crate) fn newest(&self, wanted: impl Fn(&str) -> bool) -> Vec<Reading> {
        let state = self.lock();
        state.instances.iter().filter(|(id, _)| wanted(id)).filter_map(|(_, track)| track.newest.clone()).collect()
    }

    pub(crate) fn host(&self) -> (Series, Option<HostReading>) {
        let state = self.lock();
        (series(&state.host.points), state.host_newest.clone())
    }

    /// Readings of one instance every second; one reader for all who watch it.
    pub(crate) fn watch(self: &Arc<Self>, id: &str) -> broadcast::Receiver<Arc<str>> {
        let mut state = self.lock();
        if let Some(sender) = state.live.get(id) {
            return sender.subscribe();
        }
        let (sender, receiver) = broadcast::channel(4);
        state.live.insert(id.to_owned(), sender.clone());
        tokio::spawn(self.clone().read_live(id.to_owned(), sender));
        receiver
    }

    async fn read_live(self: Arc<Self>, id: String, sender: broadcast::Sender<Arc<str>>) {
        let mut ticks = tokio::time::interval(LIVE_STEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before = None;
        loop {
            ticks.tick().await;
            {
                let mut state = self.lock();
                // Asked under the lock under which watchers come: none is left without a reader.
                if sender.receiver_count() == 0 {
                    state.live.remove(&id);
                    return;
                }
            }
            // An instance that stopped may start again: its page stays open.
            let Ok(Some(gauge)) = self.engine.containers().gauge(&id).await else {
                before = None;
                continue;
            };
            let now = counters(&gauge);
            let point = point(now, before, gauge.memory_bytes);
            if before.replace(now).is_some()
                && let Ok(text) = serde_json::to_string(&Live { live: reading(&id, &gauge, point) })
            {
                // Whoever left just now misses nothing.
                drop(sender.send(text.into()));
            }
        }
    }
}

#[derive(Serialize)]
struct Live {
    live: Reading,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_and_a_new_run_begins_at_zero() {
        let before = Counters { nanos: 1_000_000_000, cpu_nanos: 5_000_000_000, received: 100, ..Counters::default() };
        let now = Counters { nanos: 3_000_000_000, cpu_nanos: 6_000_000_000, received: 300, ..Counters::default() };
        let rates = point(now, Some(before), 7);
        assert_eq!((rates.unix, rates.cpu, rates.received, rates.memory), (3, 0.5, 100.0, 7.0));
        let again = Counters { nanos: 5_000_000_000, cpu_nanos: 1, ..Counters::default() };
        assert_eq!(point(again, Some(now), 0).cpu, 0.0);
        assert_eq!(point(now, None, 0).cpu, 0.0);
    }

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let mut points = VecDeque::new();
        for n in 0..POINTS_MAX as u32 + 10 {
            push(&mut points, Point { unix: n, ..Point::default() });
        }
        assert_eq!((points.len(), points[0].unix), (POINTS_MAX, 10));
        assert_eq!(std::mem::size_of::<Point>(), 28);
    }
}
