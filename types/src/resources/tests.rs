use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::Role;

fn resources(text: &str) -> Resources {
    text.parse().expect("a valid text in a test")
}

#[test]
fn text_survives_a_round_trip() {
    let text = "cpus:1.5; disk:10; mem:64.001; ports:[31000-31004, 31010-31010]; tags:{a,b}";
    assert_eq!(resources(text).to_string(), text);
}

#[test]
fn amounts_that_no_machine_has_are_refused() {
    for text in [
        "cpus:-1",
        "cpus:NaN",
        "cpus:inf",
        "mem:1e300",
        "cpus:x",
        "cpus",
        "cpus(web:1",
        "cpus():1",
        "disk[x:y]:1",
        "(web):1",
        ":1",
    ] {
        assert!(text.parse::<Resources>().is_err(), "{text} was accepted");
    }
    assert!("cpus:1; cpus:2".parse::<Resources>().is_err());
    assert!("ports:[5-4]".parse::<Resources>().is_err());
}

#[test]
fn reserved_resources_are_never_mixed_with_plain_ones() {
    let both = resources("cpus:1; cpus(web):2; ports(web):[1-2]");
    assert_eq!(both.to_string(), "cpus:1; cpus(web):2; ports(web):[1-2]");
    assert_eq!(both.cpus(), Fixed::units(3));
    assert_eq!(both.plain(), resources("cpus(*):1"));
    assert_eq!(both.flattened(), resources("cpus:3; ports:[1-2]"));
    assert!(!both.contains(&resources("cpus:3")));
    assert_eq!(
        both.minus(&resources("cpus(web):1; mem:5")).cpus(),
        Fixed::units(2)
    );
    let lot = Lot::reserved_statically(Role::parse("web").unwrap());
    assert!(lot.is_open_to(&Role::parse("web/api").unwrap()));
    assert!(!lot.is_open_to(&Role::parse("webber").unwrap()));
}

#[test]
fn a_tenth_added_ten_times_is_exactly_one() {
    let mut sum = Resources::EMPTY;
    for _ in 0..10 {
        sum.add(&resources("cpus:0.1"));
    }
    assert_eq!(sum, resources("cpus:1"));
}

#[test]
fn a_shortfall_says_what_was_asked_and_what_was_there() {
    let lacks = resources("cpus:2; mem:64").shortfalls(&resources("cpus:4; mem:32; gpus:1"));
    let lines: Vec<String> = lacks.iter().map(Shortfall::to_string).collect();
    assert_eq!(
        lines,
        ["cpus: asked 4, there is 2", "gpus: asked 1, there is none"]
    );
}

fn any_ranges() -> impl Strategy<Value = Ranges> {
    prop::collection::vec((0_u64..40, 0_u64..6), 0..6)
        .prop_map(|v| Ranges::new(v.into_iter().map(|(b, n)| (b, b + n))))
}

proptest! {
    #[test]
    fn ranges_behave_like_the_sets_they_stand_for(a in any_ranges(), b in any_ranges()) {
        let set = |r: &Ranges| r.numbers().collect::<BTreeSet<u64>>();
        let (sa, sb) = (set(&a), set(&b));
        prop_assert_eq!(set(&a.union(&b)), sa.union(&sb).copied().collect::<BTreeSet<_>>());
        let difference = a.difference(&b);
        prop_assert_eq!(&Ranges::new(difference.iter()), &difference);
        prop_assert_eq!(set(&difference), sa.difference(&sb).copied().collect::<BTreeSet<_>>());
        prop_assert_eq!(a.contains(&b), sa.is_superset(&sb));
        prop_assert_eq!(a.intersects(&b), !sa.is_disjoint(&sb));
        prop_assert_eq!(usize::try_from(a.count()).unwrap(), sa.len());
    }

    #[test]
    fn what_is_added_can_be_taken_away(a in any_ranges(), cpus in 0_u64..9999) {
        let free = Resources::EMPTY.with_ranges(Name::PORTS, Ranges::new([(100, 200)]));
        let more = Resources::EMPTY
            .with_scalar(Name::CPUS, Fixed::from_thousandths(cpus))
            .with_ranges(Name::PORTS, a);
        let both = free.plus(&more);
        prop_assert!(both.contains(&free) && both.contains(&more));
        prop_assert_eq!(both.minus(&more), free);
    }
}
