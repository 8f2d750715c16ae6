//! Plain amounts from an offer that holds reserved ones, too.

use allotment_types::{Fixed, Lot, Name, Ranges, Resources, Value};

/// Takes what `asked` asks in plain amounts from `pool`, the most reserved first: what is kept for
/// a role is of no use to others, so it is used before what is. Volumes, shared and revocable
/// resources are only taken where they are named.
///
/// `None`, and `pool` is as it was, when it holds too little.
pub(crate) fn carve(pool: &mut Resources, asked: &Resources) -> Option<Resources> {
    let mut rest = pool.clone();
    let mut taken = asked.filter(|_, lot| !lot.is_plain());
    if !rest.contains(&taken) {
        return None;
    }
    rest.subtract(&taken);
    for (name, _, value) in asked.plain().iter() {
        let mut lacking = value.clone();
        for lot in lots_of(&rest, name) {
            let Some(part) = rest.get(name, &lot).and_then(|held| part(held, &lacking)) else {
                continue;
            };
            lacking = less(&lacking, &part);
            let part = Resources::EMPTY.with(name.clone(), lot, part);
            rest.subtract(&part);
            taken.add(&part);
        }
        if !Resources::EMPTY
            .with(name.clone(), Lot::PLAIN, lacking)
            .is_empty()
        {
            return None;
        }
    }
    *pool = rest;
    Some(taken)
}

/// The lots of `name` that can stand in for plain ones, the most reserved first.
fn lots_of(pool: &Resources, name: &Name) -> Vec<Lot> {
    let usable = |lot: &Lot| !lot.is_unchoppable() && !lot.is_revocable() && !lot.is_shared();
    let mut lots: Vec<Lot> = pool
        .iter()
        .filter(|(found, lot, _)| *found == name && usable(lot))
        .map(|(_, lot, _)| lot.clone())
        .collect();
    lots.sort_by_key(|lot| std::cmp::Reverse(lot.reservations().len()));
    lots
}

/// What of `held` serves `wanted`; `None` when nothing does.
fn part(held: &Value, wanted: &Value) -> Option<Value> {
    let part = match (held, wanted) {
        (Value::Scalar(held), Value::Scalar(wanted)) => Value::Scalar(*held.min(wanted)),
        (Value::Ranges(held), Value::Ranges(wanted)) => {
            Value::Ranges(held.difference(&held.difference(wanted)))
        }
        (Value::Set(held), Value::Set(wanted)) => {
            Value::Set(held.intersection(wanted).cloned().collect())
        }
        _ => return None,
    };
    let empty = [
        Value::Scalar(Fixed::ZERO),
        Value::Ranges(Ranges::EMPTY),
        Value::Set(std::collections::BTreeSet::new()),
    ];
    (!empty.contains(&part)).then_some(part)
}

fn less(value: &Value, part: &Value) -> Value {
    match (value, part) {
        (Value::Scalar(value), Value::Scalar(part)) => Value::Scalar(value.saturating_sub(*part)),
        (Value::Ranges(value), Value::Ranges(part)) => Value::Ranges(value.difference(part)),
        (Value::Set(value), Value::Set(part)) => Value::Set(value - part),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(text: &str) -> Resources {
        text.parse().unwrap()
    }

    #[test]
    fn reserved_resources_are_used_before_those_that_others_could_use() {
        let mut pool = resources("cpus:4; cpus(eng):1; mem:64; ports:[1-4]; ports(eng):[5-6]");
        let taken = carve(&mut pool, &resources("cpus:2; mem:32; ports:[2-5]")).unwrap();
        assert_eq!(
            taken,
            resources("cpus:1; cpus(eng):1; mem:32; ports:[2-4]; ports(eng):[5]")
        );
        assert_eq!(pool, resources("cpus:3; mem:32; ports:[1]; ports(eng):[6]"));
    }

    #[test]
    fn too_little_takes_nothing() {
        let before = resources("cpus:1; cpus(eng):1; mem:64");
        let mut pool = before.clone();
        assert_eq!(carve(&mut pool, &resources("cpus:2; mem:65")), None);
        assert_eq!(pool, before);
    }

    #[test]
    fn volumes_are_only_taken_by_name() {
        let eng = "eng".parse().unwrap();
        let volume = resources("disk:64").reserved(&eng, None);
        let volume = volume.as_volume("data", "data", None);
        let mut pool = volume.plus(&resources("disk:8"));
        assert_eq!(carve(&mut pool, &resources("disk:9")), None);
        assert_eq!(carve(&mut pool, &volume), Some(volume.clone()));
        assert_eq!(pool, resources("disk:8"));
    }
}
