//! What an experiment shows.

use std::collections::BTreeMap;

use serde::Serialize;

/// How a scenario went. Shares and utilisations are parts of 1, times are seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabReport {
    /// The root seed.
    pub seed: u64,
    /// The allocation module.
    pub allocator: String,
    /// Machines.
    pub agents: usize,
    /// Frameworks.
    pub frameworks: usize,
    /// How long jobs arrived.
    pub time: f64,
    /// When the report ends.
    pub ended_at: f64,
    /// Events that were simulated.
    pub steps: u64,
    /// How much of the cluster tasks used.
    pub utilisation: Vec<ResourceReport>,
    /// Per kind of framework.
    pub groups: Vec<GroupReport>,
    /// Per role.
    pub roles: Vec<RoleReport>,
    /// Among those who waited for more.
    pub fairness: Fairness,
    /// The cluster over time.
    pub moments: Vec<Moment>,
}

/// The use of one resource while jobs arrived.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResourceReport {
    /// `cpus` or `mem`.
    pub resource: String,
    /// The mean part in use.
    pub mean: f64,
    /// The mean over moments when tasks waited; 0 when none ever did.
    pub mean_while_waiting: f64,
    /// The most.
    pub peak: f64,
}

/// Of ascending values.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Percentiles {
    /// Half are no larger.
    pub p50: f64,
    /// 90 of 100 are no larger.
    pub p90: f64,
    /// 99 of 100 are no larger.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

/// The frameworks of one group together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupReport {
    /// As the scenario names it.
    pub name: String,
    /// Their role.
    pub role: String,
    /// How many.
    pub frameworks: usize,
    /// Jobs that came.
    pub jobs: usize,
    /// Jobs whose every task finished.
    pub jobs_done: usize,
    /// Tasks that ran.
    pub tasks_run: usize,
    /// Tasks that still waited at the end.
    pub tasks_waiting: usize,
    /// From the submission of its job to a task's running.
    pub wait: Percentiles,
    /// From a job's submission to the end of its last task.
    pub job: Percentiles,
    /// The longest that any task waited, those still waiting counted.
    pub longest_wait: f64,
    /// The longest that any of them starved: had a task waiting that would have fitted into what
    /// no task used on some machine. Absent unless the scenario asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_starved: Option<f64>,
}

/// One role while jobs arrived.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoleReport {
    /// Its name.
    pub name: String,
    /// Its weight.
    pub weight: f64,
    /// The mean dominant share of what its tasks used.
    pub share_mean: f64,
    /// The mean over the moments when its tasks waited for more; absent when none ever did.
    pub share_while_waiting: Option<f64>,
    /// The largest.
    pub share_peak: f64,
    /// The mean dominant share of what was offered to it and not used.
    pub offered_unused: f64,
}

/// Jain's index over dominant shares divided by weights: 1 when all are equal, `1/n` when one has
/// everything (Jain, Chiu, Hawe 1984). Only those who wait for more count: who has all it wants
/// has no share to be equal.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Fairness {
    /// The mean over moments when at least two roles waited; absent when there were none.
    pub roles_mean: Option<f64>,
    /// The least of them.
    pub roles_least: Option<f64>,
    /// The mean over moments and roles when at least two frameworks of one role waited.
    pub frameworks_mean: Option<f64>,
    /// The least of them.
    pub frameworks_least: Option<f64>,
}

/// The cluster at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moment {
    /// Since the beginning.
    pub at: f64,
    /// The part of all cpus in use.
    pub cpus: f64,
    /// The part of all memory in use.
    pub mem: f64,
    /// Tasks that wait.
    pub waiting: usize,
    /// The dominant share per role.
    pub shares: BTreeMap<String, f64>,
}

impl LabReport {
    /// The numbers for people.
    pub fn table(&self) -> String {
        super::table::table(self)
    }

    /// Utilisation and shares over time as an SVG document.
    pub fn svg(&self) -> String {
        super::plot::svg(self)
    }
}
