//! What operators set: weights, quotas, planned absences, drains; and what frameworks want.

use std::time::Duration;

use allotment_master::core::{Refusal, Reply, Request};
use allotment_proto::allot::set_agent_request::Activity;
use allotment_proto::mesos::TaskState;
use allotment_proto::scheduler::attribute_constraint::{Predicate, Selector, predicate, selector};
use allotment_proto::scheduler::offer_constraints::{RoleConstraints, role_constraints};
use allotment_proto::scheduler::{AttributeConstraint, OfferConstraints, call, event};
use allotment_proto::{allot, convert, mesos};

use crate::cluster::{Cluster, Fw, SECOND, call_of, held, launch, register, task};

fn amounts(cpus: f64) -> Vec<allot::ScalarView> {
    vec![allot::ScalarView {
        name: "cpus".to_owned(),
        value: cpus,
        lot: None,
    }]
}

fn quota(role: &str, guarantee: Option<f64>, limit: Option<f64>) -> allot::SetQuotaRequest {
    allot::SetQuotaRequest {
        role: role.to_owned(),
        guarantees: guarantee.map_or_else(Vec::new, amounts),
        limits: limit.map_or_else(Vec::new, amounts),
        force: None,
    }
}

fn set(
    c: &mut Cluster,
    request: allot::SetQuotaRequest,
) -> Result<allot::SetQuotaResponse, String> {
    match c.ask(Request::SetQuota(request)) {
        Ok(Reply::Quota(set)) => Ok(*set),
        Err(Refusal::Precondition(message) | Refusal::Invalid(message)) => Err(message),
        other => panic!("{other:?}"),
    }
}

fn activity(c: &mut Cluster, agent: &str, activity: Activity) -> allot::AgentView {
    let request = allot::SetAgentRequest {
        agent: agent.to_owned(),
        activity: activity.into(),
        grace_seconds: None,
    };
    match c.ask(Request::SetAgent(request)) {
        Ok(Reply::Agent(view)) => *view,
        other => panic!("{other:?}"),
    }
}

fn all_offered(c: &mut Cluster, fw: &Fw) -> f64 {
    c.turn();
    let mut cpus = 0.0;
    for event in c.all_heard_by(fw) {
        assert_eq!(event.r#type(), event::Type::Offers, "{event:?}");
        let offers = event.offers.unwrap().offers;
        cpus += offers.iter().map(|o| held(o).cpus().as_f64()).sum::<f64>();
    }
    cpus
}

#[test]
fn a_quota_limit_holds_a_role_back_and_its_removal_lets_it_go() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    set(&mut c, quota("web", None, Some(1.0))).unwrap();
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    assert_eq!(held(&offer), "cpus:1; mem:1024".parse().unwrap());
    c.accepts_all(
        &fw,
        std::slice::from_ref(&offer),
        vec![launch(vec![task("t", &offer, "cpus:1; mem:32")])],
        Some(0.0),
    );
    c.launched(&agent);
    let rest = c.only_offer_to(&fw);
    assert_eq!(held(&rest), "mem:992".parse().unwrap());
    let view = set(&mut c, quota("web", None, None)).unwrap().role;
    assert!(view.limits.is_empty());
    let offer = c.only_offer_to(&fw);
    assert_eq!(held(&offer), "cpus:3".parse().unwrap());
}

#[test]
fn a_limit_below_what_is_used_is_refused_with_numbers_unless_forced() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let tasks = vec![task("t", &offer, "cpus:2; mem:32")];
    c.accepts_all(&fw, &[offer], vec![launch(tasks)], Some(0.0));
    c.launched(&agent);
    let rest = c.only_offer_to(&fw);
    let refused = set(&mut c, quota("web", None, Some(1.0))).unwrap_err();
    assert!(
        refused.starts_with("role web would be limited to cpus 1 but uses 2"),
        "{refused}"
    );
    // What is only offered does not count as used, and is taken back.
    set(&mut c, quota("web", None, Some(2.0))).unwrap();
    assert_eq!(c.rescinded(&fw), rest.id);
    let rest = c.only_offer_to(&fw);
    assert_eq!(held(&rest), "mem:992".parse().unwrap());
    let forced = allot::SetQuotaRequest {
        force: Some(true),
        ..quota("web", None, Some(1.0))
    };
    set(&mut c, forced).unwrap();
    assert_eq!(c.rescinded(&fw), rest.id);
    c.only_offer_to(&fw);
}

