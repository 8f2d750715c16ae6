//! Executors that tasks share: begun with the first, held until they end, messages, groups.

use allotment_master::core::{Reply, Request};
use allotment_proto::allot::agent_message::Message as Says;
use allotment_proto::allot::master_message::Message;
use allotment_proto::mesos::executor_info::Type;
use allotment_proto::mesos::offer::{Operation, operation};
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{self, TaskState};
use allotment_proto::scheduler::{call, event};
use allotment_proto::{allot, convert};

use crate::cluster::{Ag, Cluster, Fw, SECOND, call_of, launch, record, resources, task};

fn id(executor: &str) -> mesos::ExecutorId {
    mesos::ExecutorId {
        value: executor.to_owned(),
    }
}

fn executor(name: &str, kind: Type, needs: &str) -> mesos::ExecutorInfo {
    mesos::ExecutorInfo {
        r#type: Some(kind.into()),
        executor_id: id(name),
        command: (kind == Type::Custom).then(|| mesos::CommandInfo {
            value: Some("run".to_owned()),
            ..Default::default()
        }),
        resources: convert::resources_to_wire(&resources(needs), None),
        ..Default::default()
    }
}

fn custom(name: &str) -> mesos::ExecutorInfo {
    executor(name, Type::Custom, "cpus:0.5; mem:64")
}

/// A task that an executor runs.
fn hosted(name: &str, offer: &mesos::Offer, in_: &mesos::ExecutorInfo) -> mesos::TaskInfo {
    mesos::TaskInfo {
        command: None,
        executor: Some(Box::new(in_.clone())),
        ..task(name, offer, "cpus:1; mem:32")
    }
}

fn group(executor: &mesos::ExecutorInfo, tasks: Vec<mesos::TaskInfo>) -> Operation {
    Operation {
        r#type: Some(operation::Type::LaunchGroup.into()),
        launch_group: Some(operation::LaunchGroup {
            executor: executor.clone(),
            task_group: mesos::TaskGroupInfo { tasks },
        }),
        ..Default::default()
    }
}

impl Cluster {
    fn launches(&mut self, ag: &Ag) -> allot::Launch {
        match self.agent_hears(ag) {
            Message::Launch(launch) => launch,
            other => panic!("{other:?}"),
        }
    }

    fn ends(&mut self, ag: &Ag, fw: &Fw, executor: &str, status: i32) {
        let ended = allot::ExecutorEnded {
            framework_id: fw.info.id.clone().unwrap(),
            executor_id: id(executor),
            status: Some(status),
        };
        self.says(ag, Says::ExecutorEnded(ended));
    }

    fn group(&mut self, fw: &Fw, offer: &mesos::Offer, operations: Vec<Operation>) {
        self.accepts_all(fw, std::slice::from_ref(offer), operations, None);
    }

    fn task_rows(&mut self) -> Vec<allot::TaskView> {
        let request = Request::ListTasks(allot::ListTasksRequest::default());
        match self.ask(request) {
            Ok(Reply::Tasks(rows)) => rows,
            other => panic!("{other:?}"),
        }
    }

    fn failure(&mut self, fw: &Fw) -> event::Failure {
        *self.hears(fw).failure.expect("a FAILURE")
    }
}

/// The executor as its agent reports it.
fn recorded(fw: &Fw) -> allot::ExecutorRecord {
    let mut executor = custom("e");
    for resource in &mut executor.resources {
        resource.allocation_info = Some(mesos::resource::AllocationInfo {
            role: fw.info.roles.first().cloned(),
        });
    }
    allot::ExecutorRecord {
        framework_id: fw.info.id.clone().unwrap(),
        executor,
    }
}

/// An executor with one task.
fn one(c: &mut Cluster) -> (Ag, Fw, mesos::TaskInfo) {
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let t = hosted("t", &offer, &custom("e"));
    c.accepts(&fw, &offer, vec![t.clone()]);
    let launch = c.launches(&agent);
    let sent = launch.tasks[0].executor.as_ref().unwrap();
    assert_eq!(sent.framework_id, fw.info.id);
    assert!(sent.resources.iter().all(|r| r.allocation_info.is_some()));
    assert!(launch.running_executors.is_empty() && launch.group_executor.is_none());
    (agent, fw, t)
}

