//! What `/metrics` tells.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::core::Core;

/// The numbers of one batch framework.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    idle: Gauge,
    running: Gauge,
    held: Gauge,
    connected: Gauge,
    submitted: Counter<u64, AtomicU64>,
    launched: Counter<u64, AtomicU64>,
    completed: Counter<u64, AtomicU64>,
    failed: Counter<u64, AtomicU64>,
    removed: Counter<u64, AtomicU64>,
    lost: Counter<u64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let idle = gauge("batch_jobs_idle", "Jobs that wait for an offer");
        let running = gauge("batch_jobs_running", "Jobs that were launched");
        let held = gauge("batch_jobs_held", "Jobs that wait for a user");
        let connected = gauge("batch_connected", "1 while a master is connected");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        Self {
            idle,
            running,
            held,
            connected,
            submitted: counter("batch_jobs_submitted", "Jobs submitted since the start"),
            launched: counter("batch_runs_launched", "Runs launched since the start"),
            completed: counter(
                "batch_jobs_completed",
                "Jobs recorded complete since the start",
            ),
            failed: counter("batch_jobs_failed", "Of these, without success"),
            removed: counter("batch_jobs_removed", "Jobs removed since the start"),
            lost: counter("batch_runs_lost", "Runs lost since the start"),
            registry,
        }
    }

    /// Takes over the queue's counts.
    pub(crate) fn update(&self, core: &Core) {
        use std::sync::atomic::Ordering::Relaxed;
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.idle.set(count(core.idle()));
        self.running.set(count(core.running()));
        let held = core.len().saturating_sub(core.idle() + core.running());
        self.held.set(count(held));
        self.connected.set(i64::from(core.connected()));
        let counts = core.counts();
        for (counter, n) in [
            (&self.submitted, counts.submitted),
            (&self.launched, counts.launched),
            (&self.completed, counts.completed),
            (&self.failed, counts.failed),
            (&self.removed, counts.removed),
            (&self.lost, counts.lost),
        ] {
            counter.inner().store(n, Relaxed);
        }
    }

    /// Prometheus text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _infallible = encode(&mut text, &self.registry);
        text
    }
}
