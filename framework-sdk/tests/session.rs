//! Scenarios over the pure session: each step is a sentence, and what a step asks must be named.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use allotment_framework_sdk::api::{Reason, TaskState};
use allotment_framework_sdk::session::{
    BACKOFF_MAX, BACKOFF_MIN, Effect, Input, SUBSCRIBE_TIMEOUT, Session,
};
use allotment_framework_sdk::{Call, Command, Config, Event, Task};
use allotment_proto::{convert, mesos, scheduler};
use allotment_types::{AgentId, Timestamp};

struct Story {
    session: Session,
    now: Timestamp,
    connection: u64,
    seen: Vec<Effect>,
}

impl Story {
    fn new(masters: &[&str]) -> Self {
        let config = Config {
            masters: masters.iter().map(ToString::to_string).collect(),
            name: "story".to_owned(),
            ..Config::default()
        };
        Self {
            session: Session::new(&config, 7).unwrap(),
            now: Timestamp::from_secs(100),
            connection: 0,
            seen: Vec::new(),
        }
    }

    /// A session that is subscribed as F1, with nothing left to see.
    fn subscribed() -> Self {
        let mut story = Self::new(&["m1:1"]);
        story.connects_to("m1:1");
        story.hears(subscribed("F1"));
        story.delivers_subscribed("F1");
        story
    }

    fn input(&mut self, input: Input) {
        assert!(self.seen.is_empty(), "not looked at: {:?}", self.seen);
        self.seen = self.session.step(self.now, input).then;
    }

    /// Lets time pass up to the next deadline.
    fn tick(&mut self) -> Duration {
        let deadline = self.session.next_deadline().expect("a deadline");
        let waited = deadline.since(self.now);
        self.now = self.now.max(deadline);
        self.input(Input::Tick);
        waited
    }

    /// Which SUBSCRIBE of which process this is.
    fn attempt_of(subscribe: &scheduler::Call) -> (u64, u64) {
        let attempt = subscribe.subscribe.as_ref().unwrap().attempt.unwrap();
        (attempt.process, attempt.number)
    }

    fn hears(&mut self, event: scheduler::Event) {
        let connection = self.connection;
        let event = Box::new(event);
        self.input(Input::Received { connection, event });
    }

    fn breaks(&mut self, clean: bool) {
        self.input(Input::Closed {
            connection: self.connection,
            reason: "it broke".to_owned(),
            clean,
        });
    }

    fn says(&mut self, call: Call) {
        self.input(Input::Call(call));
    }

    fn see(&mut self) -> Effect {
        assert!(!self.seen.is_empty(), "nothing was asked");
        self.seen.remove(0)
    }

    /// The stream broke when `t1` was sent, and there is another one now.
    fn with_a_launch_in_doubt() -> Self {
        let mut s = Self::subscribed();
        s.offered("O1");
        s.says(accept("O1", "t1"));
        assert!(s.sends().accept.is_some());
        s.breaks(false);
        s.delivers_disconnected();
        s.connects_to("m1:1");
        s.hears(subscribed("F1"));
        s.delivers_subscribed("F1");
        s
    }

    fn nothing_else(&mut self) {
        assert_eq!(self.seen, []);
    }

    /// Ticks until a connection is asked for; returns the pause before it and the SUBSCRIBE.
    fn connects_to(&mut self, expected: &str) -> (Duration, scheduler::Call) {
        let waited = self.tick();
        match self.see() {
            Effect::Connect {
                connection,
                master,
                subscribe,
            } => {
                assert_eq!(master, format!("http://{expected}"));
                self.connection = connection;
                (waited, *subscribe)
            }
            other => panic!("no connection but {other:?}"),
        }
    }

    fn delivers_subscribed(&mut self, id: &str) {
        match self.see() {
            Effect::Deliver(Event::Subscribed { framework }) => {
                assert_eq!(framework.as_str(), id);
            }
            other => panic!("not subscribed but {other:?}"),
        }
    }