#[test]
fn an_executor_holds_its_own_from_its_first_task_to_its_end() {
    let mut c = Cluster::new();
    let (agent, fw, _) = one(&mut c);
    assert_eq!(c.cpus(&agent), [4.0, 1.5, 0.0]);
    c.goes(&agent, &fw, "t", TaskState::TaskFinished);
    assert_eq!(c.cpus(&agent), [4.0, 0.5, 0.0]);
    // A second task takes nothing more for it, and its agent hears that it should be there.
    c.pass(6 * SECOND, &[&agent]);
    let offer = c.only_offer_to(&fw);
    c.accepts(&fw, &offer, vec![hosted("u", &offer, &custom("e"))]);
    assert_eq!(c.launches(&agent).running_executors, [id("e")]);
    assert_eq!(c.cpus(&agent), [4.0, 1.5, 0.0]);
    c.goes(&agent, &fw, "u", TaskState::TaskFailed);
    c.ends(&agent, &fw, "e", 256);
    assert_eq!(c.cpus(&agent), [4.0, 0.0, 0.0]);
    let failure = c.failure(&fw);
    assert_eq!(failure.executor_id, Some(id("e")));
    assert_eq!(failure.status, Some(256));
    assert_eq!(failure.agent_id.unwrap().value, agent.id);
    // Said twice, it frees nothing twice.
    c.ends(&agent, &fw, "e", 256);
    c.hears_nothing(&fw);
}

#[test]
fn two_tasks_of_one_accept_share_the_executor_that_the_first_began() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let tasks = vec![
        hosted("t", &offer, &custom("e")),
        hosted("u", &offer, &custom("e")),
    ];
    c.accepts(&fw, &offer, tasks);
    let launch = c.launches(&agent);
    assert_eq!(launch.tasks.len(), 2);
    assert!(launch.running_executors.is_empty());
    assert_eq!(c.cpus(&agent), [4.0, 2.5, 0.0]);
}

#[test]
fn tasks_with_executors_that_make_no_sense_are_errors() {
    let mut c = Cluster::new();
    let (agent, fw, _) = one(&mut c);
    c.pass(6 * SECOND, &[&agent]);
    let offer = c.only_offer_to(&fw);
    let both = mesos::TaskInfo {
        executor: Some(Box::new(custom("e"))),
        ..task("both", &offer, "cpus:1")
    };
    let with = |name: &str, change: &dyn Fn(&mut mesos::ExecutorInfo)| {
        let mut executor = custom("e");
        change(&mut executor);
        hosted(name, &offer, &executor)
    };
    let tasks = vec![
        both,
        with("other", &|e| e.name = Some("other".to_owned())),
        with("none", &|e| {
            e.executor_id = id("f");
            e.command = None;
        }),
        with("default", &|e| e.r#type = Some(Type::Default.into())),
        with("slash", &|e| e.executor_id = id("../f")),
        with("foreign", &|e| {
            e.framework_id = Some(mesos::FrameworkId {
                value: "x".to_owned(),
            });
        }),
        with("large", &|e| {
            e.executor_id = id("g");
            e.resources = convert::resources_to_wire(&resources("cpus:3"), None);
        }),
    ];
    let parts = [
        ("both", "a command and an executor"),
        ("other", "described differently"),
        ("none", "executor has no command"),
        ("default", "LAUNCH_GROUP"),
        ("slash", "slashes"),
        ("foreign", "names framework x"),
        ("large", "does not fit"),
    ];
    c.accepts(&fw, &offer, tasks);
    for (name, part) in parts {
        let status = c.status(&fw);
        assert_eq!(status.task_id.value, name);
        assert_eq!(status.state(), TaskState::TaskError);
        assert_eq!(status.reason(), Reason::TaskInvalid);
        assert!(status.message().contains(part), "{}", status.message());
    }
    assert_eq!(c.cpus(&agent), [4.0, 1.5, 0.0]);
}

#[test]
fn a_group_starts_as_one_with_its_executor() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let pod = executor("pod", Type::Default, "cpus:0.1; mem:32");
    let tasks = vec![task("t", &offer, "cpus:1"), task("u", &offer, "cpus:1")];
    c.group(&fw, &offer, vec![group(&pod, tasks)]);
    let launch = c.launches(&agent);
    assert_eq!(launch.group_executor.unwrap().executor_id, id("pod"));
    assert_eq!(launch.tasks.len(), 2);
    assert!(launch.tasks.iter().all(|t| t.executor.is_some()));
    assert_eq!(c.cpus(&agent), [4.0, 2.1, 0.0]);
    let views = c.task_rows();
    assert!(
        views
            .iter()
            .all(|row| row.executor_id.as_deref() == Some("pod"))
    );
}