#[test]
fn a_guarantee_takes_back_from_others_what_it_needs_and_no_more() {
    let mut c = Cluster::new();
    c.agent("a", "cpus:4; mem:1024");
    c.agent("b", "cpus:4; mem:1024");
    let greedy = c.framework("other");
    assert!((all_offered(&mut c, &greedy) - 8.0).abs() < 1e-9);
    let fw = c.framework("web");
    c.turn();
    c.hears_nothing(&fw);
    let answer = set(&mut c, quota("web", Some(4.0), None)).unwrap();
    assert_eq!(answer.warnings, Vec::<String>::new());
    c.rescinded(&greedy);
    c.hears_nothing(&greedy);
    assert!((all_offered(&mut c, &fw) - 4.0).abs() < 1e-9);
    let warned = set(&mut c, quota("web", Some(40.0), Some(50.0)))
        .unwrap()
        .warnings;
    assert_eq!(warned.len(), 2, "{warned:?}");
    assert!(warned[0].contains("add up to cpus 40 but the cluster has 8"));
    c.rescinded(&greedy);
    c.all_heard_by(&fw);
}

#[test]
fn quotas_that_contradict_each_other_are_refused() {
    let mut c = Cluster::new();
    set(&mut c, quota("eng", Some(4.0), Some(8.0))).unwrap();
    let refused = set(&mut c, quota("eng/web", Some(5.0), None)).unwrap_err();
    assert!(
        refused.contains("promised cpus 5 in sum, more than the 4 of eng"),
        "{refused}"
    );
    let refused = set(&mut c, quota("eng/web", None, Some(9.0))).unwrap_err();
    assert!(
        refused.contains("above the 8 of its ancestor eng"),
        "{refused}"
    );
    for (role, what) in [("*", "everybody's"), ("a//b", "empty part")] {
        let refused = set(&mut c, quota(role, None, Some(1.0))).unwrap_err();
        assert!(refused.contains(what), "{refused}");
    }
    for bad in [-1.0, f64::NAN, 1e300] {
        assert!(set(&mut c, quota("ops", None, Some(bad))).is_err(), "{bad}");
    }
}

#[test]
fn weights_and_quotas_survive_the_master() {
    let mut c = Cluster::new();
    set(&mut c, quota("web", Some(1.0), Some(2.0))).unwrap();
    let (role, weight) = ("batch".to_owned(), 2.5);
    c.ask(Request::SetWeight(allot::SetWeightRequest { role, weight }))
        .unwrap();
    c.master_restarts();
    let Ok(Reply::Roles(roles)) = c.ask(Request::ListRoles) else {
        panic!("no roles");
    };
    let batch = roles.iter().find(|r| r.name == "batch").unwrap();
    let web = roles.iter().find(|r| r.name == "web").unwrap();
    assert!((batch.weight - 2.5).abs() < 1e-9);
    assert!((web.limits[0].value - 2.0).abs() < 1e-9);
    assert!((web.guarantees[0].value - 1.0).abs() < 1e-9);
    set(&mut c, quota("web", None, None)).unwrap();
    let (role, weight) = ("batch".to_owned(), 1.0);
    c.ask(Request::SetWeight(allot::SetWeightRequest { role, weight }))
        .unwrap();
    c.master_restarts();
    let Ok(Reply::Roles(roles)) = c.ask(Request::ListRoles) else {
        panic!("no roles");
    };
    assert_eq!(roles, Vec::new());
}

#[test]
fn absurd_weights_are_refused() {
    let mut c = Cluster::new();
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300, 0.0001] {
        let role = "web".to_owned();
        let refused = c.ask(Request::SetWeight(allot::SetWeightRequest { role, weight }));
        assert!(matches!(refused, Err(Refusal::Invalid(_))), "{weight}");
    }
    let (role, weight) = ("*".to_owned(), 2.0);
    let refused = c.ask(Request::SetWeight(allot::SetWeightRequest { role, weight }));
    assert!(matches!(refused, Err(Refusal::Invalid(_))));
}

