//! Peers that lie, whether by malice or by mistake: the cluster goes on unharmed.

use allotment_proto::allot::agent_message::Message as Says;
use allotment_proto::mesos::{self, TaskState};
use allotment_proto::{allot, convert};

use crate::cluster::{Ag, Cluster, Fw, info, record, register, resources, task};

#[test]
fn agents_with_absurd_registrations_are_turned_away_by_name() {
    let mut c = Cluster::new();
    let with = |change: &dyn Fn(&mut allot::Register)| {
        let mut r = register("a", "cpus:4; mem:1024");
        change(&mut r);
        r
    };
    let cpus = |value: f64| {
        move |r: &mut allot::Register| {
            r.agent.resources[0].scalar = Some(mesos::value::Scalar { value });
        }
    };
    let nameless = |r: &mut allot::Register| {
        r.agent.attributes.push(mesos::Attribute {
            name: String::new(),
            ..Default::default()
        });
    };
    let bad = vec![
        with(&cpus(-4.0)),
        with(&cpus(f64::NAN)),
        with(&cpus(1e18)),
        with(&|r| r.agent.resources.clear()),
        with(&|r| r.agent.resources[0].role = Some("-prod".to_owned())),
        with(&|r| r.agent.hostname.clear()),
        with(&|r| r.agent.hostname = "a\nb".to_owned()),
        with(&|r| r.url = "ftp://a".to_owned()),
        with(&|r| {
            r.agent.id = Some(mesos::AgentId {
                value: "../../etc".to_owned(),
            });
        }),
        with(&nameless),
    ];
    let reasons: Vec<String> = bad
        .into_iter()
        .map(|r| c.registers(r).expect_err("refused"))
        .collect();
    insta::assert_snapshot!(reasons.join("\n"));
    assert!(c.registry.agents.is_empty());
}

#[test]
fn an_agent_whose_tasks_do_not_fit_into_it_is_turned_away() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    let offer = mesos::Offer {
        id: mesos::OfferId {
            value: String::new(),
        },
        agent_id: mesos::AgentId {
            value: "m1-S0".to_owned(),
        },
        framework_id: fw.info.id.clone().unwrap(),
        hostname: String::new(),
        ..Default::default()
    };
    let tasks = ["t1", "t2"].map(|id| {
        let t = task(id, &offer, "cpus:3; ports:[31000-31000]");
        record(&fw, &t, TaskState::TaskRunning)
    });
    let mut lying = register("a", "cpus:9; mem:1024; ports:[31000-32000]");
    lying.tasks = tasks.to_vec();
    lying.frameworks = vec![fw.info.clone()];
    let refused = c.registers(lying.clone()).unwrap_err();
    assert!(refused.contains("do not fit"), "{refused}");
    lying.tasks.truncate(1);
    lying.tasks[0].set_state(TaskState::TaskUnreachable);
    let refused = c.registers(lying.clone()).unwrap_err();
    assert!(refused.contains("only a master"), "{refused}");
    lying.tasks[0].set_state(TaskState::TaskRunning);
    lying.frameworks.clear();
    let refused = c.registers(lying).unwrap_err();
    assert!(refused.contains("without that framework"), "{refused}");
}

