//! Numbers about the master, under Mesos' names where Mesos has them.

/// What only grows within one run of the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Tasks launched.
    pub tasks_launched: u64,
    /// Tasks that ended TASK_FINISHED.
    pub tasks_finished: u64,
    /// Tasks that ended TASK_FAILED.
    pub tasks_failed: u64,
    /// Tasks that ended TASK_KILLED.
    pub tasks_killed: u64,
    /// Tasks that ended TASK_ERROR.
    pub tasks_error: u64,
    /// Tasks that ended TASK_LOST.
    pub tasks_lost: u64,
    /// Tasks that ended TASK_DROPPED.
    pub tasks_dropped: u64,
    /// Tasks that ended TASK_GONE.
    pub tasks_gone: u64,
    /// Calls from frameworks.
    pub calls: u64,
    /// Calls answered with CALL_REJECTED.
    pub calls_rejected: u64,
    /// Messages from agents.
    pub agent_messages: u64,
    /// Status updates from agents.
    pub updates_received: u64,
    /// Updates from agents that made no sense and were ignored.
    pub updates_invalid: u64,
    /// Status updates sent to frameworks.
    pub updates_sent: u64,
    /// Acknowledgements forwarded to agents.
    pub acknowledgements: u64,
    /// Offers sent.
    pub offers_sent: u64,
    /// Offers taken back after their time.
    pub offers_expired: u64,
    /// Allocation rounds, and calls that went on with one.
    pub allocation_runs: u64,
    /// Of them those that ended before the round did, and were gone on with at once.
    pub allocation_runs_unfinished: u64,
    /// How often rounds considered one framework on one agent.
    pub allocation_looks: u64,
    /// Agents that registered for the first time.
    pub agent_registrations: u64,
    /// Agents that came back.
    pub agent_reregistrations: u64,
    /// Agents marked unreachable.
    pub agents_unreachable: u64,
}

/// A reading of everything `/metrics` shows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics {
    /// Seconds since the master started.
    pub uptime_secs: f64,
    /// What only grows.
    pub counters: Counters,
    /// Agents with a session.
    pub agents_active: u64,
    /// Agents without one, not yet given up.
    pub agents_inactive: u64,
    /// Agents given up for now.
    pub agents_unreachable: u64,
    /// Frameworks with a stream.
    pub frameworks_active: u64,
    /// Frameworks without one, not yet removed.
    pub frameworks_inactive: u64,
    /// Offers that await an answer.
    pub outstanding_offers: u64,
    /// Tasks by state, under Mesos' names in small letters without `task_`.
    pub tasks: Vec<(&'static str, u64)>,
    /// Per kind of resource: name, total, used (without offered), in units.
    pub resources: Vec<(String, f64, f64)>,
}
