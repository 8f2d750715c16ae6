//! Tasks: launched, updated, killed, reconciled, remembered.

use allotment_proto::allot::agent_message::Message as Says;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{self, TaskState};
use allotment_proto::scheduler::call;

use crate::cluster::{Ag, Cluster, Fw, SECOND, call_of, launch, record, task};

fn one_task(c: &mut Cluster, id: &str) -> (Ag, Fw, mesos::TaskInfo) {
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let t = task(id, &offer, "cpus:1; mem:32");
    c.accepts(&fw, &offer, vec![t.clone()]);
    assert_eq!(c.launched(&agent), [id]);
    (agent, fw, t)
}

#[test]
fn a_task_runs_ends_and_is_remembered() {
    let mut c = Cluster::new();
    let (agent, fw, _) = one_task(&mut c, "t");
    c.goes(&agent, &fw, "t", TaskState::TaskStarting);
    c.goes(&agent, &fw, "t", TaskState::TaskRunning);
    assert_eq!(c.cpus(&agent), [4.0, 1.0, 0.0]);
    c.goes(&agent, &fw, "t", TaskState::TaskFinished);
    assert_eq!(c.cpus(&agent), [4.0, 0.0, 0.0]);
    assert_eq!(c.tasks(false), []);
    assert_eq!(
        c.tasks(true),
        [("t".to_owned(), "TASK_FINISHED".to_owned())]
    );
    let kinds: Vec<&str> = c
        .events
        .iter()
        .filter(|e| e.task_id.is_some())
        .map(|e| e.kind.as_str())
        .collect();
    assert_eq!(
        kinds,
        [
            "task-staging",
            "task-starting",
            "task-running",
            "task-finished"
        ]
    );
}

#[test]
fn resources_are_free_when_the_task_is_over_though_updates_still_wait() {
    let mut c = Cluster::new();
    let (agent, fw, _) = one_task(&mut c, "t");
    let running = c.reports_late(
        &agent,
        &fw,
        "t",
        TaskState::TaskRunning,
        TaskState::TaskFinished,
    );
    assert_eq!(c.cpus(&agent), [4.0, 0.0, 0.0]);
    assert_eq!(c.update(&fw).1, TaskState::TaskRunning);
    // What the framework is told on request is what it was told: updates come in order.
    c.reconciles(&fw, &[("t", None)]);
    assert_eq!(c.update(&fw).1, TaskState::TaskRunning);
    c.acknowledges(&fw, &running);
    c.acknowledged(&agent);
    c.goes(&agent, &fw, "t", TaskState::TaskFinished);
}

#[test]
fn repeated_updates_are_forwarded_and_free_nothing_twice() {
    let mut c = Cluster::new();
    let (agent, fw, _) = one_task(&mut c, "t");
    let sent = c.reports(&agent, &fw, "t", TaskState::TaskFinished);
    let again = allotment_proto::allot::StatusUpdate {
        framework_id: fw.info.id.clone().unwrap(),
        status: sent.clone(),
        latest_state: TaskState::TaskFinished.into(),
    };
    c.says(&agent, Says::Update(again.clone()));
    assert_eq!(c.status(&fw), sent);
    assert_eq!(c.status(&fw), sent);
    c.acknowledges(&fw, &sent);
    c.acknowledged(&agent);
    // The acknowledgement got lost on its way to the agent, which repeats itself.
    c.says(&agent, Says::Update(again));
    assert_eq!(c.status(&fw), sent);
    c.acknowledges(&fw, &sent);
    c.acknowledged(&agent);
    assert_eq!(c.tasks(true).len(), 1);
}

#[test]
fn killing_is_only_told_to_frameworks_that_know_the_state() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework_with("plain", |info| {
        info.capabilities
            .retain(|cap| cap.r#type() == mesos::framework_info::capability::Type::MultiRole);
    });
    let offer = c.only_offer_to(&fw);
    c.accepts(&fw, &offer, vec![task("t", &offer, "cpus:1; mem:32")]);
    c.launched(&agent);
    c.kills(&fw, "t");
    assert_eq!(c.killed(&agent), "t");
    c.reports(&agent, &fw, "t", TaskState::TaskKilling);
    assert_eq!(c.update(&fw).1, TaskState::TaskRunning);
}