    fn delivers_disconnected(&mut self) -> String {
        match self.see() {
            Effect::Deliver(Event::Disconnected { reason }) => reason,
            other => panic!("not disconnected but {other:?}"),
        }
    }

    fn refuses(&mut self) -> String {
        match self.see() {
            Effect::Refused(reason) => reason,
            other => panic!("not refused but {other:?}"),
        }
    }

    fn sends(&mut self) -> scheduler::Call {
        match self.see() {
            Effect::Send(call) => *call,
            other => panic!("nothing sent but {other:?}"),
        }
    }

    fn offered(&mut self, id: &str) {
        self.hears(offers(vec![offer(id, "F1", "cpus:4; mem:1024")]));
        assert!(matches!(self.see(), Effect::Deliver(Event::Offers(_))));
    }
}

fn event(kind: scheduler::event::Type) -> scheduler::Event {
    let mut event = scheduler::Event::default();
    event.set_type(kind);
    event
}

fn subscribed(id: &str) -> scheduler::Event {
    let mut event = event(scheduler::event::Type::Subscribed);
    event.subscribed = Some(Box::new(scheduler::event::Subscribed {
        framework_id: mesos::FrameworkId {
            value: id.to_owned(),
        },
        heartbeat_interval_seconds: Some(2.0),
        master_info: None,
    }));
    event
}

fn offers(offers: Vec<mesos::Offer>) -> scheduler::Event {
    let mut event = event(scheduler::event::Type::Offers);
    event.offers = Some(scheduler::event::Offers { offers });
    event
}

fn offer(id: &str, framework: &str, resources: &str) -> mesos::Offer {
    mesos::Offer {
        id: mesos::OfferId {
            value: id.to_owned(),
        },
        framework_id: mesos::FrameworkId {
            value: framework.to_owned(),
        },
        agent_id: mesos::AgentId {
            value: "A1".to_owned(),
        },
        hostname: "host".to_owned(),
        url: Some(mesos::Url {
            scheme: "http".to_owned(),
            address: mesos::Address {
                hostname: None,
                ip: Some("10.0.0.7".to_owned()),
                port: 5051,
            },
            ..Default::default()
        }),
        resources: convert::resources_to_wire(&resources.parse().unwrap(), Some("*")),
        allocation_info: Some(mesos::resource::AllocationInfo {
            role: Some("*".to_owned()),
        }),
        ..Default::default()
    }
}

fn update(task: &str, state: TaskState, uuid: u8) -> scheduler::Event {
    let mut event = event(scheduler::event::Type::Update);
    event.update = Some(scheduler::event::Update {
        status: mesos::TaskStatus {
            task_id: mesos::TaskId {
                value: task.to_owned(),
            },
            state: state.into(),
            agent_id: Some(mesos::AgentId {
                value: "A1".to_owned(),
            }),
            uuid: Some(vec![uuid; 16].into()),
            ..Default::default()
        },
    });
    event
}

fn accept(offer: &str, task: &str) -> Call {
    Call::Accept {
        agent: AgentId::parse("A1").unwrap(),
        offers: vec![offer.parse().unwrap()],
        tasks: vec![Task::new(
            task.parse().unwrap(),
            "cpus:1".parse().unwrap(),
            Command::Shell("true".to_owned()),
        )],
        refuse_for: None,
    }
}

#[test]
fn a_new_framework_subscribes_without_an_id_and_again_with_the_one_it_was_given() {
    let mut s = Story::new(&["m1:1"]);
    let (_, subscribe) = s.connects_to("m1:1");
    assert_eq!(subscribe.framework_id, None);
    s.hears(subscribed("F1"));
    s.delivers_subscribed("F1");
    s.breaks(false);
    s.delivers_disconnected();
    let (_, subscribe) = s.connects_to("m1:1");
    assert_eq!(subscribe.framework_id.unwrap().value, "F1");
    let info = subscribe.subscribe.unwrap().framework_info;
    assert_eq!(info.id.unwrap().value, "F1");
    s.nothing_else();
}

