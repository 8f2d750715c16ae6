//! Frameworks arrive, come back, and leave.

use allotment_master::core::Request;
use allotment_proto::allot;
use allotment_proto::mesos::TaskState;
use allotment_proto::scheduler::call;

use crate::cluster::{Cluster, SECOND, call_of, info, record, task};

#[test]
fn ids_count_up_under_the_masters_own() {
    let mut c = Cluster::new();
    assert_eq!(c.framework("a").id, "m1-0000");
    assert_eq!(c.framework("b").id, "m1-0001");
    let registered: Vec<&str> = c.registry.frameworks.keys().map(|id| id.as_str()).collect();
    assert_eq!(registered, ["m1-0000", "m1-0001"]);
}

#[test]
fn a_new_instance_takes_over_and_the_old_one_hears_why() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let old = c.framework("web");
    let offer = c.only_offer_to(&old);
    c.accepts(&old, &offer, vec![task("t", &offer, "cpus:1; mem:32")]);
    c.launched(&agent);
    let new = c.comes_back(&old);
    assert_eq!(new.id, old.id);
    assert_eq!(c.error(&old), "Framework failed over");
    assert_eq!(c.closed(old.conn), "Framework failed over");
    // The old stream's end is no news, and its late calls reach nobody.
    c.suppresses(&old);
    c.disconnects(&old);
    assert_eq!(
        c.tasks(false),
        [("t".to_owned(), "TASK_STAGING".to_owned())]
    );
    c.goes(&agent, &new, "t", TaskState::TaskRunning);
}

#[test]
fn a_subscribe_that_comes_after_a_later_one_of_its_process_is_closed_and_harms_nobody() {
    let mut c = Cluster::new();
    let mut fw = c.attempts(&info("web"), (7, 1));
    c.subscribed(&mut fw);
    c.disconnects(&fw);
    // Number 2 is still under way when number 3 arrives.
    let mut third = c.attempts(&fw.info, (7, 3));
    c.subscribed(&mut third);
    let second = c.attempts(&fw.info, (7, 2));
    let why = c.closed(second.conn);
    assert!(
        why.contains("number 2") && why.contains("number 3"),
        "{why}"
    );
    // No ERROR, which would be for good, on either stream; and the newer one works.
    c.hears_nothing(&second);
    c.suppresses(&second);
    c.disconnects(&second);
    c.agent("a", "cpus:4; mem:1024");
    c.only_offer_to(&third);
    // Also when the newer stream has broken meanwhile.
    c.disconnects(&third);
    let second = c.attempts(&fw.info, (7, 2));
    c.closed(second.conn);
    let mut fourth = c.attempts(&fw.info, (7, 4));
    c.subscribed(&mut fourth);
    c.turn();
    c.offers(&fourth);
}

#[test]
fn a_process_that_was_replaced_does_not_throw_out_its_successor() {
    let mut c = Cluster::new();
    let mut old = c.attempts(&info("web"), (7, 1));
    c.subscribed(&mut old);
    c.disconnects(&old);
    let mut new = c.attempts(&old.info, (8, 1));
    c.subscribed(&mut new);
    // It was stopped meanwhile, or what it said took long.
    let late = c.attempts(&old.info, (7, 2));
    assert_eq!(c.error(&late), "Framework failed over");
    c.closed(late.conn);
    c.hears_nothing(&new);
    // When nobody else is there, it is better than nobody.
    c.disconnects(&new);
    let mut back = c.attempts(&old.info, (7, 3));
    c.subscribed(&mut back);
    // Who says nothing of itself takes over, as in Mesos.
    let plain = c.comes_back(&back);
    assert_eq!(c.error(&back), "Framework failed over");
    c.closed(back.conn);
    c.hears_nothing(&plain);
}

#[test]
fn a_process_that_did_not_hear_its_id_is_given_the_same_again() {
    let mut c = Cluster::new();
    let mut first = c.attempts(&info("web"), (7, 1));
    c.subscribed(&mut first);
    let mut again = c.attempts(&info("web"), (7, 2));
    assert_eq!(c.error(&first), "Framework failed over");
    c.closed(first.conn);
    c.subscribed(&mut again);
    assert_eq!(again.id, first.id);
    let mut other = c.attempts(&info("web"), (8, 1));
    c.subscribed(&mut other);
    assert_ne!(other.id, first.id);
    // An operator's removal is for good: what comes again is a new framework.
    let remove = allot::RemoveFrameworkRequest {
        framework_id: other.id.clone(),
    };
    c.ask(Request::RemoveFramework(remove)).unwrap();
    c.error(&other);
    c.closed(other.conn);
    let mut anew = c.attempts(&info("web"), (8, 2));
    c.subscribed(&mut anew);
    assert_ne!(anew.id, other.id);
}

