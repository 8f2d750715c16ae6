//! Who is offered what, and what becomes of offers.

use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::Reason;

use allotment_allocator::Settings;
use allotment_master::core::{Input, Reply, Request};

use crate::cluster::{Cluster, SECOND, held, launch, resources, task};

/// The worked example of the Mesos architecture page.
#[test]
fn what_the_first_framework_leaves_is_offered_to_the_second() {
    let mut c = Cluster::new();
    let agent = c.agent("agent1", "cpus:4; mem:4096");
    let first = c.framework("first");
    let offer = c.only_offer_to(&first);
    assert_eq!(held(&offer), resources("cpus:4; mem:4096"));

    let second = c.framework("second");
    c.turn();
    c.hears_nothing(&second);

    c.accepts(
        &first,
        &offer,
        vec![
            task("t1", &offer, "cpus:2; mem:1024"),
            task("t2", &offer, "cpus:1; mem:2048"),
        ],
    );
    assert_eq!(c.launched(&agent), ["t1", "t2"]);
    let rest = c.only_offer_to(&second);
    assert_eq!(held(&rest), resources("cpus:1; mem:1024"));
}

#[test]
fn a_round_that_reached_its_bound_goes_on_before_any_time_passes() {
    let mut c = Cluster::with_module(Settings {
        round_looks: 1,
        ..Settings::default()
    });
    let framework = c.framework("web");
    for n in 0..5 {
        c.agent(&format!("agent{n}"), "cpus:4; mem:4096");
    }
    c.turn();
    let mut offers = c.offers(&framework).len();
    assert!(offers < 5, "one look is not enough for five agents");
    let why = c.why("web").lines;
    let told = why.iter().find(|line| line.contains("done with"));
    assert!(
        told.is_some_and(|line| line.contains("of 5 agents")),
        "{why:?}"
    );
    // Not a moment later, and another framework's wish in the middle of it.
    let late = c.framework("late");
    let now = c.now;
    while c.core.next_deadline().is_some_and(|at| at <= now) {
        c.step(Input::Tick);
    }
    for framework in [framework, late] {
        while c.has_heard(&framework) {
            offers += c.offers(&framework).len();
        }
    }
    assert_eq!(offers, 5, "every agent is offered, to either of them");
    let Ok(Reply::Metrics(metrics)) = c.ask(Request::Metrics) else {
        panic!("the metrics are told");
    };
    let counters = metrics.counters;
    assert!(counters.allocation_runs_unfinished >= 4, "{counters:?}");
    assert!(counters.allocation_looks >= 5, "{counters:?}");
}

/// DRF, section 4.1: 9 CPUs and 18 GB; A's tasks need <1, 4>, B's <3, 1>. Each launches one task
/// per offer and leaves the rest, as the paper's progressive filling does.
#[test]
fn the_example_of_the_drf_paper_ends_with_three_and_two_tasks() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:9; mem:18432");
    let fws = [c.framework("a"), c.framework("b")];
    let needs = ["cpus:1; mem:4096", "cpus:3; mem:1024"];
    let mut launches = Vec::new();
    loop {
        c.turn();
        let Some(i) = (0..2).find(|i| c.has_heard(&fws[*i])) else {
            break;
        };
        let offer = c.offers(&fws[i]).remove(0);
        if held(&offer).contains(&resources(needs[i])) {
            let id = format!("{}{}", fws[i].info.name, launches.len());
            let tasks = vec![launch(vec![task(&id, &offer, needs[i])])];
            c.accepts_all(&fws[i], &[offer], tasks, Some(0.0));
            launches.extend(c.launched(&agent));
        } else {
            c.declines(&fws[i], &offer, Some(3600.0));
        }
    }
    // The order of the paper's table, with ties going to A.
    assert_eq!(launches, ["a0", "b1", "a2", "b3", "a4"]);
}

#[test]
fn a_declined_offer_comes_back_after_five_seconds_and_not_before() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    c.declines(&fw, &offer, None);
    c.pass(4 * SECOND, &[&agent]);
    c.hears_nothing(&fw);
    c.pass(2 * SECOND, &[&agent]);
    assert_eq!(c.offers(&fw).len(), 1);
}

#[test]
fn a_negative_filter_means_the_default_and_zero_means_none() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    c.declines(&fw, &offer, Some(-1.0));
    c.pass(4 * SECOND, &[&agent]);
    c.hears_nothing(&fw);
    c.pass(2 * SECOND, &[&agent]);
    let offer = c.offers(&fw).remove(0);
    c.declines(&fw, &offer, Some(0.0));
    c.only_offer_to(&fw);
}