#[test]
fn a_weight_counts_at_once_among_the_roles_that_compete() {
    let mut c = Cluster::new();
    c.agent("a", "cpus:4; mem:1024");
    let ops = c.framework("ops");
    let offer = c.only_offer_to(&ops);
    let weigh = |c: &mut Cluster, role: &str| {
        let (role, weight) = (role.to_owned(), 3.0);
        c.ask(Request::SetWeight(allot::SetWeightRequest { role, weight }))
            .unwrap();
    };
    // Nobody is in the first; the second does not compete with ops.
    weigh(&mut c, "nobody");
    let web = c.framework("eng/web");
    weigh(&mut c, "eng/web");
    c.hears_nothing(&ops);
    weigh(&mut c, "eng");
    assert_eq!(c.rescinded(&ops), offer.id);
    c.turn();
    let heard = c.all_heard_by(&ops).len() + c.all_heard_by(&web).len();
    assert_eq!(heard, 1, "one of them is offered the agent");
}

#[test]
fn after_a_restart_with_quotas_nothing_is_offered_until_enough_agents_are_back() {
    let mut c = Cluster::new();
    let agents: Vec<_> = (0..5)
        .map(|i| c.agent(&format!("a{i}"), "cpus:4; mem:1024"))
        .collect();
    set(&mut c, quota("web", None, Some(100.0))).unwrap();
    c.master_restarts();
    let fw = c.framework("web");
    for agent in &agents[..3] {
        c.returns(agent, Vec::new(), &[]);
    }
    c.turn();
    c.hears_nothing(&fw);
    let Ok(Reply::Cluster(view)) = c.ask(Request::GetCluster) else {
        panic!("no cluster");
    };
    assert_eq!(view.recovering_agents, Some(1));
    c.returns(&agents[3], Vec::new(), &[]);
    assert!((all_offered(&mut c, &fw) - 16.0).abs() < 1e-9);
}

#[test]
fn ten_minutes_after_a_restart_the_wait_is_over() {
    let mut c = Cluster::new();
    let agents: Vec<_> = (0..2)
        .map(|i| c.agent(&format!("a{i}"), "cpus:4; mem:1024"))
        .collect();
    set(&mut c, quota("web", None, Some(100.0))).unwrap();
    c.master_restarts();
    let fw = c.framework("web");
    let back = c.returns(&agents[0], Vec::new(), &[]);
    c.pass(599 * SECOND, &[&back]);
    let heard = c.all_heard_by(&fw);
    assert!(
        heard.iter().all(|e| e.r#type() == event::Type::Failure),
        "{heard:?}"
    );
    c.pass(2 * SECOND, &[&back]);
    assert!((held(&c.offers(&fw)[0]).cpus().as_f64() - 4.0).abs() < 1e-9);
}

#[test]
fn a_deactivated_agent_is_not_offered_and_keeps_its_tasks() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let tasks = vec![task("t", &offer, "cpus:1; mem:32")];
    c.accepts_all(&fw, &[offer], vec![launch(tasks)], Some(0.0));
    c.launched(&agent);
    let offer = c.only_offer_to(&fw);
    let view = activity(&mut c, "a", Activity::Deactivated);
    assert_eq!((view.activity(), view.tasks_live), ("deactivated", 1));
    assert_eq!(c.rescinded(&fw), offer.id);
    c.goes(&agent, &fw, "t", TaskState::TaskRunning);
    c.turn();
    c.hears_nothing(&fw);
    assert_eq!(activity(&mut c, "a", Activity::Active).activity(), "active");
    c.only_offer_to(&fw);
}

#[test]
fn a_drain_kills_what_runs_lasts_over_restarts_and_ends_drained() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let info = task("t", &offer, "cpus:1; mem:32");
    c.accepts_all(
        &fw,
        &[offer],
        vec![launch(vec![info.clone()])],
        Some(3600.0),
    );
    c.launched(&agent);
    c.goes(&agent, &fw, "t", TaskState::TaskRunning);
    let view = activity(&mut c, &agent.id, Activity::Drained);
    assert_eq!(view.activity(), "draining");
    assert_eq!(c.killed(&agent), "t");
    c.master_restarts();
    let fw = c.comes_back(&fw);
    let agent = c.returns(
        &agent,
        vec![crate::cluster::record(&fw, &info, TaskState::TaskRunning)],
        &[&fw],
    );
    assert_eq!(c.killed(&agent), "t");
    c.goes(&agent, &fw, "t", TaskState::TaskKilled);
    c.turn();
    c.hears_nothing(&fw);
    let Ok(Reply::Agents(views)) = c.ask(Request::ListAgents) else {
        panic!("no agents");
    };
    assert_eq!(views[0].activity(), "drained");
    activity(&mut c, "a", Activity::Active);
    c.only_offer_to(&fw);
}