#[test]
fn offers_of_the_old_instance_are_void_for_the_new_one() {
    let mut c = Cluster::new();
    c.agent("a", "cpus:4; mem:1024");
    let old = c.framework("web");
    let offer = c.only_offer_to(&old);
    c.disconnects(&old);
    let new = c.comes_back(&old);
    let again = c.only_offer_to(&new);
    assert_ne!(offer.id, again.id);
}

#[test]
fn a_framework_that_reconnects_hears_unacknowledged_updates_at_once() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let tasks = vec![
        task("t1", &offer, "cpus:1; mem:32"),
        task("t2", &offer, "cpus:1; mem:32"),
    ];
    c.accepts(&fw, &offer, tasks);
    c.launched(&agent);
    c.goes(&agent, &fw, "t1", TaskState::TaskRunning);
    c.disconnects(&fw);
    let sent = c.reports(&agent, &fw, "t2", TaskState::TaskFailed);
    let fw = c.comes_back(&fw);
    let heard = c.status(&fw);
    assert_eq!(heard, sent);
    c.acknowledges(&fw, &heard);
    c.acknowledged(&agent);
    let fw2 = c.comes_back(&fw);
    c.error(&fw);
    c.closed(fw.conn);
    c.hears_nothing(&fw2);
}

#[test]
fn without_a_failover_timeout_tasks_die_with_the_stream_and_the_id_is_barred() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework_with("web", |info| info.failover_timeout = None);
    let offer = c.only_offer_to(&fw);
    c.accepts(&fw, &offer, vec![task("t", &offer, "cpus:4; mem:1024")]);
    c.launched(&agent);
    c.disconnects(&fw);
    assert_eq!(c.killed(&agent), "t");
    // What the task holds stays its own until it is dead.
    assert_eq!(c.cpus(&agent), [4.0, 4.0, 0.0]);
    let next = c.framework("next");
    c.turn();
    c.hears_nothing(&next);
    c.reports(&agent, &fw, "t", TaskState::TaskKilled);
    c.acknowledged(&agent);
    assert_eq!(c.shut_down(&agent), fw.id);
    c.only_offer_to(&next);
    assert_eq!(c.tasks(true), [("t".to_owned(), "TASK_KILLED".to_owned())]);
    let refused = c.subscribe(fw.info).unwrap_err();
    assert!(
        refused.starts_with("Framework has been removed"),
        "{refused}"
    );
}

#[test]
fn the_failover_timeout_runs_from_the_disconnection() {
    let mut c = Cluster::new();
    let fw = c.framework_with("web", |info| info.failover_timeout = Some(10.0));
    c.disconnects(&fw);
    c.pass(9 * SECOND, &[]);
    let fw = c.comes_back(&fw);
    c.pass(20 * SECOND, &[]);
    c.disconnects(&fw);
    c.pass(11 * SECOND, &[]);
    assert!(c.subscribe(fw.info).is_err());
}

#[test]
fn teardown_kills_every_task_and_bars_the_id_even_after_a_restart() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let t = task("t", &offer, "cpus:1; mem:32");
    c.accepts(&fw, &offer, vec![t.clone()]);
    c.launched(&agent);
    c.calls(&fw, call_of(call::Type::Teardown));
    c.closed(fw.conn);
    assert_eq!(c.killed(&agent), "t");
    c.loses_session(&agent);
    c.master_restarts();
    assert!(c.subscribe(fw.info.clone()).is_err());
    // Its task comes back with the agent and is killed.
    let agent = c.returns(
        &agent,
        vec![record(&fw, &t, TaskState::TaskRunning)],
        &[&fw],
    );
    assert_eq!(c.killed(&agent), "t");
    c.reports(&agent, &fw, "t", TaskState::TaskKilled);
    c.acknowledged(&agent);
    assert_eq!(c.shut_down(&agent), fw.id);
    assert_eq!(c.cpus(&agent), [4.0, 0.0, 0.0]);
}

#[test]
fn after_a_restart_frameworks_and_agents_find_each_other_again() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let t = task("t", &offer, "cpus:1; mem:32");
    c.accepts(&fw, &offer, vec![t.clone()]);
    c.launched(&agent);
    c.goes(&agent, &fw, "t", TaskState::TaskRunning);
    c.master_restarts();
    let fw = c.comes_back(&fw);
    // Until the agent is back nobody can say how the task is, so nobody does.
    c.reconciles(&fw, &[("t", Some(&agent.id))]);
    c.reconciles(&fw, &[("t", None)]);
    c.hears_nothing(&fw);
    let back = c.returns(
        &agent,
        vec![record(&fw, &t, TaskState::TaskRunning)],
        &[&fw],
    );
    assert_eq!(back.id, agent.id);
    c.reconciles(&fw, &[]);
    assert_eq!(c.update(&fw).1, TaskState::TaskRunning);
    let offer = c.only_offer_to(&fw);
    assert_eq!(
        crate::cluster::held(&offer),
        crate::cluster::resources("cpus:3; mem:992")
    );
}

