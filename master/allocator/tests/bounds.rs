//! What one call of a module may do is bounded, and nothing is lost by that: it is counted in
//! looks, never in time.

mod support;

use std::collections::BTreeSet;

use allotment_allocator::constraint::{Constraint, Constraints, Predicate, Selector};
use allotment_allocator::{Allocator, Amounts, Demand, Drf, Part, Recovery, Round, Settings};
use allotment_types::{Fixed, Name, Ranges, Timestamp};
use support::{a, assert_conserved, f, grant_of, idle, in_roles, res, role};

const NOW: Timestamp = Timestamp::from_secs(1);
const LOOKS: u64 = 1000;
const AGENTS: usize = 100;
const FRAMEWORKS: usize = 300;

fn bounded() -> Drf {
    Drf::new(Settings {
        round_looks: LOOKS,
        ..Settings::default()
    })
}

/// A framework that no agent is right for.
fn picky() -> allotment_allocator::FrameworkSpec {
    let mut spec = in_roles(&["*"]);
    let nowhere = Constraint {
        selector: Selector::Hostname,
        predicate: Predicate::Equals("nowhere".to_owned()),
    };
    for wanted in spec.roles.values_mut() {
        wanted.constraints = Some(Constraints {
            groups: vec![vec![nowhere.clone()]],
        });
    }
    spec
}

/// A hundred agents and three hundred frameworks that must be considered on each of them in vain.
fn crowd() -> Drf {
    let mut drf = bounded();
    for n in 0..AGENTS {
        drf.add_agent(&a(&format!("a{n}")), idle("cpus:4; mem:4096"));
    }
    for n in 0..FRAMEWORKS {
        drf.add_framework(&f(&format!("picky{n}")), picky());
    }
    drf
}

/// Calls until the round is over; `each` may tell the module something in between.
fn calls(drf: &mut Drf, now: Timestamp, mut each: impl FnMut(usize, &mut Drf)) -> Vec<Round> {
    let mut rounds = Vec::new();
    loop {
        let round = drf.allocate(now);
        let goes_on = round.unfinished;
        rounds.push(round);
        if !goes_on {
            return rounds;
        }
        assert!(rounds.len() < 10_000, "the round does not come to an end");
        each(rounds.len(), drf);
    }
}

#[test]
fn a_round_tells_how_far_it_has_come_until_it_is_over() {
    let mut drf = crowd();
    let mut told = Vec::new();
    calls(&mut drf, NOW, |n, drf| {
        let round = drf.under_way().expect("it goes on");
        assert_eq!((round.calls, round.looks_per_call), (n as u64, LOOKS));
        assert_eq!((round.part, round.of), (Part::FairShare, AGENTS));
        told.push(round.done);
    });
    assert!(told.is_sorted_by(|a, b| a < b), "{told:?}");
    assert_eq!(drf.under_way(), None);
}

#[test]
fn no_call_does_more_looks_than_its_bound_and_one_walk() {
    let mut drf = crowd();
    let rounds = calls(&mut drf, NOW, |_, _| {});
    let most = LOOKS + FRAMEWORKS as u64 + 1;
    assert!(rounds.iter().all(|round| round.looks <= most), "{rounds:?}");
    let looks: u64 = rounds.iter().map(|round| round.looks).sum();
    let pairs = (AGENTS * FRAMEWORKS) as u64;
    assert!(
        (pairs..pairs + pairs / 10).contains(&looks),
        "{looks} looks"
    );
    assert!(
        rounds.len() as u64 >= pairs / most,
        "{} calls",
        rounds.len()
    );
    assert!(rounds.iter().all(Round::is_empty));
    assert_eq!(drf.allocate(NOW).looks, 0, "nothing is looked at twice");
}

#[test]
fn what_comes_in_the_middle_of_a_round_is_decided_right_behind_it() {
    let mut drf = crowd();
    let in_one_round = calls(&mut crowd(), NOW, |_, _| {}).len();
    let rounds = calls(&mut drf, NOW, |n, drf| {
        if n == 3 {
            drf.add_framework(&f("hungry"), in_roles(&["*"]));
            drf.add_agent(&a("late"), idle("cpus:1; mem:64"));
            drf.remove_agent(&a("a0"));
        }
    });
    let served: BTreeSet<_> = rounds
        .iter()
        .flat_map(|round| &round.allocations)
        .map(|x| (x.framework.clone(), x.agent.clone()))
        .collect();
    assert_eq!(served.len(), AGENTS, "{served:?}");
    assert!(served.contains(&(f("hungry"), a("late"))));
    assert!(rounds.len() <= 2 * in_one_round + 1, "{}", rounds.len());
    for n in 1..AGENTS {
        assert_conserved(&drf, &a(&format!("a{n}")), &res("cpus:4; mem:4096"));
    }
}