fn two_agents(c: &mut Cluster) -> (Ag, Ag, Fw) {
    let honest = c.agent("honest", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    c.accepts(&fw, &offer, vec![task("t", &offer, "cpus:4; mem:1024")]);
    c.launched(&honest);
    c.goes(&honest, &fw, "t", TaskState::TaskRunning);
    let liar = c.agent("liar", "cpus:1; mem:32");
    c.turn();
    c.offers(&fw);
    (honest, liar, fw)
}

#[test]
fn an_agent_cannot_end_a_task_of_another_agent() {
    let mut c = Cluster::new();
    let (honest, liar, fw) = two_agents(&mut c);
    c.reports(&liar, &fw, "t", TaskState::TaskFailed);
    c.acknowledged(&liar);
    // Nor in the other's name.
    let forged = Ag {
        conn: liar.conn,
        ..honest.clone()
    };
    c.reports(&forged, &fw, "t", TaskState::TaskFailed);
    c.hears_nothing(&fw);
    assert_eq!(c.cpus(&honest), [4.0, 4.0, 0.0]);
}

#[test]
fn an_agent_that_claims_a_task_of_another_agent_is_told_to_kill_it() {
    let mut c = Cluster::new();
    let (honest, liar, fw) = two_agents(&mut c);
    c.loses_session(&liar);
    c.rescinded(&fw);
    let offer = mesos::Offer {
        agent_id: mesos::AgentId {
            value: liar.id.clone(),
        },
        ..Default::default()
    };
    let stolen = task("t", &offer, "cpus:1; mem:32");
    let claims = vec![record(&fw, &stolen, TaskState::TaskRunning)];
    let liar = c.returns(&liar, claims, &[&fw]);
    assert_eq!(c.killed(&liar), "t");
    assert_eq!(c.cpus(&honest), [4.0, 4.0, 0.0]);
    c.turn();
    c.offers(&fw);
}

#[test]
fn updates_for_unknown_tasks_and_frameworks_reach_nobody() {
    let mut c = Cluster::new();
    let (_, liar, fw) = two_agents(&mut c);
    let stranger = Fw {
        info: mesos::FrameworkInfo {
            id: Some(mesos::FrameworkId {
                value: "nobody".to_owned(),
            }),
            ..info("nobody")
        },
        ..fw.clone()
    };
    c.reports(&liar, &stranger, "t9", TaskState::TaskRunning);
    assert_eq!(c.shut_down(&liar), "nobody");
    // A live task that nobody launched must not live.
    c.reports(&liar, &fw, "t9", TaskState::TaskRunning);
    c.acknowledged(&liar);
    assert_eq!(c.killed(&liar), "t9");
    c.hears_nothing(&fw);
}

#[test]
fn malformed_updates_are_ignored() {
    let mut c = Cluster::new();
    let (honest, _, fw) = two_agents(&mut c);
    let good = allot::StatusUpdate {
        framework_id: fw.info.id.clone().unwrap(),
        status: mesos::TaskStatus {
            task_id: mesos::TaskId {
                value: "t".to_owned(),
            },
            state: TaskState::TaskFailed.into(),
            agent_id: Some(mesos::AgentId {
                value: honest.id.clone(),
            }),
            uuid: Some(vec![1; 16].into()),
            ..Default::default()
        },
        latest_state: TaskState::TaskFailed.into(),
    };
    let changes: [&dyn Fn(&mut allot::StatusUpdate); 6] = [
        &|u| u.status.uuid = None,
        &|u| u.status.uuid = Some(vec![1; 3].into()),
        &|u| u.status.agent_id = None,
        &|u| u.status.task_id.value = "../t".to_owned(),
        &|u| u.framework_id.value = String::new(),
        &|u| u.status.set_state(TaskState::TaskUnknown),
    ];
    for change in changes {
        let mut bad = good.clone();
        change(&mut bad);
        c.says(&honest, Says::Update(bad));
        c.hears_nothing(&fw);
    }
    c.says(&honest, Says::Update(good));
    c.status(&fw);
    c.turn();
    c.offers(&fw);
}

#[test]
fn a_task_is_not_raised_from_the_dead_by_a_late_update() {
    let mut c = Cluster::new();
    let (honest, _, fw) = two_agents(&mut c);
    c.reports(&honest, &fw, "t", TaskState::TaskFinished);
    c.reports(&honest, &fw, "t", TaskState::TaskRunning);
    c.status(&fw);
    c.status(&fw);
    assert_eq!(c.cpus(&honest), [4.0, 0.0, 0.0]);
    c.turn();
    c.offers(&fw);
}

#[test]
fn hostile_framework_ids_are_refused() {
    let mut c = Cluster::new();
    for id in ["a/b", "..", "a b", &"x".repeat(300)] {
        let mut hostile = info("web");
        hostile.id = Some(mesos::FrameworkId {
            value: id.to_owned(),
        });
        assert!(c.subscribe(hostile).is_err(), "{id:?} was accepted");
    }
}

#[test]
fn an_id_taken_in_advance_is_not_given_out_twice() {
    let mut c = Cluster::new();
    let mut squatter = info("squatter");
    squatter.id = Some(mesos::FrameworkId {
        value: "m1-0000".to_owned(),
    });
    c.subscribe(squatter).unwrap();
    assert_eq!(c.framework("web").id, "m1-0001");
}

#[test]
fn attributes_and_ports_reach_the_offer_unchanged() {
    let mut c = Cluster::new();
    let mut r = register("a", "cpus:1; mem:64; ports:[31000-31009]; tags:{x,y}");
    r.agent.attributes.push(mesos::Attribute {
        name: "rack".to_owned(),
        r#type: mesos::value::Type::Text.into(),
        text: Some(mesos::value::Text {
            value: "r1".to_owned(),
        }),
        ..Default::default()
    });
    c.registers(r.clone()).unwrap();
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    assert_eq!(offer.attributes, r.agent.attributes);
    assert_eq!(
        convert::resources_from_wire(&offer.resources).unwrap(),
        resources("cpus:1; mem:64; ports:[31000-31009]; tags:{x,y}")
    );
    let url = offer.url.unwrap();
    assert_eq!((url.address.hostname(), url.address.port), ("a", 5051));
}
