//! Counters and gauges of one services process, as Prometheus text.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::core::Stats;

/// What the edge itself counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    /// HTTP requests answered.
    pub(super) requests: Counter,
    /// Of those, answers with status 400 and above.
    pub(super) refusals: Counter,
    /// Group commits to the store.
    pub(super) commits: Counter,
    /// Records in them.
    pub(super) records: Counter,
    /// Probes performed.
    pub(super) probes: Counter,
}

impl Metrics {
    /// Prometheus text. `stats` are those of the core; absent while it is not loaded, as when
    /// another process leads.
    pub(super) fn text(&self, stats: Option<Stats>, leads: bool) -> String {
        let mut all = Registry::with_prefix("services");
        let counters = [
            ("http_requests", "HTTP requests answered", &self.requests),
            (
                "http_refusals",
                "HTTP answers with status 400 and above",
                &self.refusals,
            ),
            (
                "store_commits",
                "Group commits to the masters' store",
                &self.commits,
            ),
            (
                "store_records",
                "Records written to the masters' store",
                &self.records,
            ),
            ("probes", "Health probes performed", &self.probes),
        ];
        for (name, help, counter) in counters {
            all.register(name, help, counter.clone());
        }
        let s = stats.unwrap_or_default();
        for (name, help, value) in [
            ("apps", "Apps", s.apps),
            ("deployments", "Deployments under way", s.deployments),
            (
                "instances_waiting",
                "Instances that wait for an offer",
                s.waiting,
            ),
            (
                "tasks_staged",
                "Tasks launched and not yet running",
                s.staged,
            ),
            ("tasks_running", "Tasks running", s.running),
            (
                "tasks_unreachable",
                "Tasks on agents out of reach",
                s.unreachable,
            ),
            ("connected", "1 while a master is connected", s.connected),
            ("leading", "1 while this process leads", u64::from(leads)),
        ] {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            all.register(name, help, ConstGauge::new(value));
        }
        for (name, help, value) in [
            ("launches", "Tasks launched", s.launched),
            ("kills", "Kills asked for", s.killed),
            ("failures", "Tasks that failed or finished", s.ended),
        ] {
            all.register(name, help, ConstCounter::new(value));
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &all);
        text
    }
}