#[test]
fn reviving_clears_even_the_longest_filter() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    c.declines(&fw, &offer, Some(4_294_967_295.0));
    c.pass(60 * SECOND, &[&agent]);
    c.hears_nothing(&fw);
    c.revives(&fw);
    c.only_offer_to(&fw);
}

#[test]
fn a_suppressed_framework_is_offered_nothing_until_it_revives() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    c.suppresses(&fw);
    c.agent("a", "cpus:4; mem:1024");
    c.turn();
    c.hears_nothing(&fw);
    c.revives(&fw);
    c.only_offer_to(&fw);
}

#[test]
fn an_offer_that_is_not_answered_is_rescinded_and_goes_to_others() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let hoarder = c.framework("hoarder");
    let offer = c.only_offer_to(&hoarder);
    c.pass(299 * SECOND, &[&agent]);
    c.hears_nothing(&hoarder);
    c.pass(SECOND, &[&agent]);
    assert_eq!(c.rescinded(&hoarder), offer.id);
    c.offers(&hoarder);
}

#[test]
fn accepting_an_offer_that_is_gone_drops_every_task_by_name() {
    let mut c = Cluster::new();
    c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    c.declines(&fw, &offer, Some(3600.0));
    c.accepts(
        &fw,
        &offer,
        vec![
            task("t1", &offer, "cpus:1; mem:32"),
            task("t2", &offer, "cpus:1; mem:32"),
        ],
    );
    for id in ["t1", "t2"] {
        let dropped = (TaskState::TaskDropped, Some(Reason::InvalidOffers));
        assert_eq!(c.update(&fw), (id.to_owned(), dropped.0, dropped.1));
    }
    assert_eq!(c.tasks(true), []);
}

#[test]
fn a_framework_that_is_not_partition_aware_hears_of_lost_tasks() {
    let mut c = Cluster::new();
    c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework_with("old", |info| {
        info.capabilities.clear();
        info.roles.clear();
        info.role = Some("old".to_owned());
    });
    let offer = c.only_offer_to(&fw);
    assert_eq!(offer.allocation_info, None);
    assert!(offer.resources.iter().all(|r| r.allocation_info.is_none()));
    c.declines(&fw, &offer, Some(3600.0));
    c.accepts(&fw, &offer, vec![task("t1", &offer, "cpus:1; mem:32")]);
    let lost = (TaskState::TaskLost, Some(Reason::InvalidOffers));
    assert_eq!(c.update(&fw), ("t1".to_owned(), lost.0, lost.1));
}

#[test]
fn somebody_elses_offer_cannot_be_accepted_or_declined() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let owner = c.framework("owner");
    let offer = c.only_offer_to(&owner);
    let thief = c.framework("thief");
    c.declines(&thief, &offer, None);
    c.accepts(&thief, &offer, vec![task("t", &offer, "cpus:1; mem:32")]);
    let (_, state, _) = c.update(&thief);
    assert_eq!(state, TaskState::TaskDropped);
    c.accepts(&owner, &offer, vec![task("t", &offer, "cpus:4; mem:1024")]);
    assert_eq!(c.launched(&agent), ["t"]);
}

#[test]
fn offers_of_two_agents_cannot_be_accepted_together_and_go_back() {
    let mut c = Cluster::new();
    c.agent("a", "cpus:4; mem:1024");
    c.agent("b", "cpus:4; mem:1024");
    let fw = c.framework("web");
    c.turn();
    let offers = c.offers(&fw);
    assert_eq!(offers.len(), 2);
    let tasks = vec![task("t", &offers[0], "cpus:1; mem:32")];
    c.accepts_all(&fw, &offers, vec![launch(tasks)], None);
    let status = c.status(&fw);
    assert_eq!(status.state(), TaskState::TaskDropped);
    assert!(status.message().contains("one agent at a time"));
    // Without a filter: the framework made a mistake, it did not decline.
    c.turn();
    assert_eq!(c.offers(&fw).len(), 2);
}

#[test]
fn offers_of_one_agent_are_pooled() {
    let mut c = Cluster::new();
    let agent = c.agent("a", "cpus:4; mem:1024");
    let fw = c.framework("web");
    let offer = c.only_offer_to(&fw);
    c.accepts_all(
        &fw,
        std::slice::from_ref(&offer),
        vec![launch(vec![task("t1", &offer, "cpus:2; mem:512")])],
        Some(0.0),
    );
    assert_eq!(c.launched(&agent), ["t1"]);
    let second = c.only_offer_to(&fw);
    c.goes(&agent, &fw, "t1", TaskState::TaskFinished);
    let third = c.only_offer_to(&fw);
    let big = vec![task("t2", &second, "cpus:4; mem:1024")];
    c.accepts_all(&fw, &[second, third], vec![launch(big)], None);
    assert_eq!(c.launched(&agent), ["t2"]);
}

