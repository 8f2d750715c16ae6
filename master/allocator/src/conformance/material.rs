//! What small clusters are made of: agents with lots of every kind, and what frameworks want.

use std::collections::BTreeSet;
use std::time::Duration;

use allotment_types::resources::{
    Disk, DiskSource, LotInfo, PersistentVolume, Reservation, ReservationKind,
};
use allotment_types::{
    AgentId, Attribute, AttributeValue, FaultDomain, Fixed, FrameworkId, Lot, Name, Ranges,
    Resources, Role, Value,
};

use crate::constraint::{Constraint, Constraints, Predicate, Selector};
use crate::{
    AgentSpec, Amounts, Capabilities, Demand, FrameworkSpec, Grant, MinAllocatable, Quota,
    Recovery, RoleSpec,
};

const VALID: &str = "this suite writes only what is valid";

pub(super) fn framework_id(n: u8) -> FrameworkId {
    FrameworkId::parse(&format!("f{n}")).expect(VALID)
}

pub(super) fn agent_id(n: u8) -> AgentId {
    AgentId::parse(&format!("a{n}")).expect(VALID)
}

pub(super) fn role(name: &str) -> Role {
    Role::parse(name).expect(VALID)
}

pub(super) fn resources(text: &str) -> Resources {
    text.parse().expect(VALID)
}

pub(super) fn amounts(of: &[(Name, u64)]) -> Amounts {
    let positive = of.iter().filter(|(_, units)| *units > 0);
    positive
        .map(|(name, units)| (name.clone(), Fixed::units(*units)))
        .collect()
}

/// A reservation by an operator.
fn dynamic(role: &str) -> Reservation {
    Reservation {
        kind: ReservationKind::Dynamic,
        role: self::role(role),
        principal: None,
        labels: Vec::new(),
    }
}

fn scalar(units: u64) -> Value {
    Value::Scalar(Fixed::units(units))
}

fn volume(id: &str) -> Disk {
    Disk {
        source: None,
        volume: Some(PersistentVolume {
            id: id.to_owned(),
            principal: None,
            container_path: "data".to_owned(),
            read_only: false,
        }),
    }
}

/// What an agent of this shape has.
fn shape(which: u8) -> Resources {
    match which % 10 {
        0 => resources("cpus:4; mem:4096; disk:10000; ports:[31000-31010]; tags:{a,b}"),
        1 => resources("cpus:8; mem:1024"),
        2 => resources("cpus:0.009; mem:31; disk:10"),
        3 => resources("cpus:2; mem:8192; gpus:1; ports:[1-3, 9-9]"),
        4 => resources(
            "cpus:2; cpus(eng):2; mem:1024; mem(eng):2048; ports:[5-9]; ports(eng):[100-103]",
        ),
        5 => resources("cpus(ops):4; mem(ops):4096; tags(ops):{x}"),
        6 => {
            let refined = LotInfo {
                reservations: vec![dynamic("eng"), dynamic("eng/web")],
                ..LotInfo::default()
            };
            let disk = |source| {
                Lot::PLAIN.with(|lot| {
                    lot.disk = Some(Disk {
                        source: Some(source),
                        volume: None,
                    });
                })
            };
            let mount = disk(DiskSource::Mount {
                root: "/mnt/1".to_owned(),
            });
            let path = disk(DiskSource::Path {
                root: "/mnt/2".to_owned(),
            });
            resources("cpus:4; mem:2048; disk:20")
                .with(Name::CPUS, Lot::new(refined), scalar(2))
                .with(Name::DISK, mount, scalar(100))
                .with(Name::DISK, path, scalar(50))
        }
        7 => {
            let revocable = Lot::PLAIN.with(|lot| lot.revocable = true);
            resources("cpus:4; mem:4096")
                .with(Name::CPUS, revocable.clone(), scalar(2))
                .with(Name::MEM, revocable.clone(), scalar(1024))
                .with(Name::PORTS, revocable, Value::Ranges(Ranges::new([(7, 9)])))
        }
        8 => {
            let shared = LotInfo {
                reservations: vec![dynamic("eng")],
                disk: Some(volume("all")),
                shared: true,
                ..LotInfo::default()
            };
            let rest = "cpus:3; mem:512; disk(eng):100";
            resources(rest).with(Name::DISK, Lot::new(shared), scalar(64))
        }
        _ => resources("cpus:16; mem:16384; disk:100"),
    }
}

