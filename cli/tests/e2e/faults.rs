//! Three masters, five agents and both frameworks on hosts of their own, under load, while one
//! fault of every family happens to them. The books of the load balance afterwards.
//!
//! As root alone, which network namespaces and small disks take; half an hour of it is
//! `allot-bench faults` (`docs/faults.md`).

use std::path::Path;

use allotment_benches::faults::{Args, run};

#[test]
fn a_cluster_under_load_survives_one_fault_of_every_family() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let args = Args {
        minutes: 30,
        seed: 1,
        short: true,
        only: Vec::new(),
        rate: 5.0,
    };
    let allot = Path::new(env!("CARGO_BIN_EXE_allot"));
    let told = std::cell::RefCell::new(Vec::new());
    let survived = run(allot, &args, &|line| {
        told.borrow_mut().push(line.to_owned())
    });
    survived.unwrap_or_else(|error| panic!("{error:#}\n{}", told.borrow().join("\n")));
}