fn maintenance(
    c: &mut Cluster,
    after: Option<Duration>,
    lasts: Option<f64>,
) -> Result<Reply, Refusal> {
    let start = after.map(|after| (c.now + after).as_secs_f64());
    c.ask(Request::SetMaintenance(allot::SetMaintenanceRequest {
        agent: "a".to_owned(),
        start,
        duration_seconds: lasts,
    }))
}

fn asked_to_leave(c: &mut Cluster, fw: &Fw) -> mesos::InverseOffer {
    let event = c.hears(fw);
    assert_eq!(event.r#type(), event::Type::InverseOffers, "{event:?}");
    event.inverse_offers.unwrap().inverse_offers.remove(0)
}

#[test]
fn frameworks_are_asked_to_leave_an_agent_and_what_they_answer_is_shown() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let tasks = vec![task("t", &offer, "cpus:1; mem:32")];
    c.accepts_all(&fw, &[offer], vec![launch(tasks)], Some(3600.0));
    c.launched(&agent);
    maintenance(&mut c, Some(60 * SECOND), Some(600.0)).unwrap();
    c.turn();
    let asked = asked_to_leave(&mut c, &fw);
    assert_eq!(asked.agent_id.as_ref().unwrap().value, agent.id);
    assert_eq!(
        asked.unavailability.duration.unwrap().nanoseconds,
        600_000_000_000
    );
    let mut answer = call_of(call::Type::AcceptInverseOffers);
    answer.accept_inverse_offers = Some(Box::new(call::AcceptInverseOffers {
        inverse_offer_ids: vec![asked.id],
        filters: Some(mesos::Filters {
            refuse_seconds: Some(3600.0),
        }),
    }));
    c.calls(&fw, answer);
    let Ok(Reply::Agents(views)) = c.ask(Request::ListAgents) else {
        panic!("no agents");
    };
    assert_eq!(views[0].answers[0].answer, "accepted");
    assert_eq!(views[0].answers[0].framework_name, "web");
    assert_eq!(views[0].unavailable_seconds, Some(600.0));
    // Over, by itself.
    c.pass(700 * SECOND, &[&agent]);
    let Ok(Reply::Agents(views)) = c.ask(Request::ListAgents) else {
        panic!("no agents");
    };
    assert_eq!(views[0].unavailable_from, None);
    assert!(views[0].answers.is_empty());
}

#[test]
fn offers_say_when_their_agent_will_be_away_and_a_cancelled_absence_is_unasked() {
    let mut c = Cluster::new();
    c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let before = c.only_offer_to(&fw);
    maintenance(&mut c, Some(60 * SECOND), None).unwrap();
    assert_eq!(c.rescinded(&fw), before.id);
    c.turn();
    let offer = c.offers(&fw).remove(0);
    assert!(offer.unavailability.is_some());
    c.turn();
    let asked = asked_to_leave(&mut c, &fw);
    maintenance(&mut c, None, None).unwrap();
    let event = c.hears(&fw);
    assert_eq!(
        event.rescind_inverse_offer.unwrap().inverse_offer_id,
        asked.id
    );
    assert_eq!(c.rescinded(&fw), offer.id);
    assert!(c.only_offer_to(&fw).unavailability.is_none());
    assert!(maintenance(&mut c, None, Some(5.0)).is_err());
}

fn rack(value: &str) -> OfferConstraints {
    let constraint = AttributeConstraint {
        selector: Selector {
            selector: Some(selector::Selector::AttributeName("rack".to_owned())),
        },
        predicate: Predicate {
            predicate: Some(predicate::Predicate::TextEquals(predicate::TextEquals {
                value: value.to_owned(),
            })),
        },
    };
    let group = role_constraints::Group {
        attribute_constraints: vec![constraint],
    };
    let role = RoleConstraints {
        groups: vec![group],
    };
    OfferConstraints {
        role_constraints: [("web".to_owned(), role)].into(),
    }
}

