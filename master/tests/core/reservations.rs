//! Reservations and volumes, made by frameworks and operators, and kept.

use allotment_master::core::{Refusal, Reply, Request};
use allotment_proto::allot::master_message::Message;
use allotment_proto::mesos::framework_info::{Capability, capability};
use allotment_proto::mesos::offer::{Operation, operation};
use allotment_proto::mesos::{OperationState, TaskState};
use allotment_proto::{allot, convert, mesos};
use allotment_types::{Resources, Role};

use crate::cluster::{Ag, Cluster, Fw, held, launch, record, task};

fn resources(text: &str) -> Resources {
    text.parse().unwrap()
}

fn reserved(text: &str, role: &str) -> Resources {
    resources(text).reserved(&Role::parse(role).unwrap(), None)
}

fn volume() -> Resources {
    reserved("disk:64", "web").as_volume("data", "data", None)
}

fn operation(kind: operation::Type, what: &Resources) -> Operation {
    let wire = convert::resources_to_wire(what, None);
    let mut operation = Operation {
        r#type: Some(kind.into()),
        ..Default::default()
    };
    match kind {
        operation::Type::Reserve => {
            let (source, resources) = (Vec::new(), wire);
            operation.reserve = Some(operation::Reserve { source, resources });
        }
        operation::Type::Unreserve => {
            operation.unreserve = Some(operation::Unreserve { resources: wire });
        }
        operation::Type::Create => operation.create = Some(operation::Create { volumes: wire }),
        operation::Type::Destroy => {
            operation.destroy = Some(operation::Destroy { volumes: wire });
        }
        other => panic!("{other:?}"),
    }
    operation
}

fn able(c: &mut Cluster, name: &str, more: &[capability::Type]) -> Fw {
    c.framework_with(name, |info| {
        let kinds = [capability::Type::ReservationRefinement];
        info.capabilities
            .extend(kinds.iter().chain(more).map(|kind| Capability {
                r#type: Some((*kind).into()),
            }));
    })
}

/// What the agent was told that it has now; it will report that.
fn told(c: &mut Cluster, agent: &mut Ag) -> Resources {
    match c.agent_hears(agent) {
        Message::ApplyResources(apply) => {
            let total = convert::resources_from_wire(&apply.total).unwrap();
            agent.register.agent.resources = apply.total;
            total
        }
        other => panic!("{other:?}"),
    }
}

fn with(mut info: mesos::TaskInfo, what: &Resources) -> mesos::TaskInfo {
    info.resources = convert::resources_to_wire(what, None);
    info
}

#[test]
fn operations_happen_in_order_and_the_agent_hears_of_them_before_the_task() {
    let mut c = Cluster::new();
    let mut agent = c.agent("a", "cpus:4; mem:1024; disk:100");
    let fw = able(&mut c, "web", &[]);
    let offer = c.only_offer_to(&fw);
    let needs = volume().plus(&resources("cpus:1; mem:32"));
    let tasks = vec![with(task("t", &offer, "cpus:1"), &needs)];
    c.accepts_all(
        &fw,
        &[offer],
        vec![
            operation(
                operation::Type::Reserve,
                &reserved("cpus:1; disk:64", "web"),
            ),
            operation(operation::Type::Create, &volume()),
            launch(tasks),
        ],
        Some(0.0),
    );
    let total = told(&mut c, &mut agent);
    let expected = volume().plus(&reserved("cpus:1", "web"));
    assert_eq!(
        total,
        expected.plus(&resources("cpus:3; mem:1024; disk:36"))
    );
    assert_eq!(c.launched(&agent), ["t"]);
    let rest = c.only_offer_to(&fw);
    let left = reserved("cpus:1", "web").plus(&resources("cpus:2; mem:992; disk:36"));
    assert_eq!(held(&rest), left);
}