#[test]
fn a_group_with_one_wrong_task_starts_none() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let pod = executor("pod", Type::Default, "cpus:0.1; mem:32");
    let limited = |offer: &mesos::Offer| {
        let mut info = task("u", offer, "cpus:1");
        info.limits.insert(
            "cpus".to_owned(),
            mesos::value::Scalar {
                value: f64::INFINITY,
            },
        );
        info
    };
    type Wrong = Box<dyn Fn(&mesos::Offer) -> Operation>;
    let wrong: Vec<(Wrong, &str)> = vec![
        (
            Box::new({
                let pod = pod.clone();
                move |offer| {
                    let tasks = vec![task("t", offer, "cpus:1"), task("u", offer, "cpus:9")];
                    group(&pod, tasks)
                }
            }),
            "does not fit",
        ),
        (
            Box::new({
                let pod = pod.clone();
                move |offer| group(&pod, vec![task("t", offer, "cpus:1"), limited(offer)])
            }),
            "Task 'u' is invalid: resource limits",
        ),
        (
            Box::new({
                let pod = pod.clone();
                move |offer| {
                    group(
                        &pod,
                        vec![task("t", offer, "cpus:1"), task("t", offer, "cpus:1")],
                    )
                }
            }),
            "named twice",
        ),
        (
            Box::new(move |offer| {
                let mut pod = pod.clone();
                pod.command = Some(mesos::CommandInfo::default());
                group(
                    &pod,
                    vec![task("t", offer, "cpus:1"), task("u", offer, "cpus:1")],
                )
            }),
            "leave the command out",
        ),
        (
            Box::new(|offer| {
                let untyped = mesos::ExecutorInfo {
                    r#type: None,
                    ..custom("e")
                };
                group(
                    &untyped,
                    vec![task("t", offer, "cpus:1"), task("u", offer, "cpus:1")],
                )
            }),
            "type is not set",
        ),
    ];
    for (make, part) in wrong {
        let offer = c.only_offer_to(&fw);
        c.group(&fw, &offer, vec![make(&offer)]);
        for _ in 0..2 {
            let status = c.status(&fw);
            assert_eq!(status.reason(), Reason::TaskGroupInvalid, "{status:?}");
            assert!(status.message().contains(part), "{}", status.message());
        }
        assert_eq!(c.cpus(&agent)[1], 0.0);
        c.pass(6 * SECOND, &[&agent]);
    }
    let offer = c.only_offer_to(&fw);
    let pod = executor("pod", Type::Default, "");
    c.group(&fw, &offer, vec![group(&pod, Vec::new())]);
    assert!(c.rejected(&fw).contains("has no tasks"));
}

#[test]
fn messages_and_shutdown_go_to_the_executors_agent() {
    let mut c = Cluster::new();
    let (agent, fw, _) = one(&mut c);
    let agent_id = mesos::AgentId {
        value: agent.id.clone(),
    };
    let mut message = call_of(call::Type::Message);
    message.message = Some(Box::new(call::Message {
        agent_id: agent_id.clone(),
        executor_id: id("e"),
        data: vec![1, 2].into(),
    }));
    c.calls(&fw, message.clone());
    match c.agent_hears(&agent) {
        Message::ExecutorMessage(said) => assert_eq!(said.data, vec![1, 2]),
        other => panic!("{other:?}"),
    }
    let mut shutdown = call_of(call::Type::Shutdown);
    shutdown.shutdown = Some(Box::new(call::Shutdown {
        agent_id,
        executor_id: id("e"),
    }));
    c.calls(&fw, shutdown);
    assert!(matches!(
        c.agent_hears(&agent),
        Message::ShutdownExecutor(_)
    ));
    let said = allot::ExecutorMessage {
        framework_id: fw.info.id.clone().unwrap(),
        executor_id: id("e"),
        data: vec![3].into(),
    };
    c.says(&agent, Says::ExecutorMessage(said));
    assert_eq!(c.hears(&fw).message.unwrap().data, vec![3]);
    // What cannot be delivered is refused.
    if let Some(said) = &mut message.message {
        said.executor_id = id("nobody");
    }
    c.calls(&fw, message.clone());
    assert!(c.rejected(&fw).contains("no executor nobody"));
    if let Some(said) = &mut message.message {
        said.executor_id = id("e");
        said.data = vec![0; 5 << 20].into();
    }
    c.calls(&fw, message);
    assert!(c.rejected(&fw).contains("at most"));
}

