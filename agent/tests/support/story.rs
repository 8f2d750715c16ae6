//! An agent's core on virtual time: each step is a sentence, and what it did not say it must not
//! have done. Its records are kept as a disk would, so that it can die and return.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::collections::VecDeque;
use std::time::Duration;

use allotment_agent::core::{
    Checkpoint, ContainerId, Core, Effect, ExecutorSettings, Input, LogBound, Outcome, Record,
    Settings,
};
use allotment_proto::allot;
use allotment_proto::allot::agent_message::Message as Said;
use allotment_proto::allot::master_message::Message as Told;
use allotment_proto::convert::resources_to_wire;
use allotment_proto::mesos::framework_info::{Capability, capability};
use allotment_proto::mesos::{self, TaskState, TaskStatus};
use allotment_types::Timestamp;

pub const GRACE: Duration = Duration::from_secs(5);

pub fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub struct Agent {
    pub core: Core,
    pub now: Timestamp,
    pub effects: VecDeque<Effect>,
    pub session: u64,
    /// What a disk holds.
    pub records: Vec<Record>,
    pub settings: Settings,
    n_runs: u64,
    /// Calls of custom executors.
    pub n_calls: u64,
}

impl Agent {
    pub fn alone() -> Self {
        let settings = Settings {
            hostname: "host".to_owned(),
            address: ("10.0.0.7".to_owned(), 5051),
            boot_id: "boot".to_owned(),
            resources: "cpus:4; mem:1024; ports:[31000-31009]".parse().unwrap(),
            attributes: Vec::new(),
            domain: None,
            n_masters: 2,
            reconnect_min: secs(1),
            reconnect_max: secs(8),
            kill_grace: GRACE,
            gc_delay: secs(3600),
            gc_headroom_permille: 100,
            work_dir: "/work".to_owned(),
            environment: vec![("PATH".to_owned(), "/bin".to_owned())],
            tasks_outlive_agent: true,
            log_bound: LogBound {
                size_max: None,
                files_max: 9,
            },
            executors: ExecutorSettings::default(),
        };
        let now = Timestamp::from_secs(1_000_000);
        let mut agent = Self {
            core: Core::recover(settings.clone(), Checkpoint::default(), 7, now)
                .unwrap()
                .0,
            now,
            effects: VecDeque::new(),
            session: 0,
            records: Vec::new(),
            settings,
            n_runs: 0,
            n_calls: 0,
        };
        agent.feed(Input::Tick);
        agent
    }

    pub fn registered() -> Self {
        let mut agent = Self::alone();
        agent.connects(0);
        agent.registers();
        agent
    }

    pub fn feed(&mut self, input: Input) {
        let step = self.core.step(self.now, input);
        self.records.extend(step.persist);
        self.effects.extend(step.then);
    }

    /// What another run finds on the disk.
    pub fn checkpoint(&self) -> Checkpoint {
        let mut checkpoint = Checkpoint::default();
        for record in self.records.clone() {
            checkpoint.apply(record).unwrap();
        }
        checkpoint
    }

    /// The process ends at this instant, with everything that it had not done yet, and another
    /// begins.
    pub fn dies_and_returns(&mut self) {
        self.n_runs += 1;
        let checkpoint = self.checkpoint();
        let seed = 7 + self.n_runs;
        let (core, step) =
            Core::recover(self.settings.clone(), checkpoint, seed, self.now).unwrap();
        self.core = core;
        // As the edge does: a log begins with a snapshot.
        self.records = self.core.snapshot();
        self.effects = step.then.into();
        self.session = 0;
    }

    /// The new run finds a master and is welcomed.
    pub fn is_back(&mut self) -> allot::Register {
        self.feed(Input::Tick);
        self.connects(0);
        self.registers()
    }

    pub fn hears(&mut self, message: Told) {
        let (session, message) = (self.session, Some(message));
        let message = allot::MasterMessage {
            message,
            term: None,
        };
        self.feed(Input::Master { session, message });
    }