#[test]
fn a_reservation_is_offered_to_its_role_alone_and_in_the_form_it_knows() {
    let mut c = Cluster::new();
    let mut agent = c.agent("a", "cpus:4; mem:1024");
    let request = allot::ReserveRequest {
        agent: "a".to_owned(),
        resources: convert::resources_to_wire(&reserved("cpus:4; mem:1024", "web"), None),
    };
    c.ask(Request::Reserve(request)).unwrap();
    told(&mut c, &mut agent);
    let other = c.framework("other");
    c.turn();
    c.hears_nothing(&other);
    let old = c.framework("web");
    let offer = c.only_offer_to(&old);
    let cpus = &offer.resources[0];
    assert_eq!(cpus.role(), "web");
    assert!(cpus.reservation.is_some() && cpus.reservations.is_empty());
    assert_eq!(held(&offer), reserved("cpus:4; mem:1024", "web"));
}

#[test]
fn an_operator_takes_offers_back_for_a_reservation_but_never_what_tasks_use() {
    let mut c = Cluster::new();
    let mut agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let tasks = vec![task("t", &offer, "cpus:1; mem:32")];
    c.accepts_all(&fw, &[offer], vec![launch(tasks)], Some(0.0));
    c.launched(&agent);
    let offer = c.only_offer_to(&fw);
    let ask = |cpus: &str| {
        Request::Reserve(allot::ReserveRequest {
            agent: "a".to_owned(),
            resources: convert::resources_to_wire(&reserved(cpus, "ops"), None),
        })
    };
    let refused = c.ask(ask("cpus:4")).unwrap_err();
    assert!(
        matches!(&refused, Refusal::Precondition(m) if m.contains("cpus: asked 4, there is 3")),
        "{refused:?}"
    );
    c.hears_nothing(&fw);
    c.ask(ask("cpus:3")).unwrap();
    assert_eq!(c.rescinded(&fw), offer.id);
    let total = told(&mut c, &mut agent);
    assert_eq!(
        total,
        reserved("cpus:3", "ops").plus(&resources("cpus:1; mem:1024"))
    );
    let undo = Request::Unreserve(allot::ReserveRequest {
        agent: agent.id.clone(),
        resources: convert::resources_to_wire(&reserved("cpus:3", "ops"), None),
    });
    c.ask(undo).unwrap();
    assert_eq!(told(&mut c, &mut agent), resources("cpus:4; mem:1024"));
    c.only_offer_to(&fw);
}

#[test]
fn a_reservation_survives_a_restart_of_the_master_and_one_of_the_agent() {
    let mut c = Cluster::new();
    let mut agent = c.agent("a", "cpus:4; mem:1024");
    let request = Request::Reserve(allot::ReserveRequest {
        agent: "a".to_owned(),
        resources: convert::resources_to_wire(&reserved("cpus:2", "web"), None),
    });
    c.ask(request).unwrap();
    let unaware = agent.clone();
    let total = told(&mut c, &mut agent);
    // The agent never heard of it: its session broke, and the master died, too.
    c.master_restarts();
    let mut back = c.returns(&unaware, Vec::new(), &[]);
    assert_eq!(told(&mut c, &mut back), total);
    // The agent restarts and reports it.
    c.loses_session(&back);
    let back = c.returns(&back, Vec::new(), &[]);
    let fw = able(&mut c, "web", &[]);
    assert_eq!(held(&c.only_offer_to(&fw)), total);
    c.loses_session(&back);
    c.rescinded(&fw);
}

#[test]
fn an_agent_whose_own_settings_changed_knows_better() {
    let mut c = Cluster::new();
    let mut agent = c.agent("a", "cpus:4; mem:1024");
    let request = Request::Reserve(allot::ReserveRequest {
        agent: "a".to_owned(),
        resources: convert::resources_to_wire(&reserved("cpus:2", "web"), None),
    });
    c.ask(request).unwrap();
    told(&mut c, &mut agent);
    c.loses_session(&agent);
    let grown = resources("cpus:6; mem:1024").plus(&reserved("cpus:2", "web"));
    agent.register.agent.resources = convert::resources_to_wire(&grown, None);
    c.returns(&agent, Vec::new(), &[]);
    let fw = able(&mut c, "web", &[]);
    assert_eq!(held(&c.only_offer_to(&fw)), grown);
}

