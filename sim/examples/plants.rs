//! Looks for the first seed that finds each planted fault and prints the table of
//! `sim/tests/plants.rs`.
//!
//!     cargo run --release -p allotment-sim --example plants [SEEDS] [PLANT…]
//!
//! SEEDS: how many seeds to try, 500 unless given. The plant `None`, which has to be named, is the
//! honest system: no seed may find it.

use std::sync::atomic::{AtomicUsize, Ordering};

use allotment_sim::{Plant, Scenario, run_seed};

/// What is not found by then counts as not found.
const SEEDS: u64 = 500;

fn main() {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    let given = wanted.first().and_then(|seeds| seeds.parse().ok());
    if given.is_some() {
        wanted.remove(0);
    }
    let seeds = given.unwrap_or(SEEDS);
    let plants: Vec<Plant> = Plant::ALL
        .into_iter()
        .filter(|plant| wanted.is_empty() || wanted.contains(&format!("{plant:?}")))
        .chain(
            wanted
                .iter()
                .any(|name| name == "None")
                .then_some(Plant::None),
        )
        .collect();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(plant) = plants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    search(*plant, seeds);
                }
            });
        }
    });
}

#[expect(clippy::print_stdout, reason = "it is a command")]
fn search(plant: Plant, seeds: u64) {
    let scenario = Scenario {
        plant,
        ..Scenario::default()
    };
    for seed in 0..seeds {
        if let Some(violation) = run_seed(seed, &scenario).violation {
            println!("    (Plant::{plant:?}, {seed}), // {}", violation.invariant);
            return;
        }
    }
    println!("    // {plant:?} is not found by {seeds} seeds");
}