#[test]
fn every_master_is_tried_before_the_pause_and_each_reason_is_told_once() {
    let mut s = Story::new(&["m1:1", "m2:2"]);
    let mut reasons = 0;
    let mut pauses = Vec::new();
    for _round in 0..12 {
        for master in ["m1:1", "m2:2"] {
            let (pause, _) = s.connects_to(master);
            pauses.push(pause);
            s.input(Input::Closed {
                connection: s.connection,
                reason: format!("cannot reach {master}"),
                clean: false,
            });
            reasons += s.seen.len();
            s.seen.clear();
        }
    }
    assert_eq!(reasons, 2);
    assert!(pauses.chunks(2).all(|round| round[1] == Duration::ZERO));
    let rounds: Vec<_> = pauses.into_iter().step_by(2).skip(1).collect();
    assert!(rounds[0] >= Duration::from_millis(50) && rounds[0] <= Duration::from_millis(100));
    assert!(rounds.iter().all(|pause| *pause <= BACKOFF_MAX));
    assert!(*rounds.last().unwrap() >= BACKOFF_MAX / 2);
}

/// The pauses before each of ten reconnections, when every subscription lives this long.
fn pauses_after_subscriptions_of(life: Duration) -> Vec<Duration> {
    let mut s = Story::subscribed();
    let again = |_| {
        s.now = s.now + life;
        s.breaks(false);
        s.delivers_disconnected();
        let (pause, _) = s.connects_to("m1:1");
        s.hears(subscribed("F1"));
        s.delivers_subscribed("F1");
        pause
    };
    (0..10).map(again).collect()
}

#[test]
fn leaders_that_change_every_few_seconds_are_followed_without_delay() {
    let pauses = pauses_after_subscriptions_of(Duration::from_secs(3));
    assert!(
        pauses.iter().all(|pause| *pause <= BACKOFF_MIN),
        "{pauses:?}"
    );
}

#[test]
fn a_master_that_drops_every_subscription_at_once_is_asked_ever_less_often() {
    let pauses = pauses_after_subscriptions_of(Duration::from_millis(10));
    assert!(pauses.iter().all(|pause| *pause <= BACKOFF_MAX));
    assert!(*pauses.last().unwrap() >= BACKOFF_MAX / 2, "{pauses:?}");
}

#[test]
fn two_seeds_do_not_come_back_in_the_same_instant() {
    let pause = |seed| {
        let config = Config {
            name: "story".to_owned(),
            ..Config::default()
        };
        let mut s = Story::subscribed();
        s.session = Session::new(&config, seed).unwrap();
        s.connects_to("127.0.0.1:5050");
        s.breaks(false);
        s.delivers_disconnected();
        s.connects_to("127.0.0.1:5050").0
    };
    assert_ne!(pause(1), pause(2));
    assert_eq!(pause(1), pause(1));
}

#[test]
fn a_master_that_does_not_answer_subscribe_is_given_up() {
    let mut s = Story::new(&["m1:1", "m2:2"]);
    s.connects_to("m1:1");
    assert_eq!(s.tick(), SUBSCRIBE_TIMEOUT);
    assert_eq!(s.see(), Effect::Disconnect);
    let reason = s.delivers_disconnected();
    assert!(
        reason.contains("m1:1") && reason.contains("SUBSCRIBE"),
        "{reason}"
    );
    s.connects_to("m2:2");
}

#[test]
fn five_missed_heartbeats_end_the_connection_and_any_event_counts_as_one() {
    let mut s = Story::subscribed();
    s.now = s.now + Duration::from_secs(9);
    s.hears(event(scheduler::event::Type::Heartbeat));
    assert_eq!(s.tick(), Duration::from_secs(10));
    assert_eq!(s.see(), Effect::Disconnect);
    let reason = s.delivers_disconnected();
    assert!(reason.contains("silent for 10 s"), "{reason}");
    s.nothing_else();
}