#[test]
fn an_id_of_a_lost_registry_is_accepted_with_its_tasks() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    let t = task("t", &offer, "cpus:1; mem:32");
    c.accepts(&fw, &offer, vec![t.clone()]);
    c.launched(&agent);
    c.registry = allotment_master::core::registry::Registry::default();
    c.master_restarts();
    let agent = c.returns(
        &agent,
        vec![record(&fw, &t, TaskState::TaskRunning)],
        &[&fw],
    );
    let fw = c.comes_back(&fw);
    c.goes(&agent, &fw, "t", TaskState::TaskFinished);
}

#[test]
fn the_masters_own_absence_is_not_held_against_a_framework() {
    let mut c = Cluster::new();
    let fw = c.framework_with("web", |info| info.failover_timeout = Some(10.0));
    let gone = c.framework_with("gone", |info| info.failover_timeout = Some(10.0));
    c.disconnects(&gone);
    c.now = c.now + 3600 * SECOND;
    c.master_restarts();
    c.pass(70 * SECOND, &[]);
    c.comes_back(&fw);
    c.pass(6 * SECOND, &[]);
    assert!(c.subscribe(gone.info).is_err());
}

#[test]
fn another_principal_cannot_take_a_framework_over() {
    let mut c = Cluster::new();
    let fw = c.framework_with("web", |info| info.principal = Some("alice".to_owned()));
    let mut stolen = fw.info.clone();
    stolen.principal = Some("mallory".to_owned());
    let refused = c.subscribe(stolen).unwrap_err();
    assert!(refused.contains("alice") && refused.contains("mallory"));
    // The rightful one was not disturbed.
    c.suppresses(&fw);
    c.hears_nothing(&fw);
}

#[test]
fn a_second_subscribe_on_one_stream_is_refused_and_changes_nothing() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    let mut call = call_of(call::Type::Subscribe);
    call.subscribe = Some(Box::new(call::Subscribe {
        framework_info: fw.info.clone(),
        ..Default::default()
    }));
    c.calls(&fw, call);
    assert!(c.rejected(&fw).contains("already"));
}

#[test]
fn a_stream_must_begin_with_subscribe_and_soon() {
    let mut c = Cluster::new();
    let conn = c.conn();
    c.step(allotment_master::core::Input::FrameworkOpened { conn });
    c.step(allotment_master::core::Input::FrameworkCall {
        conn,
        call: call_of(call::Type::Revive),
    });
    assert!(c.closed(conn).contains("SUBSCRIBE"));
    let early = crate::cluster::Fw {
        conn,
        id: String::new(),
        info: info("early"),
    };
    c.error(&early);
    let conn = c.conn();
    c.step(allotment_master::core::Input::FrameworkOpened { conn });
    c.pass(16 * SECOND, &[]);
    assert!(c.closed(conn).contains("15 s"));
}

#[test]
fn heartbeats_come_every_fifteen_seconds() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    c.now = c.now + 15 * SECOND;
    c.step(allotment_master::core::Input::Tick);
    let beat = c.hears(&fw);
    assert_eq!(
        beat.r#type(),
        allotment_proto::scheduler::event::Type::Heartbeat
    );
    c.step(allotment_master::core::Input::Tick);
    c.hears_nothing(&fw);
}

#[test]
fn roles_are_checked_before_anything_is_written() {
    let mut c = Cluster::new();
    let bad = [
        ("no roles", Vec::new()),
        ("a bad role", vec!["a//b".to_owned()]),
        ("one role twice", vec!["a".to_owned(), "a".to_owned()]),
    ];
    for (what, roles) in bad {
        let mut refused = info("web");
        refused.roles = roles;
        assert!(c.subscribe(refused).is_err(), "{what} was accepted");
    }
    for timeout in [-1.0, f64::NAN] {
        let mut refused = info("web");
        refused.failover_timeout = Some(timeout);
        assert!(c.subscribe(refused).is_err(), "{timeout} was accepted");
    }
    let mut refused = info("web");
    refused.capabilities.clear();
    assert!(c.subscribe(refused).unwrap_err().contains("MULTI_ROLE"));
    assert!(c.registry.frameworks.is_empty());
}

#[test]
fn a_framework_may_change_its_roles_while_its_tasks_run_on() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    c.accepts(&fw, &offer, vec![task("t", &offer, "cpus:1; mem:32")]);
    c.launched(&agent);
    let mut changed = fw.clone();
    changed.info.roles = vec!["other".to_owned()];
    let fw2 = c.comes_back(&changed);
    c.error(&fw);
    c.closed(fw.conn);
    let offer = c.only_offer_to(&fw2);
    assert_eq!(offer.allocation_info.unwrap().role(), "other");
    c.goes(&agent, &fw2, "t", TaskState::TaskFinished);
    c.turn();
    c.offers(&fw2);
}
