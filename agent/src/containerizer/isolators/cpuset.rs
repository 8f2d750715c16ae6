//! `cgroups/cpuset`: who asks for whole cores gets cores of its own; all others share the rest.
//!
//! On request only: it needs an agent that offers no more cpus than there are cores, and a
//! launch may have to move every sharing container.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use super::cgroups::Controller;
use super::{Host, Isolate, Setting, Version, Walls};
use crate::containerizer::wire::Launch;
use crate::isolation::Isolator;

type Cores = BTreeSet<u32>;

#[derive(Debug, Default)]
pub(super) struct Cpuset {
    /// This agent's group; those of containers lie in it.
    root: PathBuf,
    version: Option<Version>,
    memory_nodes: String,
    cores: Pool,
}

/// Which cores belong to whom.
#[derive(Debug, Default)]
struct Pool {
    free: Cores,
    owned: BTreeMap<String, Cores>,
    sharing: BTreeSet<String>,
}

impl Pool {
    /// The cores of a new container.
    fn take(&mut self, container: &str, cpus_milli: u64) -> Result<Cores, String> {
        let whole = cpus_milli / 1000;
        if whole == 0 || !cpus_milli.is_multiple_of(1000) {
            if self.free.is_empty() {
                return Err(
                    "every core of this agent belongs to a task that asked for whole \
                            cores; offer no more cpus than there are cores"
                        .to_owned(),
                );
            }
            self.sharing.insert(container.to_owned());
            return Ok(self.free.clone());
        }
        let wanted = usize::try_from(whole).unwrap_or(usize::MAX);
        // Whoever shares needs a core to run on.
        let kept = usize::from(!self.sharing.is_empty());
        if self.free.len() < wanted.saturating_add(kept) {
            return Err(format!(
                "the task asks for {wanted} whole cores, and {} are not taken or shared; offer no \
                 more cpus than there are cores",
                self.free.len().saturating_sub(kept)
            ));
        }
        // The highest first: core 0 is where kernels do their own work.
        let cores: Cores = self.free.iter().rev().take(wanted).copied().collect();
        self.free.retain(|core| !cores.contains(core));
        self.owned.insert(container.to_owned(), cores.clone());
        Ok(cores)
    }

    /// Whether cores came back.
    fn give_back(&mut self, container: &str) -> bool {
        self.sharing.remove(container);
        let Some(cores) = self.owned.remove(container) else {
            return false;
        };
        self.free.extend(cores);
        true
    }
}

impl Isolate for Cpuset {
    fn isolator(&self) -> Isolator {
        Isolator::CgroupsCpuset
    }

    fn probe(&mut self, host: &mut Host) -> Result<String, String> {
        let (version, at) = host.cgroups.add(Controller::Cpuset)?;
        self.version = Some(version);
        self.root = host.cgroups.root_of(Controller::Cpuset).to_owned();
        let file = |v1, v2| if version == Version::V1 { v1 } else { v2 };
        let cpus = host.cgroups.inherited(
            Controller::Cpuset,
            file("cpuset.cpus", "cpuset.cpus.effective"),
        )?;
        self.memory_nodes = host.cgroups.inherited(
            Controller::Cpuset,
            file("cpuset.mems", "cpuset.mems.effective"),
        )?;
        self.cores.free = parse(&cpus);
        if self.cores.free.is_empty() {
            return Err(format!("{cpus:?} names no cores"));
        }
        Ok(format!(
            "whole cores of {} for who asks ({at})",
            cpus.trim()
        ))
    }

    fn isolate(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        let had = self.cores.free.len();
        let cores = self.cores.take(&launch.name, launch.cpus_milli)?;
        if self.cores.free.len() != had {
            self.move_sharing();
        }
        if self.version == Some(Version::V1) {
            walls.settings.push(Setting::must(
                Controller::Cpuset,
                "cpuset.mems",
                &self.memory_nodes,
            ));
        }
        walls.settings.push(Setting::must(
            Controller::Cpuset,
            "cpuset.cpus",
            print(&cores),
        ));
        Ok(())
    }

    fn cleanup(&mut self, container: &str) {
        if self.cores.give_back(container) {
            self.move_sharing();
        }
    }
}

impl Cpuset {
    fn move_sharing(&self) {
        let cores = print(&self.cores.free);
        for container in &self.cores.sharing {
            // One that is just ending has no group any more.
            let _ = fs::write(self.root.join(container).join("cpuset.cpus"), &cores);
        }
    }
}

/// Reads a kernel's list, such as `0-3,7`.
fn parse(list: &str) -> Cores {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<u32>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

fn print(cores: &Cores) -> String {
    let numbers: Vec<String> = cores.iter().map(ToString::to_string).collect();
    numbers.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cores: &str) -> Pool {
        Pool {
            free: parse(cores),
            ..Pool::default()
        }
    }

    #[test]
    fn whole_cores_are_owned_and_the_rest_is_shared() {
        let mut pool = pool("0-3\n");
        assert_eq!(pool.take("a", 2000).unwrap(), parse("2-3"));
        assert_eq!(pool.take("b", 500).unwrap(), parse("0-1"));
        // One core must stay for whoever shares.
        assert_eq!(pool.take("c", 1000).unwrap(), parse("1"));
        assert!(pool.take("d", 1000).unwrap_err().contains("1 whole cores"));
        assert!(pool.give_back("a"));
        assert_eq!(pool.take("e", 1500).unwrap(), parse("0,2-3"));
        assert!(!pool.give_back("e"));
    }

    #[test]
    fn nobody_shares_what_is_owned() {
        let mut pool = pool("0,1");
        pool.take("a", 2000).unwrap();
        assert!(pool.take("b", 100).is_err());
    }
}