#[test]
fn a_framework_that_comes_and_goes_all_the_time_keeps_no_round_from_its_end() {
    let mut drf = crowd();
    let mut ended = 0;
    for n in 0..500 {
        drf.add_framework(&f("fickle"), picky());
        ended += u32::from(!drf.allocate(NOW).unfinished);
        drf.remove_framework(&f("fickle"));
        if n == 250 {
            drf.add_framework(&f("hungry"), in_roles(&["*"]));
        }
    }
    let rounds = calls(&mut drf, NOW, |_, _| {});
    assert!(rounds.len() < 100, "{} calls", rounds.len());
    assert!(ended > 0, "no round came to its end in 500 calls");
    let held = (0..AGENTS).filter(|n| !drf.held(&a(&format!("a{n}"))).is_empty());
    assert_eq!(held.count(), AGENTS, "the hungry one was served meanwhile");
}

#[test]
fn shredded_ports_count_by_their_fragments() {
    let mut drf = bounded();
    let ports = Ranges::new((0..10_000).map(|n| (2 * n + 1, 2 * n + 1)));
    let mut spec = idle("cpus:4; mem:4096");
    spec.total = spec.total.with_ranges(Name::PORTS, ports);
    for n in 0..3 {
        drf.add_agent(&a(&format!("a{n}")), spec.clone());
        drf.add_framework(&f(&format!("f{n}")), in_roles(&["*"]));
    }
    let rounds = calls(&mut drf, NOW, |_, _| {});
    let offers = rounds.iter().map(|round| round.allocations.len());
    assert_eq!(offers.clone().sum::<usize>(), 3);
    assert!(
        offers.max() <= Some(2),
        "three shredded agents are more than a call does"
    );
}

#[test]
fn filters_that_end_at_one_instant_are_ended_call_by_call() {
    let mut drf = bounded();
    for n in 0..100 {
        drf.add_agent(&a(&format!("a{n}")), idle("cpus:1; mem:64"));
    }
    for n in 0..50 {
        drf.add_framework(&f(&format!("f{n}")), in_roles(&["*"]));
    }
    let declined = Recovery::Declined {
        refuse_for: std::time::Duration::from_secs(60),
        used_some: false,
    };
    loop {
        let mut offers = Vec::new();
        for round in calls(&mut drf, NOW, |_, _| {}) {
            offers.extend(round.allocations);
        }
        if offers.is_empty() {
            break;
        }
        for offer in &offers {
            drf.recover(NOW, &offer.agent, &grant_of(offer), declined);
        }
    }
    let later = Timestamp::from_secs(61);
    assert_eq!(drf.next_deadline(), Some(later));
    let rounds = calls(&mut drf, later, |_, _| {});
    // Half of a call's looks go to filters, and there are 5,000 of them.
    assert!(rounds.len() >= 10, "{} calls", rounds.len());
    assert!(rounds.iter().all(|round| round.looks <= LOOKS + 51));
    let offers = rounds.iter().map(|round| round.allocations.len());
    assert_eq!(offers.sum::<usize>(), 100, "everything is offered again");
    assert_eq!(drf.next_deadline(), None);
}

#[test]
fn looking_for_holes_is_counted_too() {
    let mut drf = bounded();
    for n in 0..100 {
        drf.add_agent(&a(&format!("a{n}")), idle("cpus:4; mem:4096"));
    }
    for n in 0..50 {
        let own = format!("r{n}");
        drf.add_framework(&f(&format!("f{n}")), in_roles(&[&own]));
        let demand = Demand {
            bundle: Amounts::from([(Name::CPUS, Fixed::units(64))]),
            count: 1,
            hole: true,
        };
        drf.set_demand(&f(&format!("f{n}")), &role(&own), Some(demand));
    }
    let rounds = calls(&mut drf, NOW, |_, _| {});
    assert!(rounds.iter().all(|round| round.looks <= LOOKS + 100));
    assert!(rounds.len() >= 5, "{} calls", rounds.len());
    assert_eq!(drf.holes(), [], "no machine is that large");
}