#[test]
fn an_acknowledged_update_that_comes_again_is_acknowledged_again_and_not_delivered() {
    let mut s = Story::subscribed();
    s.hears(update("t1", TaskState::TaskRunning, 1));
    let Effect::Deliver(Event::Update(first)) = s.see() else {
        panic!("the update was not delivered");
    };
    s.says(first.acknowledgement().unwrap());
    s.sends();
    s.hears(update("t1", TaskState::TaskRunning, 1));
    let again = s.sends().acknowledge.unwrap();
    assert_eq!(again.uuid, vec![1; 16]);
    s.nothing_else();
    s.hears(update("t1", TaskState::TaskFinished, 2));
    assert!(matches!(s.see(), Effect::Deliver(Event::Update(_))));
}

#[test]
fn an_update_that_was_not_acknowledged_comes_again() {
    let mut s = Story::subscribed();
    for _ in 0..2 {
        s.hears(update("t1", TaskState::TaskRunning, 1));
        assert!(matches!(s.see(), Effect::Deliver(Event::Update(_))));
    }
}

#[test]
fn a_launch_without_a_connection_is_dropped_aloud() {
    let mut s = Story::subscribed();
    s.offered("O1");
    s.breaks(false);
    s.delivers_disconnected();
    s.says(accept("O1", "t1"));
    let Effect::Deliver(Event::Update(dropped)) = s.see() else {
        panic!("the launch vanished");
    };
    assert_eq!(dropped.state, TaskState::TaskDropped);
    assert_eq!(dropped.reason, Some(Reason::MasterDisconnected));
    assert_eq!(dropped.acknowledgement(), None);
}

#[test]
fn a_launch_on_an_offer_from_before_the_reconnection_is_dropped_aloud() {
    let mut s = Story::subscribed();
    s.offered("O1");
    s.breaks(false);
    s.delivers_disconnected();
    s.connects_to("m1:1");
    s.hears(subscribed("F1"));
    s.delivers_subscribed("F1");
    s.says(accept("O1", "t1"));
    let Effect::Deliver(Event::Update(dropped)) = s.see() else {
        panic!("the launch vanished");
    };
    assert_eq!(dropped.reason, Some(Reason::InvalidOffers));
    s.nothing_else();
}

#[test]
fn a_launch_in_flight_when_the_stream_broke_is_reconciled() {
    let mut s = Story::subscribed();
    s.offered("O1");
    s.says(accept("O1", "t1"));
    assert!(s.sends().accept.is_some());
    s.offered("O2");
    s.says(accept("O2", "t2"));
    assert!(s.sends().accept.is_some());
    s.hears(update("t2", TaskState::TaskRunning, 1));
    s.see();
    s.breaks(false);
    s.delivers_disconnected();
    s.connects_to("m1:1");
    s.hears(subscribed("F1"));
    s.delivers_subscribed("F1");
    let asked = s.sends().reconcile.unwrap().tasks;
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].task_id.value, "t1");
    s.nothing_else();
}

#[test]
fn a_launch_in_doubt_is_asked_about_again_until_the_master_answers() {
    let mut s = Story::with_a_launch_in_doubt();
    assert!(s.sends().reconcile.is_some());
    // The master lives and says nothing of it while the agent has yet to come back.
    let since = s.now;
    let mut asked_at = Vec::new();
    for _ in 0..40 {
        s.now = s.now + Duration::from_secs(1);
        s.hears(event(scheduler::event::Type::Heartbeat));
        s.input(Input::Tick);
        if !s.seen.is_empty() {
            let asked = s.sends().reconcile.unwrap().tasks;
            assert_eq!(asked[0].task_id.value, "t1");
            asked_at.push(s.now.since(since).as_secs());
        }
    }
    assert_eq!(asked_at, [5, 15, 35]);
    s.hears(update("t1", TaskState::TaskRunning, 1));
    s.see();
    s.now = s.now + Duration::from_secs(600);
    s.hears(event(scheduler::event::Type::Heartbeat));
    s.input(Input::Tick);
    s.nothing_else();
}

