//! Random histories, played to the module and to the slow reference in lockstep.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use allotment_allocator::{AgentSpec, Allocation, Allocator, Drf, Grant};
use allotment_types::{AgentId, FrameworkId, Resources, Role, Timestamp};
use proptest::prelude::*;
use support::reference::Reference;
use support::{a, assert_conserved, declined, f, grant_of, res, role, spec_of};

/// One event of a history; numbers pick among what exists.
#[derive(Debug, Clone)]
enum Step {
    AddFramework {
        id: u8,
        roles: u8,
        suppressed: u8,
    },
    Deactivate(u8),
    RemoveFramework(u8),
    AddAgent {
        id: u8,
        size: u8,
        used: Vec<(u8, u8)>,
    },
    SetActive(u8, bool),
    RemoveAgent(u8),
    Recover {
        which: usize,
        part: u8,
        refuse_secs: u8,
    },
    Suppress(u8, u8),
    Revive(u8, u8),
    Weight(u8, u8),
    Allocate {
        after_secs: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0_u8..4;
    let mask = 0_u8..8;
    prop_oneof![
        2 => (id.clone(), 1_u8..8, mask.clone())
            .prop_map(|(id, roles, suppressed)| Step::AddFramework { id, roles, suppressed }),
        1 => id.clone().prop_map(Step::Deactivate),
        1 => id.clone().prop_map(Step::RemoveFramework),
        2 => (0_u8..6, 0_u8..4, prop::collection::vec((id.clone(), 0_u8..3), 0..2))
            .prop_map(|(id, size, used)| Step::AddAgent { id, size, used }),
        1 => (0_u8..6, any::<bool>()).prop_map(|(id, active)| Step::SetActive(id, active)),
        1 => (0_u8..6).prop_map(Step::RemoveAgent),
        12 => (any::<usize>(), 0_u8..4, 0_u8..4)
            .prop_map(|(which, part, refuse_secs)| Step::Recover { which, part, refuse_secs }),
        1 => (id.clone(), mask.clone()).prop_map(|(id, roles)| Step::Suppress(id, roles)),
        1 => (id.clone(), mask).prop_map(|(id, roles)| Step::Revive(id, roles)),
        1 => (0_u8..3, 1_u8..4).prop_map(|(role, weight)| Step::Weight(role, weight)),
        6 => (0_u8..3).prop_map(|after_secs| Step::Allocate { after_secs }),
    ]
}

fn framework(n: u8) -> FrameworkId {
    f(&format!("f{n}"))
}

fn agent(n: u8) -> AgentId {
    a(&format!("a{n}"))
}

fn role_n(n: u8) -> Role {
    role(["*", "batch", "web"][usize::from(n)])
}

fn masked(mask: u8) -> BTreeSet<Role> {
    (0..3)
        .filter(|n| mask & (1 << n) != 0)
        .map(role_n)
        .collect()
}

const SIZES: [&str; 4] = [
    "cpus:4; mem:4096; ports:[31000-31010]; tags:{a,b}",
    "cpus:8; mem:1024",
    "cpus:0.009; mem:31; disk:10",
    "cpus:2; mem:8192; gpus:1; ports:[1-3, 9-9]",
];

/// A part of a bundle that the bundle contains.
fn part(of: &Resources, part: u8) -> Resources {
    let asked = match part {
        0 => return of.clone(),
        1 => res("cpus:1; mem:512"),
        2 => res("mem:700; ports:[31000-31003, 2-2]; tags:{b}"),
        _ => res("cpus:0.5; gpus:1"),
    };
    of.minus(&of.minus(&asked))
}

#[derive(Default)]
struct World {
    drf: Drf,
    reference: Reference,
    now: u64,
    totals: std::collections::BTreeMap<AgentId, Resources>,
    transcript: String,
}

impl World {
    /// Everything held anywhere, in order.
    fn held(&self) -> Vec<(AgentId, Grant)> {
        self.totals
            .keys()
            .flat_map(|id| self.drf.held(id).into_iter().map(|g| (id.clone(), g)))
            .collect()
    }