    /// Time passes, with a tick at every deadline on the way.
    pub fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.core.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.feed(Input::Tick);
        }
        self.now = end;
    }

    pub fn next(&mut self) -> Effect {
        self.effects.pop_front().expect("an effect")
    }

    pub fn nothing_else(&self) {
        assert!(self.effects.is_empty(), "{:?}", self.effects);
    }

    pub fn connects(&mut self, to: usize) {
        match self.next() {
            Effect::Connect { session, master } => {
                assert_eq!(master, to);
                self.session = session;
            }
            other => panic!("{other:?}"),
        }
        self.nothing_else();
    }

    pub fn says(&mut self) -> Said {
        match self.next() {
            Effect::Send { session, message } => {
                assert_eq!(session, self.session);
                message.message.unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn register(&mut self) -> allot::Register {
        let session = self.session;
        self.feed(Input::Connected { session });
        match self.says() {
            Said::Register(register) => register,
            other => panic!("{other:?}"),
        }
    }

    pub fn welcome(&mut self) {
        self.hears(Told::Registered(allot::Registered {
            agent_id: mesos::AgentId {
                value: "m-S1".to_owned(),
            },
            master_id: "m".to_owned(),
            ping_timeout_seconds: 75.0,
        }));
    }

    pub fn registers(&mut self) -> allot::Register {
        let register = self.register();
        self.welcome();
        register
    }

    pub fn disconnects(&mut self) {
        let session = self.session;
        self.feed(Input::Disconnected { session });
        self.nothing_else();
    }

    pub fn launch(&mut self, tasks: Vec<mesos::TaskInfo>) {
        self.launch_for(&[], tasks);
    }

    pub fn launch_for(&mut self, capabilities: &[capability::Type], tasks: Vec<mesos::TaskInfo>) {
        let framework = mesos::FrameworkInfo {
            id: Some(framework()),
            capabilities: capabilities
                .iter()
                .map(|kind| Capability {
                    r#type: Some((*kind).into()),
                })
                .collect(),
            ..Default::default()
        };
        self.hears(Told::Launch(allot::Launch {
            framework,
            tasks,
            ..Default::default()
        }));
    }

    pub fn starts(&mut self, task: &str) -> ContainerId {
        match self.next() {
            Effect::Start(launch) => {
                let of = launch.sandbox.task().expect("a task's container");
                assert_eq!(of.as_str(), task);
                launch.container
            }
            other => panic!("{other:?}"),
        }
    }

    /// The update that goes out now; unacknowledged.
    pub fn update(&mut self, task: &str, state: TaskState) -> TaskStatus {
        match self.says() {
            Said::Update(update) => {
                assert_eq!(update.status.task_id.value, task);
                assert_eq!(update.status.state(), state, "{:?}", update.status);
                update.status
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn acknowledge(&mut self, status: &TaskStatus) {
        self.hears(Told::Acknowledge(allot::Acknowledge {
            framework_id: framework(),
            task_id: status.task_id.clone(),
            uuid: status.uuid.clone().unwrap(),
        }));
    }

    pub fn acknowledged_update(&mut self, task: &str, state: TaskState) -> TaskStatus {
        let status = self.update(task, state);
        self.acknowledge(&status);
        status
    }

    pub fn started(&mut self, container: &ContainerId) {
        self.feed(Input::Started {
            container: container.clone(),
            pid: 42,
        });
    }

    pub fn exits(&mut self, container: &ContainerId, code: i32) {
        self.ends(
            container,
            Outcome::Exited {
                exit: allot::TaskExit {
                    code: Some(code),
                    ..Default::default()
                },
                memory: None,
                disk_full: false,
                disk: None,
            },
        );
    }

    pub fn ends(&mut self, container: &ContainerId, outcome: Outcome) {
        self.feed(Input::Ended {
            container: container.clone(),
            outcome,
            sandbox: allot::SandboxSummary::default(),
        });
        // Written down, so that nobody else has to remember it.
        assert_eq!(self.next(), Effect::Release(container.clone()));
    }

    pub fn kill(&mut self, task: &str, grace: Option<Duration>) {
        self.hears(Told::Kill(allot::Kill {
            framework_id: framework(),
            task_id: mesos::TaskId {
                value: task.to_owned(),
            },
            kill_policy: grace.map(|grace| mesos::KillPolicy {
                grace_period: Some(mesos::DurationInfo {
                    nanoseconds: i64::try_from(grace.as_nanos()).unwrap(),
                }),
            }),
        }));
    }

    /// A task that runs, with TASK_RUNNING acknowledged.
    pub fn runs(&mut self, id: &str) -> ContainerId {
        self.launch(vec![task(id, "cpus:1")]);
        let container = self.starts(id);
        self.started(&container);
        self.acknowledged_update(id, TaskState::TaskRunning);
        container
    }
}

pub fn framework() -> mesos::FrameworkId {
    mesos::FrameworkId {
        value: "m-0001".to_owned(),
    }
}

pub fn task(id: &str, resources: &str) -> mesos::TaskInfo {
    mesos::TaskInfo {
        name: id.to_owned(),
        task_id: mesos::TaskId {
            value: id.to_owned(),
        },
        resources: resources_to_wire(&resources.parse().unwrap(), None),
        command: Some(mesos::CommandInfo {
            value: Some("x".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}