#[test]
fn a_launch_in_doubt_keeps_its_agent_and_is_asked_about_until_that_is_back() {
    let mut s = Story::with_a_launch_in_doubt();
    let asked = s.sends().reconcile.unwrap().tasks;
    assert!(asked[0].agent_id.is_some());
    // The framework's own question names no agent, and must not make the session forget it.
    s.says(Call::Reconcile(vec![("t1".parse().unwrap(), None)]));
    assert_eq!(s.sends().reconcile.unwrap().tasks, asked);
    s.hears(update("t1", TaskState::TaskUnreachable, 1));
    s.see();
    s.now = s.now + Duration::from_secs(5);
    s.input(Input::Tick);
    assert_eq!(s.sends().reconcile.unwrap().tasks, asked);
    s.hears(update("t1", TaskState::TaskGone, 2));
    s.see();
    s.now = s.now + Duration::from_secs(600);
    s.hears(event(scheduler::event::Type::Heartbeat));
    s.input(Input::Tick);
    s.nothing_else();
}

#[test]
fn what_a_framework_asks_after_its_restart_is_asked_again_until_the_master_answers() {
    let mut s = Story::subscribed();
    let asked = ["t1", "t2"].map(|task| (task.parse().unwrap(), None));
    s.says(Call::Reconcile(asked.into()));
    assert_eq!(s.sends().reconcile.unwrap().tasks.len(), 2);
    s.hears(update("t2", TaskState::TaskRunning, 1));
    s.see();
    // The agent of the other one has yet to come back to a master that was restarted, too.
    s.now = s.now + Duration::from_secs(5);
    s.input(Input::Tick);
    let again = s.sends().reconcile.unwrap().tasks;
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].task_id.value, "t1");
    s.hears(update("t1", TaskState::TaskGone, 2));
    s.see();
    s.now = s.now + Duration::from_secs(600);
    s.hears(event(scheduler::event::Type::Heartbeat));
    s.input(Input::Tick);
    s.nothing_else();
}

#[test]
fn a_rejected_accept_is_told_and_its_launch_reconciled() {
    let mut s = Story::subscribed();
    s.offered("O1");
    s.says(accept("O1", "t1"));
    s.sends();
    let mut rejected = event(scheduler::event::Type::CallRejected);
    rejected.call_rejected = Some(Box::new(scheduler::event::CallRejected {
        call: scheduler::call::Type::Accept.into(),
        message: "no".to_owned(),
    }));
    s.hears(rejected);
    assert_eq!(
        s.see(),
        Effect::Deliver(Event::Rejected {
            call: "ACCEPT".to_owned(),
            message: "no".to_owned(),
        })
    );
    assert!(s.sends().reconcile.is_some());
    s.nothing_else();
}

#[test]
fn an_offer_with_absurd_resources_is_given_back_and_the_others_are_delivered() {
    let mut s = Story::subscribed();
    let mut bad = offer("O1", "F1", "cpus:1");
    bad.resources[0].scalar = Some(mesos::value::Scalar { value: -3.0 });
    let foreign = offer("O2", "F9", "cpus:1");
    s.hears(offers(vec![bad, foreign, offer("O3", "F1", "cpus:1")]));
    for (id, word) in [("O1", "cpus"), ("O2", "F9")] {
        let reason = s.refuses();
        assert!(reason.contains(id) && reason.contains(word), "{reason}");
        assert_eq!(s.sends().decline.unwrap().offer_ids[0].value, id);
    }
    let Effect::Deliver(Event::Offers(good)) = s.see() else {
        panic!("the good offer was lost");
    };
    assert_eq!(good.len(), 1);
    assert_eq!(good[0].agent_url, "http://10.0.0.7:5051");
    s.nothing_else();
}