#[test]
fn what_the_agent_declares_reserved_goes_to_that_role_and_below() {
    let mut c = Cluster::new();
    c.agent("a", "cpus(eng):4; mem(eng):1024");
    let other = c.framework("ops");
    c.turn();
    c.hears_nothing(&other);
    let below = c.framework("eng/web");
    let offer = c.only_offer_to(&below);
    assert_eq!(held(&offer), resources("cpus(eng):4; mem(eng):1024"));
}

#[test]
fn a_refused_operation_is_told_of_and_the_others_are_done() {
    let mut c = Cluster::new();
    let mut agent = c.agent("a", "cpus:4; mem:1024");
    let fw = able(&mut c, "web", &[]);
    let offer = c.only_offer_to(&fw);
    let mut named = operation(operation::Type::Reserve, &reserved("cpus:1", "ops"));
    named.id = Some(mesos::OperationId {
        value: "r1".to_owned(),
    });
    let mut good = operation(operation::Type::Reserve, &reserved("cpus:1", "web"));
    good.id = Some(mesos::OperationId {
        value: "r2".to_owned(),
    });
    let nameless = operation(operation::Type::Unreserve, &reserved("cpus:2", "web"));
    let tasks = launch(vec![task("t", &offer, "cpus:1; mem:32")]);
    c.accepts_all(&fw, &[offer], vec![named, good, nameless, tasks], None);
    let mut states = Vec::new();
    for _ in 0..2 {
        let status = c.hears(&fw).update_operation_status.unwrap().status;
        let id = status.operation_id.clone().unwrap().value;
        states.push((id, status.state(), status.message().to_owned()));
    }
    assert_eq!(states[0].0, "r1");
    assert_eq!(states[0].1, OperationState::OperationError);
    assert!(states[0].2.contains("reserve for that role or one below"));
    assert_eq!(
        (states[1].0.as_str(), states[1].1),
        ("r2", OperationState::OperationFinished)
    );
    let refused = c.rejected(&fw);
    assert!(
        refused.starts_with("operation 3 of the ACCEPT, UNRESERVE, was not done"),
        "{refused}"
    );
    assert!(
        refused.contains("cpus(web): asked 2, there is 1"),
        "{refused}"
    );
    told(&mut c, &mut agent);
    assert_eq!(c.launched(&agent), ["t"]);
}

#[test]
fn a_volume_is_used_under_another_path_and_destroyed_only_when_unused() {
    let mut c = Cluster::new();
    let mut agent = c.agent("a", "cpus:4; mem:1024; disk:64");
    let fw = able(&mut c, "web", &[]);
    let offer = c.only_offer_to(&fw);
    let elsewhere = reserved("disk:64", "web").as_volume("data", "my/data", None);
    let needs = elsewhere.plus(&resources("cpus:1; mem:32"));
    let info = with(task("t", &offer, "cpus:1"), &needs);
    c.accepts_all(
        &fw,
        &[offer],
        vec![
            operation(operation::Type::Reserve, &reserved("disk:64", "web")),
            operation(operation::Type::Create, &volume()),
            launch(vec![info.clone()]),
            operation(operation::Type::Destroy, &volume()),
        ],
        Some(0.0),
    );
    assert!(
        c.rejected(&fw)
            .contains("disk(web)[data:data]: asked 64 MiB, there is none")
    );
    told(&mut c, &mut agent);
    assert_eq!(c.launched(&agent), ["t"]);
    c.goes(&agent, &fw, "t", TaskState::TaskRunning);
    let offer = c.only_offer_to(&fw);
    // The agent comes back with it and its own words for the path.
    c.loses_session(&agent);
    c.rescinded(&fw);
    let mut agent = c.returns(
        &agent,
        vec![record(&fw, &info, TaskState::TaskRunning)],
        &[&fw],
    );
    assert_ne!(c.only_offer_to(&fw).id, offer.id);
    c.goes(&agent, &fw, "t", TaskState::TaskFinished);
    let offer = c.only_offer_to(&fw);
    assert_eq!(held(&offer), volume().plus(&resources("cpus:1; mem:32")));
    let destroy = operation(operation::Type::Destroy, &volume());
    c.accepts_all(&fw, &[offer], vec![destroy], Some(0.0));
    let total = told(&mut c, &mut agent);
    assert_eq!(
        total,
        reserved("disk:64", "web").plus(&resources("cpus:4; mem:1024"))
    );
    c.only_offer_to(&fw);
}

