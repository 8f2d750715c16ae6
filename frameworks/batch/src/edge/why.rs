//! Why a job stands as it does, in sentences.

use std::cmp::Reverse;

use allotment_framework_sdk::cluster::{Agent, Cluster};
use allotment_proto::allot::JobView;
use allotment_types::Resources;

use crate::core::Core;
use crate::core::job::JobKey;

/// What the queue knows.
#[derive(Debug)]
pub(crate) struct Facts {
    asks: Resources,
    /// How many go before it, when it is idle.
    ahead: Option<usize>,
    connected: bool,
}

impl Facts {
    pub(crate) fn of(core: &Core, key: JobKey) -> Option<Self> {
        let job = core.job(key)?;
        Some(Self {
            asks: job.size.resources(),
            ahead: core.ahead_of(key),
            connected: core.connected(),
        })
    }

    pub(crate) async fn explain(&self, job: &JobView, cluster: &Cluster) -> Vec<String> {
        let mut lines = Vec::new();
        match job.state.as_str() {
            "held" => {
                lines.push(format!(
                    "held (code {}, subcode {}): {}",
                    job.hold_code.unwrap_or(0),
                    job.hold_subcode.unwrap_or(0),
                    job.reason.as_deref().unwrap_or("no reason was given")
                ));
                let (cluster, proc) = (job.cluster, job.proc);
                lines.push(format!(
                    "`allot job release {cluster}.{proc}` lets it run again"
                ));
                return lines;
            }
            "running" => {
                lines.push(format!(
                    "running on {} as task {}",
                    job.host.as_deref().unwrap_or("?"),
                    job.task_id.as_deref().unwrap_or("?")
                ));
                return lines;
            }
            _ => {}
        }
        if !self.connected {
            lines.push("no master is connected, so no offers come; check the master".to_owned());
        }
        if let Some(reason) = &job.reason {
            lines.push(format!("it waits again because {reason}"));
        }
        match cluster.agents().await {
            Ok(agents) => lines.extend(self.nearest(&agents)),
            Err(error) => lines.push(format!("the agents cannot be looked at: {error}")),
        }
        match self.ahead {
            Some(0) => lines.push("it is the first in its queue".to_owned()),
            Some(n) => lines.push(format!("{n} idle jobs go before it")),
            None => {}
        }
        lines
    }

    /// What the job asks, and what the agent that comes nearest lacks.
    fn nearest(&self, agents: &[Agent]) -> Vec<String> {
        let asks = &self.asks;
        let active: Vec<&Agent> = agents.iter().filter(|agent| agent.active).collect();
        if active.is_empty() {
            return vec![format!(
                "it asks {asks}, but no agent is active; start one with `allot agent`"
            )];
        }
        if let Some(agent) = active.iter().find(|agent| agent.unused.contains(asks)) {
            return vec![format!(
                "it asks {asks}, and agent {} has room; an offer must come first",
                agent.hostname
            )];
        }
        let could: Vec<&&Agent> = active
            .iter()
            .filter(|agent| agent.total.contains(asks))
            .collect();
        let lacks = |held: &Resources| {
            let parts = held.shortfalls(asks);
            let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
            parts.join(", ")
        };
        let few = |agent: &&&Agent| agent.unused.shortfalls(asks).len();
        if let Some(agent) = could.iter().min_by_key(|agent| (few(agent), &agent.id)) {
            return vec![
                format!(
                    "it asks {asks}; {} of {} agents could hold it, but none has room now",
                    could.len(),
                    active.len()
                ),
                format!(
                    "agent {} comes nearest: {}",
                    agent.hostname,
                    lacks(&agent.unused)
                ),
            ];
        }
        let nearest = active.iter().max_by_key(|agent| {
            let missing = agent.total.shortfalls(asks).len();
            (Reverse(missing), Reverse(&agent.id))
        });
        let mut lines = vec![format!(
            "it asks {asks}, which none of {} agents has even when empty; ask for less or add a \
             bigger agent",
            active.len()
        )];
        if let Some(agent) = nearest {
            lines.push(format!(
                "agent {} comes nearest: {}",
                agent.hostname,
                lacks(&agent.total)
            ));
        }
        lines
    }
}

/// Why a job is not in the queue any more.
pub(crate) fn past(job: &JobView) -> String {
    let how = match (job.exit_code, job.exit_signal) {
        (_, Some(signal)) => format!("its last run was ended by signal {signal}"),
        (Some(code), None) => format!("its last run exited with {code}"),
        (None, None) => "it never ran to an end".to_owned(),
    };
    match &job.reason {
        Some(reason) => format!("{}: {reason}; {how}", job.state),
        None => format!("{}: {how}", job.state),
    }
}