pub(super) fn agent(n: u8, which: u8, used: u8) -> AgentSpec {
    let total = shape(which);
    let (framework, role) = match used % 6 {
        5 => (FrameworkId::parse("ghost").expect(VALID), role("ghosts")),
        n => (
            framework_id(n % 4),
            role(["*", "eng", "eng/web", "ops"][usize::from(used / 6) % 4]),
        ),
    };
    let grant = |part_: u8| Grant {
        framework: framework.clone(),
        role: role.clone(),
        resources: part(&total, part_),
    };
    let used = match used % 8 {
        0..5 => Vec::new(),
        5 => vec![grant(1)],
        6 => vec![grant(3), grant(1)],
        // More than there is: the second is cut to what the first left.
        _ => vec![grant(3), grant(5)],
    };
    let text = AttributeValue::Text(format!("r{}", n % 2));
    AgentSpec {
        used,
        hostname: format!("host{n}"),
        attributes: vec![Attribute {
            name: "rack".to_owned(),
            value: text,
        }],
        domain: (which >= 200).then(|| FaultDomain {
            region: format!("region{}", which % 2),
            zone: "z".to_owned(),
        }),
        total,
    }
}

pub(super) fn framework(
    roles: &BTreeSet<Role>,
    suppressed: &BTreeSet<Role>,
    can: u8,
    wants: u8,
) -> FrameworkSpec {
    let constraint = |selector, predicate| Constraints {
        groups: vec![vec![Constraint {
            selector,
            predicate,
        }]],
    };
    let constraints = match wants % 16 {
        0 | 1 => Some(constraint(
            Selector::Attribute("rack".to_owned()),
            Predicate::Equals("r0".to_owned()),
        )),
        2 => Some(constraint(
            Selector::Hostname,
            Predicate::NotEquals("host1".to_owned()),
        )),
        3 => Some(Constraints::default()),
        _ => None,
    };
    let min_allocatable: Option<MinAllocatable> = match wants / 16 {
        0 | 1 => Some(Vec::new()),
        2 => Some(vec![
            amounts(&[(Name::CPUS, 2), (Name::MEM, 256)]),
            amounts(&[(Name::GPUS, 1)]),
        ]),
        _ => None,
    };
    let spec = |role: &Role| RoleSpec {
        suppressed: suppressed.contains(role),
        min_allocatable: min_allocatable.clone(),
        constraints: constraints.clone(),
    };
    let bit = |n: u8| can & (1 << n) != 0;
    FrameworkSpec {
        roles: roles.iter().map(|r| (r.clone(), spec(r))).collect(),
        capabilities: Capabilities {
            revocable: bit(0),
            shared: bit(1),
            gpu: bit(2),
            region_aware: bit(3),
            reservation_refinement: bit(4),
        },
    }
}

/// A part of `of`; of what cannot be divided, all or nothing.
pub(super) fn part(of: &Resources, part: u8) -> Resources {
    let in_both = |asked: Resources| of.minus(&of.minus(&asked));
    match part {
        0 => of.clone(),
        1 => in_both(resources("cpus:1; mem:512")),
        2 => in_both(resources("mem:700; ports:[31000-31003, 2-2]; tags:{b}")),
        3 => of
            .iter()
            .filter(|(_, lot, _)| !lot.is_unchoppable() && !lot.is_shared())
            .fold(Resources::EMPTY, |half, (name, lot, value)| match value {
                Value::Scalar(amount) => {
                    let amount = Fixed::from_thousandths(amount.thousandths() / 2);
                    half.with(name.clone(), lot.clone(), Value::Scalar(amount))
                }
                Value::Ranges(_) | Value::Set(_) => half,
            }),
        4 => of.filter(|_, lot| !lot.is_plain()),
        // More than there is, by far.
        _ => resources("cpus:100; mem:100000; disk:99; gpus:9; ports:[0-65535]; tags:{a,z}"),
    }
}

pub(super) fn recovery(how: u8) -> Recovery {
    let secs = |n| Duration::from_secs(n);
    let refuse_for = match how / 8 % 8 {
        0 | 1 => Duration::ZERO,
        2 => secs(1),
        3 => secs(2),
        4 | 5 => secs(5),
        6 => secs(60),
        _ => Duration::MAX,
    };
    match how % 8 {
        0 | 1 => Recovery::Ended,
        2 => Recovery::Rescinded,
        n => Recovery::Declined {
            refuse_for,
            used_some: n == 3,
        },
    }
}

