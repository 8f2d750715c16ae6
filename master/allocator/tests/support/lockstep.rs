//! Plays one history to the module and to the reference, which must answer alike.

use std::collections::BTreeSet;

use allotment_allocator::conformance::history::{AGENTS, FRAMEWORKS, ROLES, Step};
use allotment_allocator::conformance::world::{Fact, Told, World};
use allotment_allocator::{
    Allocator, Amounts, Drf, Hole, InverseAllocation, Round, Settings, Share,
};
use allotment_types::Timestamp;

use super::reference::Reference;
use super::{a, f, role};

#[derive(Debug)]
pub(crate) struct Lockstep {
    world: World,
    module: Box<dyn Allocator>,
    reference: Reference,
    /// How many facts were told.
    pub(crate) facts: u64,
    rounds: u64,
    /// Calls that went on with a round.
    pub(crate) calls: u64,
}

/// Plays the steps and says where the two part. A round of the module that ends before it is over
/// is asked to go on until it is: the pieces must be what the reference decides at once.
pub(crate) fn play(settings: &Settings, steps: &[Step]) -> Result<Lockstep, String> {
    let mut pair = Lockstep {
        world: World::default(),
        module: Box::new(Drf::new(settings.clone())),
        reference: Reference::new(settings.clone()),
        facts: 0,
        rounds: 0,
        calls: 0,
    };
    for step in steps {
        pair.step(step)?;
    }
    Ok(pair)
}

impl Lockstep {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        for fact in self.world.facts(step) {
            let told = self.tell_module(&fact)?;
            let expected = fact.tell(&mut self.reference);
            if in_order(told.clone()) != in_order(expected.clone()) {
                return Err(format!(
                    "at {fact:?}\nthe module answers {}\nthe reference {}",
                    print(&told),
                    print(&expected)
                ));
            }
            self.world.note(&fact, &told);
            self.facts += 1;
            if let Fact::Allocate(now) = fact {
                self.rounds += 1;
                self.compare()
                    .map_err(|at| format!("after the round at {now}: {at}"))?;
                if self.rounds.is_multiple_of(8) {
                    self.compare_deadlines(now)?;
                }
            }
        }
        Ok(())
    }

    fn tell_module(&mut self, fact: &Fact) -> Result<Told, String> {
        let mut told = fact.tell(&mut *self.module);
        if let (Fact::Allocate(now), Told::Decided(round)) = (fact, &mut told) {
            while std::mem::take(&mut round.unfinished) {
                let Round {
                    allocations,
                    inverse,
                    unfinished,
                    looks,
                } = self.module.allocate(*now);
                round.allocations.extend(allocations);
                round.inverse.extend(inverse);
                round.unfinished = unfinished;
                self.calls += 1;
                if looks == 0 && unfinished {
                    return Err(format!("a call at {now} looked at nothing and goes on"));
                }
            }
            round.looks = 0;
        }
        Ok(told)
    }

    fn compare(&self) -> Result<(), String> {
        let (module, reference) = (&*self.module, &self.reference as &dyn Allocator);
        for id in (0..AGENTS).map(|n| a(&format!("a{n}"))) {
            same(&id, module.free(&id), reference.free(&id))?;
            same(&id, module.held(&id), reference.held(&id))?;
        }
        for role in ROLES.map(role) {
            same(
                &role,
                positive(module.consumed(&role)),
                positive(reference.consumed(&role)),
            )?;
            same_share(&role, module.role_share(&role), reference.role_share(&role))?;
            same(&role, module.weight(&role), reference.weight(&role))?;
            same(&role, module.quota(&role), reference.quota(&role))?;
        }
        for id in (0..FRAMEWORKS).map(|n| f(&format!("f{n}"))) {
            same_share(
                &id,
                module.framework_share(&id),
                reference.framework_share(&id),
            )?;
        }
        same(&"holes", holes(module.holes()), holes(reference.holes()))
    }

    /// The module must ask for a round no later than the reference next decides by time alone.
    fn compare_deadlines(&self, now: Timestamp) -> Result<(), String> {
        let deadline = self.module.next_deadline();
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Err(format!(
                "after a round at {now}, {deadline:?} is still awaited"
            ));
        }
        let mut later = self.reference.clone();
        let deadlines = self.reference.deadlines().into_iter();
        // `Timestamp::MAX` is never.
        for at in deadlines.filter(|at| *at < Timestamp::MAX) {
            let round = later.allocate(at);
            if round.allocations.is_empty() && round.inverse.is_empty() {
                continue;
            }
            if deadline.is_none_or(|deadline| deadline > at) {
                return Err(format!(
                    "the reference decides {round:?} at {at} by time alone, but the module waits \
                     until {deadline:?}"
                ));
            }
            return Ok(());
        }
        Ok(())
    }
}

fn same<T: PartialEq + std::fmt::Debug>(
    of: &dyn std::fmt::Debug,
    module: T,
    reference: T,
) -> Result<(), String> {
    if module == reference {
        return Ok(());
    }
    Err(format!(
        "{of:?}: the module says {module:?}, the reference {reference:?}"
    ))
}

fn same_share(of: &dyn std::fmt::Debug, module: Share, reference: Share) -> Result<(), String> {
    let cross = |a: Share, b: Share| u128::from(a.numerator) * u128::from(b.denominator);
    let nothing = |share: Share| share.numerator == 0;
    if cross(module, reference) == cross(reference, module) && nothing(module) == nothing(reference)
    {
        return Ok(());
    }
    same(of, module, reference)
}

fn positive(mut amounts: Amounts) -> Amounts {
    amounts.retain(|_, amount| !amount.is_zero());
    amounts
}

fn holes(mut holes: Vec<Hole>) -> Vec<Hole> {
    holes.sort_by(|a, b| a.agent.cmp(&b.agent));
    holes
}

/// The contract leaves the order of inverse offers open.
fn in_order(mut told: Told) -> Told {
    if let Told::Decided(round) = &mut told {
        let key = |x: &InverseAllocation| (x.agent.clone(), x.framework.clone());
        round.inverse.sort_by_key(key);
    }
    told
}

fn print(told: &Told) -> String {
    match told {
        Told::Decided(round) => {
            let lines = super::lines(&round.allocations);
            let inverse: BTreeSet<String> = round
                .inverse
                .iter()
                .map(|x| format!("{} leave {}", x.framework, x.agent))
                .collect();
            format!("{lines:#?} {inverse:?}")
        }
        other => format!("{other:?}"),
    }
}