#[test]
fn a_framework_changes_which_agents_and_roles_it_wants_while_it_is_connected() {
    let mut c = Cluster::new();
    let mut racked = register("a", "cpus:4; mem:1024");
    racked.agent.attributes.push(mesos::Attribute {
        name: "rack".to_owned(),
        r#type: mesos::value::Type::Text.into(),
        text: Some(mesos::value::Text {
            value: "r7".to_owned(),
        }),
        ..Default::default()
    });
    c.registers(racked).unwrap();
    let fw = c.framework("web");
    let update = |constraints: Option<OfferConstraints>, roles: &[&str]| {
        let mut call = call_of(call::Type::UpdateFramework);
        let mut framework_info = fw.info.clone();
        framework_info.roles = roles.iter().map(|r| (*r).to_owned()).collect();
        call.update_framework = Some(Box::new(call::UpdateFramework {
            framework_info,
            suppressed_roles: Vec::new(),
            offer_constraints: constraints,
        }));
        call
    };
    c.calls(&fw, update(Some(rack("r1")), &["web"]));
    c.turn();
    c.hears_nothing(&fw);
    c.calls(&fw, update(Some(rack("r7")), &["web"]));
    let offer = c.only_offer_to(&fw);
    c.calls(&fw, update(None, &["db"]));
    assert_eq!(c.rescinded(&fw), offer.id);
    let offer = c.only_offer_to(&fw);
    assert_eq!(offer.allocation_info.unwrap().role(), "db");
    c.calls(&fw, update(Some(rack("r7")), &["db"]));
    assert!(
        c.rejected(&fw)
            .contains("name role web, which is not among")
    );
    let mut other = update(None, &["db"]);
    if let Some(update) = &mut other.update_framework {
        update.framework_info.user = "root".to_owned();
    }
    c.calls(&fw, other);
    assert!(c.rejected(&fw).contains("changes `user`"));
}

#[test]
fn a_stated_demand_is_offered_several_agents_worth_and_no_crumbs() {
    let mut c = Cluster::new();
    for i in 0..3 {
        c.agent(&format!("a{i}"), "cpus:4; mem:1024");
    }
    let fw = c.framework("web");
    let request = |demand: allot::Demand| {
        let mut call = call_of(call::Type::Request);
        call.request = Some(Box::new(call::Request {
            requests: vec![mesos::Request {
                resources: convert::resources_to_wire(&"cpus:3; mem:64".parse().unwrap(), None),
                demand: Some(demand),
                ..Default::default()
            }],
        }));
        call
    };
    let demand = |role: &str, count| allot::Demand {
        role: role.to_owned(),
        count,
        hole: None,
    };
    c.calls(&fw, request(demand("web", Some(2))));
    c.turn();
    let offers = c.offers(&fw);
    let bundles: Vec<String> = offers.iter().map(|o| held(o).to_string()).collect();
    assert_eq!(bundles, ["cpus:3; mem:64", "cpus:3; mem:64"]);
    c.turn();
    c.hears_nothing(&fw);
    c.calls(&fw, request(demand("other", Some(1))));
    assert!(
        c.rejected(&fw)
            .contains("which is not among the framework's roles")
    );
    c.calls(&fw, request(demand("web", None)));
    assert!((all_offered(&mut c, &fw) - 6.0).abs() < 1e-9);
}

#[test]
fn a_plain_request_means_nothing_as_in_mesos() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    let mut call = call_of(call::Type::Request);
    call.request = Some(Box::new(call::Request {
        requests: vec![mesos::Request {
            resources: convert::resources_to_wire(&"cpus:3".parse().unwrap(), None),
            ..Default::default()
        }],
    }));
    c.calls(&fw, call);
    c.calls(&fw, call_of(call::Type::Request));
    c.hears_nothing(&fw);
}

#[test]
fn offers_below_what_the_framework_finds_useful_are_not_made() {
    let mut c = Cluster::new();
    c.agent("small", "cpus:1; mem:1024");
    c.agent("large", "cpus:8; mem:1024");
    let fw = c.framework_with("web", |info| {
        let quantities = mesos::offer_filters::ResourceQuantities {
            quantities: [("cpus".to_owned(), mesos::value::Scalar { value: 4.0 })].into(),
        };
        let filters = mesos::OfferFilters {
            min_allocatable_resources: Some(mesos::offer_filters::MinAllocatableResources {
                quantities: vec![quantities],
            }),
        };
        info.offer_filters = [("web".to_owned(), filters)].into();
    });
    assert_eq!(c.only_offer_to(&fw).hostname, "large");
}