#[test]
fn a_shared_volume_is_used_by_several_tasks_and_offered_while_it_is() {
    let mut c = Cluster::new();
    let mut agent = c.agent("a", "cpus:4; mem:1024; disk:64");
    let fw = able(&mut c, "web", &[capability::Type::SharedResources]);
    let offer = c.only_offer_to(&fw);
    let shared = volume().relotted(|lot| lot.with(|info| info.shared = true));
    let needs = shared.plus(&resources("cpus:1; mem:32"));
    let tasks = ["one", "two"].map(|id| with(task(id, &offer, "cpus:1"), &needs));
    c.accepts_all(
        &fw,
        &[offer],
        vec![
            operation(operation::Type::Reserve, &reserved("disk:64", "web")),
            operation(operation::Type::Create, &shared),
            launch(tasks.to_vec()),
        ],
        Some(0.0),
    );
    told(&mut c, &mut agent);
    assert_eq!(c.launched(&agent), ["one", "two"]);
    let offer = c.only_offer_to(&fw);
    assert_eq!(held(&offer), shared.plus(&resources("cpus:2; mem:960")));
    let destroy = operation(operation::Type::Destroy, &shared);
    let third = with(task("three", &offer, "cpus:1"), &needs);
    c.accepts_all(
        &fw,
        &[offer],
        vec![destroy.clone(), launch(vec![third])],
        Some(0.0),
    );
    assert!(c.rejected(&fw).contains("volume data is used by a task"));
    assert_eq!(c.launched(&agent), ["three"]);
    for id in ["one", "two", "three"] {
        c.goes(&agent, &fw, id, TaskState::TaskFinished);
    }
    c.turn();
    let offers = c.offers(&fw);
    let all = offers
        .iter()
        .fold(Resources::EMPTY, |sum, o| sum.plus(&held(o)));
    assert_eq!(all.unshared(), resources("cpus:4; mem:1024"));
    c.accepts_all(&fw, &offers, vec![destroy], Some(0.0));
    told(&mut c, &mut agent);
    assert_eq!(
        held(&c.only_offer_to(&fw)),
        reserved("disk:64", "web").plus(&resources("cpus:4; mem:1024"))
    );
}

#[test]
fn operations_on_offers_that_are_gone_are_dropped_by_name() {
    let mut c = Cluster::new();
    c.agent("a", "cpus:4; mem:1024");
    let fw = able(&mut c, "web", &[]);
    let offer = c.only_offer_to(&fw);
    c.declines(&fw, &offer, Some(3600.0));
    let mut reserve = operation(operation::Type::Reserve, &reserved("cpus:1", "web"));
    reserve.id = Some(mesos::OperationId {
        value: "r1".to_owned(),
    });
    c.accepts_all(&fw, &[offer], vec![reserve], None);
    let status = c.hears(&fw).update_operation_status.unwrap().status;
    assert_eq!(status.state(), OperationState::OperationDropped);
    assert!(status.message().contains("no longer outstanding"));
}

#[test]
fn lots_are_shown_to_operators() {
    let mut c = Cluster::new();
    let mut agent = c.agent("a", "cpus:4; mem:1024");
    let request = Request::Reserve(allot::ReserveRequest {
        agent: "a".to_owned(),
        resources: convert::resources_to_wire(&reserved("cpus:1", "web"), None),
    });
    let Ok(Reply::Agent(view)) = c.ask(request) else {
        panic!("no view");
    };
    told(&mut c, &mut agent);
    let cpus = view.free.scalars.iter().filter(|s| s.name == "cpus");
    let cpus: Vec<_> = cpus.map(|s| (s.lot.as_deref(), s.value)).collect();
    assert_eq!(cpus, [(None, 3.0), (Some("(web)"), 1.0)]);
    let Ok(Reply::Roles(roles)) = c.ask(Request::ListRoles) else {
        panic!("no roles");
    };
    assert_eq!(roles.len(), 1);
    assert_eq!(
        (roles[0].name.as_str(), roles[0].consumed[0].value),
        ("web", 1.0)
    );
}
