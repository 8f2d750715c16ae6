//! What every allocation module must keep to, as a suite that any module's own tests can run.
//!
//! ```no_run
//! # use allotment_allocator::{Allocator, Drf, conformance};
//! conformance::check(|| Box::new(Drf::default()) as Box<dyn Allocator>);
//! ```
//!
//! Seeded histories are played to the module while the suite keeps books of its own; after each
//! fact and each round the laws are held against them. A violation is reported with its seed
//! and the shortest history that still shows it.
//!
//! - [`history`]: what happens, as steps that are drawn from a seed.
//! - [`world`]: turns steps into facts, and keeps the books.
//! - `books`, `laws`: what must hold of the answers.
//! - `patience`: nobody starves.
//! - [`shrink`]: the shortest history.
//!
//! A call may end before its round does ([`Round::unfinished`](crate::Round)): facts come in between,
//! and the laws about the end of a round wait for it.
//!
//! Not here: in which order a module prefers whom; that is what modules differ in.

mod books;
pub mod history;
mod laws;
mod material;
mod patience;
pub mod shrink;
pub mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use self::history::Step;
use self::world::World;
use crate::Allocator;

/// How long to look.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// The seed of the first history; each following one has the next.
    pub seed: u64,
    /// How many histories.
    pub histories: u64,
    /// How many steps each has.
    pub steps: usize,
}

impl Default for Effort {
    /// Some seconds without optimisation.
    fn default() -> Self {
        Self {
            seed: 1,
            histories: 60,
            steps: 250,
        }
    }
}

/// A law that was broken, and the history that shows it.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The seed of the history.
    pub seed: u64,
    /// The shortest history that was found.
    pub history: Vec<Step>,
    /// What was broken, with numbers.
    pub law: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\nseed {}, shortest history:", self.law, self.seed)?;
        for step in &self.history {
            writeln!(f, "    {step:?},")?;
        }
        Ok(())
    }
}

/// Plays histories to the module and panics when it breaks a law.
///
/// # Panics
/// With the [`Violation`], when there is one.
pub fn check(make: impl Fn() -> Box<dyn Allocator>) {
    if let Some(violation) = find_violation(&make, Effort::default()) {
        panic!("{violation}");
    }
}

/// The first law that the module is seen to break.
pub fn find_violation(make: impl Fn() -> Box<dyn Allocator>, effort: Effort) -> Option<Violation> {
    for seed in effort.seed..effort.seed.saturating_add(effort.histories) {
        let steps = Step::history(seed, effort.steps);
        let broken = |steps: &[Step]| calmly(|| play(&make, steps));
        if broken(&steps).is_some() {
            let (history, law) = shrink::shortest(steps, broken);
            return Some(Violation { seed, history, law });
        }
    }
    let starving = calmly(|| patience::starving(&make))?;
    Some(Violation {
        seed: effort.seed,
        history: Vec::new(),
        law: starving,
    })
}

/// Plays the steps to two modules at once, which must decide alike.
fn play(make: &impl Fn() -> Box<dyn Allocator>, steps: &[Step]) -> Result<(), String> {
    let (mut module, mut twin) = (make(), make());
    let mut world = World::default();
    for step in steps {
        for fact in world.facts(step) {
            let told = fact.tell(&mut *module);
            let told_twin = fact.tell(&mut *twin);
            if told != told_twin {
                return Err(format!(
                    "the same history was decided differently the second time:\n{told:?}\nand\n\
                     {told_twin:?}"
                ));
            }
            world.record(&fact, &told, &*module)?;
        }
    }
    world.wind_up(&mut *module)
}

/// What is wrong, a panic included.
pub fn calmly(play: impl FnOnce() -> Result<(), String>) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(play)) {
        Ok(result) => result.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Some(format!("a panic: {}", text.unwrap_or("without a message")))
        }
    }
}
