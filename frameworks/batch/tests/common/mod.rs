//! A small language for the queue: each step is a sentence, time moves by the second.

#![allow(dead_code, reason = "each test file uses its part")]

use allotment_batch::core::job::JobKey;
use allotment_batch::core::{
    Action, Answer, Core, Durable, Effect, Effects, Ended, Input, Record, Settings, Transfer,
};
use allotment_framework_sdk::api::{Reason, Source, TaskState};
use allotment_framework_sdk::{Call, Offer, Task, Update};
use allotment_proto::allot::{
    ClusterSubmission, JobSelection, JobSpec, ProcRun, SandboxFile, SandboxSummary,
    SubmitJobsRequest, TaskExit,
};
use allotment_types::{AgentId, FrameworkId, OfferId, Role, TaskId, Timestamp};
use bytes::Bytes;

pub(crate) fn settings() -> Settings {
    Settings {
        hostname: "here".to_owned(),
        default_memory_mib: 128,
        queue_max: 10_000,
        zone: jiff::tz::TimeZone::UTC,
        seed: 7,
        role: Role::star(),
    }
}

pub(crate) fn key(cluster: u32, proc: u32) -> JobKey {
    JobKey { cluster, proc }
}

pub(crate) fn framework() -> FrameworkId {
    "F1".parse().unwrap()
}

/// `/bin/true` in `/home`.
pub(crate) fn spec() -> JobSpec {
    JobSpec {
        executable: Some("/bin/true".to_owned()),
        initial_dir: Some("/home".to_owned()),
        ..JobSpec::default()
    }
}

pub(crate) fn cluster(template: JobSpec, count: u32) -> SubmitJobsRequest {
    SubmitJobsRequest {
        clusters: vec![ClusterSubmission {
            cluster: None,
            owner: "u".to_owned(),
            batch_name: String::new(),
            template,
            procs: vec![ProcRun {
                count,
                changes: None,
            }],
        }],
    }
}

pub(crate) fn offer(n: u32, agent: &str, resources: &str) -> Offer {
    Offer {
        id: OfferId::parse(&format!("O{n}")).unwrap(),
        agent: AgentId::parse(agent).unwrap(),
        hostname: "here".to_owned(),
        agent_url: "http://10.0.0.1:5051".to_owned(),
        role: Role::star(),
        resources: resources.parse().unwrap(),
        attributes: Vec::new(),
        domain: None,
        unavailability: None,
    }
}

pub(crate) fn update(task: &TaskId, state: TaskState) -> Update {
    Update {
        task: task.clone(),
        agent: Some("A1".parse().unwrap()),
        state,
        message: None,
        reason: None,
        source: Source::Executor,
        exit: None,
        sandbox: None,
        healthy: None,
        timestamp: 0.0,
        uuid: Some(Bytes::from_static(b"0123456789abcdef")),
    }
}

pub(crate) fn exited(task: &TaskId, code: i32) -> Update {
    let state = if code == 0 {
        TaskState::TaskFinished
    } else {
        TaskState::TaskFailed
    };
    Update {
        exit: Some(TaskExit {
            code: Some(code),
            ..TaskExit::default()
        }),
        sandbox: Some(SandboxSummary::default()),
        ..update(task, state)
    }
}

pub(crate) fn files(names: &[(&str, u64)]) -> SandboxSummary {
    SandboxSummary {
        stdout_bytes: 5,
        stderr_bytes: 0,
        files: names
            .iter()
            .map(|(name, size)| SandboxFile {
                name: (*name).to_owned(),
                size_bytes: *size,
            })
            .collect(),
        truncated: false,
    }
}

/// The queue under test.
pub(crate) struct Queue {
    pub(crate) core: Core,
    pub(crate) now: Timestamp,
    pub(crate) effects: Effects,
    offers: u32,
}

impl Queue {
    pub(crate) fn new() -> Self {
        let now = Timestamp::from_secs(1_000_000_000);
        let mut queue = Self {
            core: Core::recover(settings(), Durable::default(), now),
            now,
            effects: Effects::none(),
            offers: 0,
        };
        queue.step(Input::Subscribed(framework()));
        queue.effects = Effects::none();
        queue
    }

    pub(crate) fn step(&mut self, input: Input) -> &mut Self {
        self.now = self.now + std::time::Duration::from_secs(1);
        let effects = self.core.step(self.now, input);
        self.effects.append(effects);
        self
    }

    pub(crate) fn submit(&mut self, template: JobSpec, count: u32) -> &mut Self {
        self.step(Input::Submit {
            ticket: 0,
            request: cluster(template, count),
        })
    }

    /// Offers and returns the tasks that are launched on it.
    pub(crate) fn offer(&mut self, resources: &str) -> Vec<Task> {
        self.offers += 1;
        self.step(Input::Offers(vec![offer(self.offers, "A1", resources)]));
        self.launched()
    }

    pub(crate) fn update(&mut self, update: Update) -> &mut Self {
        self.step(Input::Update(update))
    }

    pub(crate) fn act(&mut self, action: Action, clusters: &[u32]) -> &mut Self {
        self.step(Input::Act {
            ticket: 1,
            action,
            selection: JobSelection {
                clusters: clusters.to_vec(),
                ..JobSelection::default()
            },
            reason: None,
        })
    }

    /// The calls since the last look.
    pub(crate) fn calls(&mut self) -> Vec<Call> {
        let mut calls = Vec::new();
        self.effects.then.retain(|effect| match effect {
            Effect::Call(call) => {
                calls.push(call.clone());
                false
            }
            _ => true,
        });
        calls
    }

    pub(crate) fn launched(&mut self) -> Vec<Task> {
        let calls = self.calls();
        let accepted = calls.into_iter().filter_map(|call| match call {
            Call::Accept { tasks, .. } => Some(tasks),
            _ => None,
        });
        accepted.flatten().collect()
    }

    pub(crate) fn transfers(&mut self) -> Vec<Transfer> {
        let mut found = Vec::new();
        self.effects.then.retain(|effect| match effect {
            Effect::Transfer(transfer) => {
                found.push((**transfer).clone());
                false
            }
            _ => true,
        });
        found
    }

    pub(crate) fn ended(&mut self) -> Vec<Ended> {
        let mut found = Vec::new();
        self.effects.then.retain(|effect| match effect {
            Effect::Ended(ended) => {
                found.push(*ended);
                false
            }
            _ => true,
        });
        found
    }

    pub(crate) fn answers(&mut self) -> Vec<Answer> {
        let mut found = Vec::new();
        self.effects.then.retain(|effect| match effect {
            Effect::Reply(_, answer) => {
                found.push(answer.clone());
                false
            }
            _ => true,
        });
        found
    }

    /// The event-log text since the last look.
    pub(crate) fn logged(&mut self) -> String {
        let mut text = String::new();
        for record in std::mem::take(&mut self.effects.persist) {
            if let Record::Log { text: more, .. } = record {
                text.push_str(&more);
            }
        }
        text
    }

    pub(crate) fn state(&self, cluster: u32, proc: u32) -> String {
        let view = self.core.show(key(cluster, proc));
        view.map_or_else(|| "gone".to_owned(), |view| view.state)
    }
}

pub(crate) fn lost(task: &TaskId, reason: Reason) -> Update {
    Update {
        reason: Some(reason),
        message: Some("the agent went away".to_owned()),
        source: Source::Master,
        uuid: None,
        ..update(task, TaskState::TaskLost)
    }
}