#[test]
fn malformed_events_change_nothing() {
    let mut s = Story::subscribed();
    for kind in [
        scheduler::event::Type::Unknown,
        scheduler::event::Type::Offers,
        scheduler::event::Type::Rescind,
        scheduler::event::Type::Update,
        scheduler::event::Type::Failure,
        scheduler::event::Type::CallRejected,
        scheduler::event::Type::InverseOffers,
        scheduler::event::Type::Message,
    ] {
        s.hears(event(kind));
        s.refuses();
        s.nothing_else();
    }
    s.hears(update("a/b", TaskState::TaskRunning, 1));
    assert!(s.refuses().contains("slashes"));
    s.hears(subscribed("F1"));
    assert!(s.refuses().contains("twice"));
    assert!(s.session.is_subscribed());
}

#[test]
fn events_of_an_earlier_connection_are_ignored() {
    let mut s = Story::subscribed();
    let old = s.connection;
    s.breaks(false);
    s.delivers_disconnected();
    s.connects_to("m1:1");
    s.input(Input::Received {
        connection: old,
        event: Box::new(subscribed("F9")),
    });
    s.nothing_else();
    s.input(Input::Closed {
        connection: old,
        reason: "late".to_owned(),
        clean: false,
    });
    s.nothing_else();
}

#[test]
fn a_master_of_another_cluster_is_left() {
    let mut s = Story::subscribed();
    s.breaks(false);
    s.delivers_disconnected();
    s.connects_to("m1:1");
    s.hears(subscribed("F2"));
    assert_eq!(s.see(), Effect::Disconnect);
    let reason = s.delivers_disconnected();
    assert!(reason.contains("F2") && reason.contains("F1"), "{reason}");
}