#[test]
fn killing_an_unknown_task_is_answered_like_a_reconciliation() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    c.kills(&fw, "nobody");
    assert_eq!(
        c.update(&fw),
        (
            "nobody".to_owned(),
            TaskState::TaskUnknown,
            Some(Reason::Reconciliation)
        )
    );
}

#[test]
fn a_kill_while_the_agent_is_away_reaches_it_when_it_is_back() {
    let mut c = Cluster::new();
    let (agent, fw, t) = one_task(&mut c, "t");
    c.loses_session(&agent);
    c.kills(&fw, "t");
    assert_eq!(c.update(&fw).1, TaskState::TaskStaging);
    // A framework that answers the answer by another KILL is not answered again.
    c.kills(&fw, "t");
    c.hears_nothing(&fw);
    let agent = c.returns(
        &agent,
        vec![record(&fw, &t, TaskState::TaskRunning)],
        &[&fw],
    );
    assert_eq!(c.killed(&agent), "t");
    c.goes(&agent, &fw, "t", TaskState::TaskKilled);
    c.turn();
    c.offers(&fw);
}

#[test]
fn a_kill_with_the_wrong_agent_is_refused_by_name() {
    let mut c = Cluster::new();
    let (agent, fw, _) = one_task(&mut c, "t");
    let mut call = call_of(call::Type::Kill);
    call.kill = Some(Box::new(call::Kill {
        task_id: mesos::TaskId {
            value: "t".to_owned(),
        },
        agent_id: Some(mesos::AgentId {
            value: "elsewhere".to_owned(),
        }),
        kill_policy: None,
    }));
    c.calls(&fw, call);
    assert!(c.rejected(&fw).contains(&agent.id));
}

#[test]
fn reconciliation_answers_by_what_is_known_of_the_agent() {
    let mut c = Cluster::new();
    let (agent, fw, _) = one_task(&mut c, "t");
    c.goes(&agent, &fw, "t", TaskState::TaskRunning);
    let away = c.agent("b", "cpus:1; mem:1024");
    c.loses_session(&away);
    c.pass(76 * SECOND, &[&agent]);
    c.offers(&fw);
    c.lost_agent(&fw);
    let asked = [
        ("t", None, TaskState::TaskRunning),
        ("x", Some(agent.id.as_str()), TaskState::TaskGone),
        ("x", Some(away.id.as_str()), TaskState::TaskUnreachable),
        ("x", Some("m0-S7"), TaskState::TaskUnknown),
        ("x", None, TaskState::TaskUnknown),
    ];
    for (id, on, state) in asked {
        c.reconciles(&fw, &[(id, on)]);
        let status = c.status(&fw);
        assert_eq!(status.state(), state, "{id} on {on:?}");
        assert_eq!(status.uuid, None);
        assert_eq!(status.reason(), Reason::Reconciliation);
        let away = state == TaskState::TaskUnreachable;
        assert_eq!(status.unreachable_time.is_some(), away);
    }
}

#[test]
fn a_reconciled_end_says_how_the_task_ended() {
    let mut c = Cluster::new();
    let (agent, fw, _) = one_task(&mut c, "t");
    let mut status = c.reports(&agent, &fw, "t", TaskState::TaskRunning);
    c.status(&fw);
    status.set_state(TaskState::TaskFailed);
    status.uuid = Some(vec![9; 16].into());
    status.exit = Some(allotment_proto::allot::TaskExit {
        code: Some(3),
        ..Default::default()
    });
    let update = allotment_proto::allot::StatusUpdate {
        framework_id: fw.info.id.clone().unwrap(),
        status,
        latest_state: TaskState::TaskFailed.into(),
    };
    c.says(&agent, Says::Update(update));
    c.status(&fw);
    c.reconciles(&fw, &[]);
    assert_eq!(c.status(&fw).exit.unwrap().code, Some(3));
    c.turn();
    c.offers(&fw);
}