#[test]
fn news_in_quick_succession_share_one_round_and_one_event() {
    let mut c = Cluster::new();
    let fw = c.framework("web");
    c.turn();
    for host in ["a", "b", "c"] {
        c.agent(host, "cpus:1; mem:1024");
    }
    c.turn();
    assert_eq!(c.offers(&fw).len(), 3);
}

#[test]
fn a_large_round_is_cut_into_events_below_a_mebibyte() {
    use prost::Message as _;
    let mut c = Cluster::new();
    for i in 0..30 {
        let mut register = crate::cluster::register(&format!("a{i}"), "cpus:1; mem:1024");
        register.agent.attributes = (0..20)
            .map(|n| allotment_proto::mesos::Attribute {
                name: format!("n{n}"),
                r#type: allotment_proto::mesos::value::Type::Text.into(),
                text: Some(allotment_proto::mesos::value::Text {
                    value: "x".repeat(4000),
                }),
                ..Default::default()
            })
            .collect();
        c.registers(register).unwrap();
    }
    let fw = c.framework("web");
    c.turn();
    let mut n_offers = 0;
    let mut n_events = 0;
    while c.has_heard(&fw) {
        let event = c.hears(&fw);
        assert!(event.encoded_len() < 1_100_000);
        n_offers += event.offers.unwrap().offers.len();
        n_events += 1;
    }
    assert_eq!(n_offers, 30);
    assert!(n_events >= 3, "{n_events}");
}

#[test]
fn people_hear_of_an_offer_with_the_turn_and_of_what_follows_in_sums() {
    let mut c = Cluster::new();
    let agent = c.agent("a1", "cpus:2; mem:1024");
    let fw = c.framework("web");
    c.events.clear();
    let told = |c: &mut Cluster| -> Vec<String> {
        let events = std::mem::take(&mut c.events).into_iter();
        let offers = events.filter(|e| e.kind.starts_with("offer-"));
        offers
            .map(|e| format!("{}: {}", e.kind, e.message))
            .collect()
    };
    let offer = c.only_offer_to(&fw);
    c.turn();
    assert_eq!(
        told(&mut c),
        ["offer-sent: web is offered cpus:2; mem:1024 on a1"]
    );

    // Of each fate the first is told at once, and what follows within a tenth of a second in sums.
    for i in 0..3 {
        let offer = if i == 0 {
            offer.clone()
        } else {
            c.only_offer_to(&fw)
        };
        let tasks = vec![task(&format!("t{i}"), &offer, "cpus:0.5; mem:128")];
        c.accepts_all(&fw, &[offer], vec![launch(tasks)], Some(0.0));
        c.launched(&agent);
    }
    let rest = c.only_offer_to(&fw);
    c.declines(&fw, &rest, Some(7.0));
    c.turn();
    assert_eq!(
        told(&mut c),
        [
            "offer-accepted: web accepts an offer on a1 and launches 1 task with cpus:0.5; mem:128",
            "offer-declined: web declines an offer on a1 with cpus:0.5; mem:640 for 7 s",
        ]
    );
    c.pass(SECOND, &[&agent]);
    assert_eq!(
        told(&mut c),
        [
            "offer-sent: web gets 3 offers on a1, together cpus:3; mem:2304",
            "offer-accepted: web accepts 2 offers on a1 and launches 2 tasks with cpus:1; mem:256",
        ]
    );

    // Nothing more is told where nothing more happens, and the news ends with its framework.
    c.pass(SECOND, &[&agent]);
    assert_eq!(told(&mut c), Vec::<String>::new());
}

#[test]
fn people_hear_that_offers_were_taken_back_and_why() {
    let mut c = Cluster::new();
    let agent = c.agent("a1", "cpus:2; mem:1024");
    let fw = c.framework("web");
    c.only_offer_to(&fw);
    c.pass(400 * SECOND, &[&agent]);
    let kinds = |c: &Cluster, kind: &str| c.events.iter().filter(|e| e.kind == kind).count();
    assert_eq!(kinds(&c, "offer-expired"), 1);
    c.loses_session(&agent);
    c.pass(100 * SECOND, &[]);
    assert_eq!(kinds(&c, "offer-rescinded"), 1);
    c.all_heard_by(&fw);
}