#[test]
fn a_wish_for_offers_between_subscribe_and_its_answer_is_not_lost() {
    let mut s = Story::new(&["m1:1"]);
    s.says(Call::Suppress);
    s.connects_to("m1:1");
    s.says(Call::Revive);
    s.hears(subscribed("F1"));
    s.delivers_subscribed("F1");
    assert_eq!(s.sends().r#type(), scheduler::call::Type::Revive);
}

#[test]
fn suppressing_survives_a_reconnection() {
    let mut s = Story::subscribed();
    s.says(Call::Suppress);
    s.sends();
    s.breaks(false);
    s.delivers_disconnected();
    let (_, subscribe) = s.connects_to("m1:1");
    assert_eq!(subscribe.subscribe.unwrap().suppressed_roles, ["*"]);
}

#[test]
fn a_teardown_ends_the_session_once_the_master_closed_the_stream() {
    let mut s = Story::subscribed();
    s.says(Call::Teardown);
    assert_eq!(s.sends().r#type(), scheduler::call::Type::Teardown);
    s.nothing_else();
    s.breaks(true);
    assert_eq!(s.see(), Effect::Disconnect);
    assert_eq!(s.see(), Effect::End);
    assert_eq!(s.session.next_deadline(), None);
}

#[test]
fn a_teardown_that_a_broken_stream_swallowed_is_said_again() {
    let mut s = Story::subscribed();
    s.says(Call::Teardown);
    s.sends();
    s.breaks(false);
    s.delivers_disconnected();
    s.connects_to("m1:1");
    s.hears(subscribed("F1"));
    s.delivers_subscribed("F1");
    assert_eq!(s.sends().r#type(), scheduler::call::Type::Teardown);
    let mut gone = event(scheduler::event::Type::Error);
    gone.error = Some(scheduler::event::Error {
        message: "Framework has been removed".to_owned(),
    });
    s.hears(gone);
    assert_eq!(s.see(), Effect::Disconnect);
    assert_eq!(s.see(), Effect::End);
    s.nothing_else();
}

#[test]
fn an_error_event_is_final() {
    let mut s = Story::subscribed();
    let mut failed_over = event(scheduler::event::Type::Error);
    failed_over.error = Some(scheduler::event::Error {
        message: "Framework failed over".to_owned(),
    });
    s.hears(failed_over);
    assert_eq!(
        s.see(),
        Effect::Deliver(Event::Error("Framework failed over".to_owned()))
    );
    assert_eq!(s.see(), Effect::Disconnect);
    assert_eq!(s.see(), Effect::End);
    assert_eq!(s.session.next_deadline(), None);
    s.says(Call::Revive);
    s.nothing_else();
}

#[test]
fn plain_tasks_are_served_from_what_is_reserved_first() {
    let mut s = Story::subscribed();
    let mut held = event(scheduler::event::Type::Offers);
    held.offers = Some(scheduler::event::Offers {
        offers: vec![offer("O1", "F1", "cpus(eng):1; cpus:2; mem:64")],
    });
    s.hears(held);
    assert!(matches!(s.see(), Effect::Deliver(Event::Offers(_))));
    s.says(Call::Accept {
        agent: "A1".parse().unwrap(),
        offers: vec!["O1".parse().unwrap()],
        tasks: vec![allotment_framework_sdk::Task::new(
            "t".parse().unwrap(),
            "cpus:2; mem:32".parse().unwrap(),
            allotment_framework_sdk::Command::Shell("true".to_owned()),
        )],
        refuse_for: None,
    });
    let launch = s.sends().accept.unwrap().operations.remove(0).launch;
    let resources = &launch.unwrap().task_infos[0].resources;
    assert_eq!(
        convert::resources_from_wire(resources).unwrap(),
        "cpus(eng):1; cpus:1; mem:32".parse().unwrap()
    );
}

#[test]
fn demands_and_wants_reach_the_wire_and_wants_outlive_the_connection() {
    use allotment_framework_sdk::wants::{Constraint, Constraints};
    let mut s = Story::subscribed();
    let role: allotment_types::Role = "db".parse().unwrap();
    let group = vec![Constraint::attribute_is("rack", "r7")];
    let mut wants = allotment_framework_sdk::Wants::default();
    let groups = vec![group];
    wants
        .constraints
        .insert(role.clone(), Constraints { groups });
    s.says(Call::Update {
        roles: vec![role.clone()],
        wants,
    });
    let update = s.sends().update_framework.unwrap();
    assert_eq!(update.framework_info.roles, ["db"]);
    assert_eq!(update.framework_info.id.unwrap().value, "F1");
    assert!(update.offer_constraints.is_some());
    s.says(Call::Demand {
        role,
        demand: Some(allotment_framework_sdk::Demand {
            bundle: "cpus:2; ports:[1-3]".parse().unwrap(),
            count: 5,
            hole: true,
        }),
    });
    let request = s.sends().request.unwrap().requests.remove(0);
    let demand = request.demand.unwrap();
    assert_eq!(
        (demand.role.as_str(), demand.count, demand.hole()),
        ("db", Some(5), true)
    );
    s.breaks(false);
    s.delivers_disconnected();
    let (_, subscribe) = s.connects_to("m1:1");
    let subscribe = subscribe.subscribe.unwrap();
    assert_eq!(subscribe.framework_info.roles, ["db"]);
    assert!(subscribe.offer_constraints.is_some());
}

#[test]
fn every_subscribe_says_whose_and_which_it_is() {
    let mut story = Story::new(&["m1:1"]);
    let (_, first) = story.connects_to("m1:1");
    assert_eq!(Story::attempt_of(&first), (7, 1));
    story.breaks(false);
    story.seen.clear();
    let (_, second) = story.connects_to("m1:1");
    assert_eq!(Story::attempt_of(&second), (7, 2));
    // What a master says to one that came late reaches a stream that counts for nothing.
    story.input(Input::Closed {
        connection: 1,
        reason: "this is SUBSCRIBE number 1".to_owned(),
        clean: true,
    });
    story.hears(subscribed("F1"));
    story.delivers_subscribed("F1");
}
