//! What a custom executor does to the agent's core, and what a pod's containers do.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use allotment_agent::core::{CallRefusal, ContainerId, Effect, Input, Launch, Outcome};
use allotment_proto::allot;
use allotment_proto::allot::agent_message::Message as Said;
use allotment_proto::allot::master_message::Message as Told;
use allotment_proto::convert::resources_to_wire;
use allotment_proto::executor::{Call, Event, call, event};
use allotment_proto::mesos::{self, TaskState};

use crate::story::{Agent, framework, task};

pub fn id(executor: &str) -> mesos::ExecutorId {
    mesos::ExecutorId {
        value: executor.to_owned(),
    }
}

pub fn custom(executor: &str, resources: &str) -> mesos::ExecutorInfo {
    mesos::ExecutorInfo {
        r#type: Some(mesos::executor_info::Type::Custom.into()),
        executor_id: id(executor),
        command: Some(mesos::CommandInfo {
            value: Some("run".to_owned()),
            ..Default::default()
        }),
        resources: resources_to_wire(&resources.parse().unwrap(), None),
        ..Default::default()
    }
}

pub fn default_one(executor: &str, resources: &str) -> mesos::ExecutorInfo {
    mesos::ExecutorInfo {
        r#type: Some(mesos::executor_info::Type::Default.into()),
        command: None,
        ..custom(executor, resources)
    }
}

/// A task that this executor runs.
pub fn hosted(id: &str, resources: &str, executor: &mesos::ExecutorInfo) -> mesos::TaskInfo {
    mesos::TaskInfo {
        command: None,
        executor: Some(Box::new(executor.clone())),
        ..task(id, resources)
    }
}

pub fn status(task: &str, state: TaskState, uuid: u8) -> mesos::TaskStatus {
    mesos::TaskStatus {
        task_id: mesos::TaskId {
            value: task.to_owned(),
        },
        state: state.into(),
        uuid: Some(vec![uuid; 16].into()),
        ..Default::default()
    }
}

pub fn token(launch: &Launch) -> String {
    let name = "MESOS_EXECUTOR_AUTHENTICATION_TOKEN";
    let found = launch.environment.iter().find(|(n, _)| n == name);
    found.unwrap().1.clone()
}

impl Agent {
    /// The container of an executor is ordered.
    pub fn begins(&mut self, executor: &str) -> Launch {
        match self.next() {
            Effect::Start(launch) => {
                assert_eq!(
                    launch.sandbox.owner.to_string(),
                    format!("executor {executor}")
                );
                *launch
            }
            other => panic!("{other:?}"),
        }
    }

    /// The number of the latest call.
    pub fn number(&self) -> u64 {
        self.n_calls
    }

    pub fn calls(
        &mut self,
        executor: &str,
        token: Option<&str>,
        kind: call::Type,
        fill: impl FnOnce(&mut Call),
    ) {
        self.n_calls += 1;
        let mut call = Call {
            executor_id: id(executor),
            framework_id: framework(),
            r#type: Some(kind.into()),
            ..Default::default()
        };
        fill(&mut call);
        self.feed(Input::ExecutorCall {
            number: self.n_calls,
            token: token.map(str::to_owned),
            call: Box::new(call),
        });
    }

    pub fn executor_says(&mut self, executor: &str, token: &str, status: mesos::TaskStatus) {
        self.calls(executor, Some(token), call::Type::Update, |call| {
            call.update = Some(call::Update { status });
        });
    }

    /// An executor subscribes for the first time; its stream.
    pub fn subscribes(&mut self, executor: &str, token: &str) -> u64 {
        self.calls(executor, Some(token), call::Type::Subscribe, |_| {});
        let stream = self.n_calls;
        self.answered(Ok(()));
        let event = self.event(stream, event::Type::Subscribed);
        let subscribed = event.subscribed.unwrap();
        assert_eq!(subscribed.executor_info.executor_id, id(executor));
        assert_eq!(subscribed.framework_info.id, Some(framework()));
        assert!(subscribed.agent_info.id.is_some());
        stream
    }

    pub fn answered(&mut self, expected: Result<(), CallRefusal>) {
        let number = self.n_calls;
        let answer = expected;
        assert_eq!(self.next(), Effect::AnswerExecutor { number, answer });
    }

    pub fn refused(&mut self) -> CallRefusal {
        match self.next() {
            Effect::AnswerExecutor { number, answer } => {
                assert_eq!(number, self.n_calls);
                answer.unwrap_err()
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn event(&mut self, stream: u64, kind: event::Type) -> Event {
        match self.next() {
            Effect::ToExecutor { number, event } => {
                assert_eq!((number, event.r#type()), (stream, kind));
                *event
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn executor_ended(&mut self, executor: &str) -> allot::ExecutorEnded {
        match self.says() {
            Said::ExecutorEnded(ended) => {
                assert_eq!(ended.executor_id, id(executor));
                ended
            }
            other => panic!("{other:?}"),
        }
    }

    /// A custom executor that was told of one task: its container, token and stream.
    pub fn executor_runs(&mut self, executor: &str, task: &str) -> (ContainerId, String, u64) {
        let info = custom(executor, "cpus:0.5;mem:32");
        self.launch(vec![hosted(task, "cpus:1;mem:64", &info)]);
        let launch = self.begins(executor);
        self.started(&launch.container);
        let token = token(&launch);
        let stream = self.subscribes(executor, &token);
        self.event(stream, event::Type::Launch);
        self.nothing_else();
        (launch.container, token, stream)
    }

    pub fn launch_group(&mut self, executor: mesos::ExecutorInfo, tasks: Vec<mesos::TaskInfo>) {
        let framework = mesos::FrameworkInfo {
            id: Some(framework()),
            ..Default::default()
        };
        let known = self.core.overview().executors > 0;
        let with_executor = |task| mesos::TaskInfo {
            executor: Some(Box::new(executor.clone())),
            ..task
        };
        self.hears(Told::Launch(allot::Launch {
            framework,
            tasks: tasks.into_iter().map(with_executor).collect(),
            running_executors: known
                .then(|| executor.executor_id.clone())
                .into_iter()
                .collect(),
            group_executor: Some(Box::new(executor)),
        }));
    }

    /// Two tasks of a group, being started.
    pub fn pod_starts(
        &mut self,
        executor: &mesos::ExecutorInfo,
        one: &str,
        two: &str,
    ) -> (ContainerId, ContainerId) {
        let tasks = vec![task(one, "cpus:0.5"), task(two, "cpus:0.5")];
        self.launch_group(executor.clone(), tasks);
        (self.starts(one), self.starts(two))
    }

    /// Two tasks of a group that run, as their framework knows.
    pub fn pod_runs(
        &mut self,
        executor: &mesos::ExecutorInfo,
        one: &str,
        two: &str,
    ) -> (ContainerId, ContainerId) {
        let containers = self.pod_starts(executor, one, two);
        self.started(&containers.0);
        self.started(&containers.1);
        for _ in 0..2 {
            match self.says() {
                Said::Update(update) => self.acknowledge(&update.status),
                other => panic!("{other:?}"),
            }
        }
        self.nothing_else();
        containers
    }

    /// SIGKILL had its effect.
    pub fn killed(&mut self, container: &ContainerId) {
        let exit = allot::TaskExit {
            signal: Some(9),
            ..Default::default()
        };
        self.ends(
            container,
            Outcome::Exited {
                exit,
                memory: None,
                disk_full: false,
                disk: None,
            },
        );
    }
}
