//! `cgroups/freezer`: processes are stopped before they are killed, so that a fork bomb cannot
//! outrun its end.
//!
//! On request only: a pid namespace ends as a whole, and on v2 every group freezes and dies by
//! itself (`cgroup.kill`). It serves agents without pid namespaces on v1.

use super::cgroups::Controller;
use super::{Host, Isolate, Version, Walls};
use crate::containerizer::wire::Launch;
use crate::isolation::Isolator;

#[derive(Debug)]
pub(super) struct Freezer;

impl Isolate for Freezer {
    fn isolator(&self) -> Isolator {
        Isolator::CgroupsFreezer
    }

    fn probe(&mut self, host: &mut Host) -> Result<String, String> {
        let (version, at) = host.cgroups.add(Controller::Freezer)?;
        Ok(match version {
            Version::V1 => format!("containers are frozen before they are killed ({at})"),
            Version::V2 => format!("containers are killed as one ({at})"),
        })
    }

    fn isolate(&mut self, _launch: &Launch, _walls: &mut Walls) -> Result<(), String> {
        // The group itself is all there is to it.
        Ok(())
    }
}