#[test]
fn a_bad_task_is_refused_and_the_good_ones_beside_it_run() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let with = |id: &str, change: &dyn Fn(&mut mesos::TaskInfo)| {
        let mut t = task(id, &offer, "cpus:1; mem:32");
        change(&mut t);
        t
    };
    let absurd = |value: f64| {
        move |t: &mut mesos::TaskInfo| {
            t.resources[0].scalar = Some(mesos::value::Scalar { value });
        }
    };
    let executor = |t: &mut mesos::TaskInfo| t.executor = Some(Box::default());
    let image = |t: &mut mesos::TaskInfo| {
        t.container = Some(Box::new(mesos::ContainerInfo {
            r#type: mesos::container_info::Type::Docker.into(),
            ..Default::default()
        }));
    };
    let tasks = vec![
        with("good1", &|_| {}),
        with("a/b", &|_| {}),
        with("..", &|_| {}),
        with("", &|_| {}),
        with("negative", &absurd(-1.0)),
        with("nan", &absurd(f64::NAN)),
        with("huge", &absurd(1e300)),
        with("greedy", &absurd(100.0)),
        with("nothing", &|t| t.resources.clear()),
        with("mute", &|t| t.command = None),
        with("elsewhere", &|t| t.agent_id.value = "m1-S99".to_owned()),
        with("custom", &executor),
        with("docker", &image),
        with("good1", &|_| {}),
        with("good2", &|_| {}),
    ];
    c.accepts(&fw, &offer, tasks);
    assert_eq!(c.launched(&agent), ["good1", "good2"]);
    let mut faults = Vec::new();
    while c.has_heard(&fw) {
        let status = c.status(&fw);
        assert_eq!(status.state(), TaskState::TaskError);
        assert_eq!(status.reason(), Reason::TaskInvalid);
        faults.push(format!("{}: {}", status.task_id.value, status.message()));
    }
    insta::assert_snapshot!(faults.join("\n"));
}

#[test]
fn operations_that_are_not_supported_are_refused_whole_and_the_offer_stands() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let grow = mesos::offer::Operation {
        r#type: Some(mesos::offer::operation::Type::GrowVolume.into()),
        ..Default::default()
    };
    let tasks = launch(vec![task("t", &offer, "cpus:1; mem:32")]);
    c.accepts_all(
        &fw,
        std::slice::from_ref(&offer),
        vec![tasks.clone(), grow],
        None,
    );
    assert!(
        c.rejected(&fw)
            .starts_with("not supported yet: operation GROW_VOLUME")
    );
    c.accepts_all(&fw, &[offer], vec![tasks], None);
    assert_eq!(c.launched(&agent), ["t"]);
}

#[test]
fn an_id_can_be_used_again_once_its_end_is_acknowledged() {
    let mut c = Cluster::new();
    let (agent, fw, _) = one_task(&mut c, "t");
    let sent = c.reports(&agent, &fw, "t", TaskState::TaskFailed);
    c.status(&fw);
    let offer = c.only_offer_to(&fw);
    let again = task("t", &offer, "cpus:1; mem:32");
    c.accepts_all(&fw, &[offer], vec![launch(vec![again.clone()])], Some(0.0));
    let refused = c.status(&fw);
    assert_eq!(refused.state(), TaskState::TaskError);
    assert!(refused.message().contains("not acknowledged"));
    c.acknowledges(&fw, &sent);
    c.acknowledged(&agent);
    let offer = c.only_offer_to(&fw);
    c.accepts(&fw, &offer, vec![again]);
    assert_eq!(c.launched(&agent), ["t"]);
}

#[test]
fn calls_that_are_not_built_are_refused_with_a_sentence() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    for kind in [
        call::Type::Message,
        call::Type::Shutdown,
        call::Type::AcceptInverseOffers,
        call::Type::Unknown,
        call::Type::Accept,
    ] {
        c.calls(&fw, call_of(kind));
        let message = c.rejected(&fw);
        assert!(message.len() > 20, "{kind:?}: {message}");
    }
    c.calls(&fw, call_of(call::Type::Request));
    c.hears_nothing(&fw);
}

#[test]
fn an_acknowledgement_without_sixteen_bytes_is_refused() {
    let mut c = Cluster::new();
    let (agent, fw, _) = one_task(&mut c, "t");
    let mut sent = c.reports(&agent, &fw, "t", TaskState::TaskRunning);
    c.status(&fw);
    sent.uuid = Some(vec![1; 15].into());
    c.acknowledges(&fw, &sent);
    assert!(c.rejected(&fw).contains("16 bytes"));
}