#[test]
fn executors_come_back_with_their_agent_and_those_that_ended_meanwhile_are_free() {
    let mut c = Cluster::new();
    let (agent, fw, t) = one(&mut c);
    c.goes(&agent, &fw, "t", TaskState::TaskRunning);
    c.loses_session(&agent);
    let mut back = agent.register.clone();
    back.tasks = vec![record(&fw, &t, TaskState::TaskRunning)];
    back.frameworks = vec![fw.info.clone()];
    back.executors = vec![recorded(&fw)];
    let agent = c.registers(back).unwrap();
    assert_eq!(c.cpus(&agent), [4.0, 1.5, 0.0]);
    c.loses_session(&agent);
    let mut without = agent.register.clone();
    without.executors.clear();
    let agent = c.registers(without).unwrap();
    assert_eq!(c.cpus(&agent), [4.0, 1.0, 0.0]);
}

#[test]
fn a_new_master_learns_of_executors_from_their_agents() {
    let mut c = Cluster::new();
    let (agent, fw, t) = one(&mut c);
    c.goes(&agent, &fw, "t", TaskState::TaskRunning);
    c.master_restarts();
    let mut back = agent.register.clone();
    back.tasks = vec![record(&fw, &t, TaskState::TaskRunning)];
    back.frameworks = vec![fw.info.clone()];
    back.executors = vec![recorded(&fw)];
    let agent = c.registers(back).unwrap();
    assert_eq!(c.cpus(&agent), [4.0, 1.5, 0.0]);
    c.ends(&agent, &fw, "e", 0);
    assert_eq!(c.cpus(&agent), [4.0, 1.0, 0.0]);
}

#[test]
fn an_agent_out_of_sight_holds_nothing_for_executors() {
    let mut c = Cluster::new();
    let (agent, fw, _) = one(&mut c);
    c.goes(&agent, &fw, "t", TaskState::TaskRunning);
    c.loses_session(&agent);
    c.pass(80 * SECOND, &[]);
    assert_eq!(c.update(&fw).1, TaskState::TaskUnreachable);
    assert_eq!(c.lost_agent(&fw), agent.id);
}

#[test]
fn a_framework_that_is_torn_down_is_there_until_its_executors_have_ended() {
    let mut c = Cluster::new();
    let (agent, fw, _) = one(&mut c);
    c.goes(&agent, &fw, "t", TaskState::TaskFinished);
    c.calls(&fw, call_of(call::Type::Teardown));
    assert!(matches!(
        c.agent_hears(&agent),
        Message::ShutdownExecutor(_)
    ));
    c.closed(fw.conn);
    assert_eq!(c.cpus(&agent), [4.0, 0.5, 0.0]);
    c.ends(&agent, &fw, "e", 0);
    assert_eq!(c.cpus(&agent), [4.0, 0.0, 0.0]);
}

#[test]
fn a_launch_for_an_executor_in_void_offers_is_dropped() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    c.accepts(&fw, &offer, Vec::new());
    let pod = executor("pod", Type::Default, "");
    let tasks = vec![task("t", &offer, "cpus:1")];
    c.group(
        &fw,
        &offer,
        vec![
            group(&pod, tasks),
            launch(vec![hosted("u", &offer, &custom("e"))]),
        ],
    );
    for _ in 0..2 {
        assert_eq!(c.update(&fw).1, TaskState::TaskDropped);
    }
    assert_eq!(c.cpus(&agent)[1], 0.0);
}