    fn play(&mut self, step: &Step) {
        let now = Timestamp::from_secs(self.now);
        match step {
            Step::AddFramework {
                id,
                roles,
                suppressed,
            } => {
                let roles = masked(*roles);
                let suppressed = masked(*suppressed).intersection(&roles).cloned().collect();
                let spec = spec_of(&roles, &suppressed);
                self.reference.add_framework(&framework(*id), &spec);
                self.drf.add_framework(&framework(*id), spec);
            }
            Step::Deactivate(id) => {
                self.reference.deactivate_framework(&framework(*id));
                self.drf.deactivate_framework(&framework(*id));
            }
            Step::RemoveFramework(id) => {
                self.reference.remove_framework(&framework(*id));
                self.drf.remove_framework(&framework(*id));
            }
            Step::AddAgent { id, size, used } => {
                let total = res(SIZES[usize::from(*size)]);
                let mut rest = total.clone();
                let mut grants = Vec::new();
                for (by, role) in used {
                    let resources = part(&rest, 1);
                    rest.subtract(&resources);
                    let (framework, role) = (framework(*by), role_n(*role));
                    grants.push(Grant {
                        framework,
                        role,
                        resources,
                    });
                }
                let spec = AgentSpec {
                    total: total.clone(),
                    used: grants,
                    ..AgentSpec::default()
                };
                self.totals.insert(agent(*id), total);
                self.reference.add_agent(&agent(*id), &spec);
                self.drf.add_agent(&agent(*id), spec);
            }
            Step::SetActive(id, active) => {
                self.reference.set_agent_active(&agent(*id), *active);
                self.drf.set_agent_active(&agent(*id), *active);
            }
            Step::RemoveAgent(id) => {
                self.totals.remove(&agent(*id));
                self.reference.remove_agent(&agent(*id));
                self.drf.remove_agent(&agent(*id));
            }
            Step::Recover {
                which,
                part: p,
                refuse_secs,
            } => {
                let held = self.held();
                if held.is_empty() {
                    return;
                }
                let (agent, mut grant) = held[which % held.len()].clone();
                grant.resources = part(&grant.resources, *p);
                let refuse = Duration::from_secs(u64::from(*refuse_secs));
                let until = (*refuse_secs > 0).then(|| now + refuse);
                self.reference.recover(&agent, &grant, until);
                self.drf
                    .recover(now, &agent, &grant, declined(Some(refuse)));
            }
            Step::Suppress(id, roles) => {
                self.reference.suppress(&framework(*id), &masked(*roles));
                self.drf.suppress(&framework(*id), &masked(*roles));
            }
            Step::Revive(id, roles) => {
                self.reference.revive(&framework(*id), &masked(*roles));
                self.drf.revive(&framework(*id), &masked(*roles));
            }
            Step::Weight(role, weight) => {
                let thousandths = u64::from(*weight) * 700;
                self.reference.set_weight(&role_n(*role), thousandths);
                self.drf.set_weight(&role_n(*role), thousandths);
            }
            Step::Allocate { after_secs } => {
                self.now += u64::from(*after_secs);
                self.allocate();
            }
        }
        self.check();
    }

    fn allocate(&mut self) -> Vec<Allocation> {
        let now = Timestamp::from_secs(self.now);
        let ours = self.drf.allocate(now).allocations;
        assert_eq!(ours, self.reference.allocate(now), "at {now}");
        assert_eq!(
            self.drf.allocate(now).allocations,
            [],
            "a second round without news decided again"
        );
        self.transcript += &format!("{now} {ours:?}\n");
        ours
    }

    fn check(&self) {
        for (id, total) in &self.totals {
            assert_conserved(&self.drf, id, total);
            assert_eq!(self.drf.free(id), self.reference.free(id), "free on {id}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_history_is_decided_as_the_slow_reference_decides_it(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut world = World::default();
        for step in &steps {
            world.play(step);
        }
        world.allocate();
    }

    #[test]
    fn the_same_history_gives_the_same_decisions(
        steps in prop::collection::vec(step(), 1..80)
    ) {
        let transcript = || {
            let mut world = World::default();
            steps.iter().for_each(|step| world.play(step));
            world.transcript
        };
        prop_assert_eq!(transcript(), transcript());
    }

    #[test]
    fn when_all_is_given_back_and_left_nothing_is_remembered(
        steps in prop::collection::vec(step(), 1..80)
    ) {
        let mut world = World::default();
        steps.iter().for_each(|step| world.play(step));
        for n in 0..6 {
            world.drf.remove_agent(&agent(n));
        }
        for n in 0..4 {
            world.drf.remove_framework(&framework(n));
        }
        prop_assert_eq!(world.drf.next_deadline(), None);
        for n in 0..3 {
            prop_assert_eq!(world.drf.role_share(&role_n(n)).numerator, 0);
        }
    }

    #[test]
    fn giving_back_more_than_is_held_frees_only_what_is_held(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let mut world = World::default();
        for step in &steps {
            world.play(step);
            let now = Timestamp::from_secs(world.now);
            let absurd = res("cpus:100; mem:100000; disk:99; gpus:9; ports:[0-65535]; tags:{a,b,z}");
            for (agent, grant) in world.held().into_iter().take(1) {
                let absurd = Grant { resources: absurd.clone(), ..grant };
                world.drf.recover(now, &agent, &absurd, declined(None));
                world.drf.recover(now, &agent, &absurd, declined(None));
                let real = Grant { resources: grant.resources, ..absurd };
                world.reference.recover(&agent, &real, None);
            }
            world.check();
        }
    }
}

#[test]
fn an_allocation_is_what_the_books_say() {
    let mut world = World::default();
    world.play(&Step::AddAgent {
        id: 0,
        size: 0,
        used: vec![(1, 1)],
    });
    world.play(&Step::AddFramework {
        id: 0,
        roles: 1,
        suppressed: 0,
    });
    let given = world.allocate();
    assert_eq!(world.drf.held(&agent(0))[0], grant_of(&given[0]));
    assert_eq!(world.drf.held(&agent(0)).len(), 2);
}