/// What of `there` becomes what; `None` when there is nothing of that kind.
pub(super) fn conversion(there: &Resources, into: u8) -> Option<(Resources, Resources)> {
    let relabel = |pick: &dyn Fn(&Name, &Lot) -> bool, change: &dyn Fn(&mut LotInfo)| {
        let from = there.filter(pick);
        let relabelled = from.iter().map(|(name, lot, value)| {
            Resources::EMPTY.with(name.clone(), lot.with(change), value.clone())
        });
        let to = relabelled.fold(Resources::EMPTY, |sum, one| sum.plus(&one));
        Some((from, to))
    };
    let changed = match into {
        0 => {
            let core = resources("cpus:1; mem:256");
            let from = there.minus(&there.minus(&core));
            let reserved = Lot::new(LotInfo {
                reservations: vec![dynamic("eng")],
                ..LotInfo::default()
            });
            let to = from.iter().fold(Resources::EMPTY, |sum, (name, _, value)| {
                sum.with(name.clone(), reserved.clone(), value.clone())
            });
            Some((from, to))
        }
        1 => relabel(
            &|_, lot| {
                let last = lot.reservations().last();
                lot.disk().is_none() && last.is_some_and(|r| r.kind == ReservationKind::Dynamic)
            },
            &|lot| {
                lot.reservations.pop();
            },
        ),
        2 => relabel(
            &|_, lot| lot.disk().is_none() && lot.reserved_for() == Some(&role("eng")),
            &|lot| lot.reservations.push(dynamic("eng/web")),
        ),
        3 | 4 => relabel(
            &|name, lot| {
                *name == Name::DISK && lot.disk().is_none() && !lot.reservations().is_empty()
            },
            &|lot| {
                lot.disk = Some(volume("made"));
                lot.shared = into == 4;
            },
        ),
        5 => relabel(&|_, lot| lot.volume().is_some(), &|lot| {
            lot.disk = None;
            lot.shared = false;
        }),
        6 => {
            let absurd = resources("cpus:1000");
            Some((absurd.clone(), absurd))
        }
        _ => relabel(&|_, lot| lot.is_plain(), &|lot| {
            lot.reservations.push(dynamic("ops/ci"));
        }),
    };
    changed.filter(|(from, _)| !from.is_empty())
}

pub(super) fn demand(bundle: u8, count: u8) -> Option<Demand> {
    let half = Fixed::from_thousandths(500);
    let (bundle, hole) = match bundle {
        0 => (amounts(&[(Name::CPUS, 1), (Name::MEM, 512)]), false),
        1 => (amounts(&[(Name::CPUS, 2)]), false),
        2 => (amounts(&[(Name::MEM, 4000)]), true),
        3 => (amounts(&[(Name::CPUS, 4), (Name::MEM, 2048)]), true),
        4 => {
            let rest = amounts(&[(Name::PORTS, 2), (Name::DISK, 20)]);
            (
                rest.into_iter().chain([(Name::CPUS, half)]).collect(),
                false,
            )
        }
        5 => (amounts(&[(Name::CPUS, 6)]), true),
        6 => (amounts(&[(Name::CPUS, 1), (Name::GPUS, 1)]), true),
        _ => return None,
    };
    Some(Demand {
        bundle,
        count: count.into(),
        hole,
    })
}

pub(super) fn weight(which: u8) -> u64 {
    match which {
        0..100 => 1000,
        100..150 => 2000,
        150..200 => 500,
        200..240 => 700,
        240..248 => 1,
        _ => u64::MAX,
    }
}

/// A limit is never below its guarantee.
pub(super) fn quota(guarantee: u8, limit: u8) -> Quota {
    let (cpus, mem, disk) = match guarantee {
        0 | 1 => (0, 0, 0),
        2 => (2, 0, 0),
        3 => (4, 2048, 0),
        4 => (0, 4000, 0),
        _ => (6, 0, 50),
    };
    let guarantees = amounts(&[(Name::CPUS, cpus), (Name::MEM, mem), (Name::DISK, disk)]);
    let limits = match limit {
        0..3 => Amounts::new(),
        3 => guarantees.clone(),
        4 => amounts(&[(Name::CPUS, cpus + 2)]),
        _ => amounts(&[(Name::CPUS, cpus + 1), (Name::MEM, mem + 1024)]),
    };
    Quota { guarantees, limits }
}

/// How long before the next round.
pub(super) fn pause(which: u8) -> Duration {
    const SECS: [u64; 16] = [0, 0, 0, 0, 1, 1, 1, 2, 2, 5, 5, 10, 31, 61, 300, 700];
    Duration::from_secs(SECS[usize::from(which) % SECS.len()])
}
