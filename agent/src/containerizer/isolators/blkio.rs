//! `cgroups/blkio`: a task's part of contended disks, by the cpus it asked for.
//!
//! On request only: it needs a disk scheduler that weighs (BFQ on v1), and costs a group more
//! for each launch on v1.

use super::cgroups::Controller;
use super::{Host, Isolate, Setting, Version, Walls};
use crate::containerizer::wire::Launch;
use crate::isolation::Isolator;

#[derive(Debug, Default)]
pub(super) struct Blkio {
    version: Option<Version>,
}

impl Isolate for Blkio {
    fn isolator(&self) -> Isolator {
        Isolator::CgroupsBlkio
    }

    fn probe(&mut self, host: &mut Host) -> Result<String, String> {
        let (version, at) = host.cgroups.add(Controller::Blkio)?;
        let file = file(version);
        // Groups of their own have it; the root of a hierarchy need not.
        if !host.cgroups.offers(Controller::Blkio, file) {
            host.cgroups.drop(Controller::Blkio);
            return Err(format!(
                "the kernel has no {file}; it comes with the BFQ disk scheduler or iocost"
            ));
        }
        self.version = Some(version);
        Ok(format!("a weight by cpus ({at})"))
    }

    fn isolate(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        let Some(version) = self.version else {
            return Ok(());
        };
        // 100 is the kernel's default weight: one core's worth.
        let weight = (launch.cpus_milli / 10).clamp(1, 1000);
        let setting = Setting::must(Controller::Blkio, file(version), weight);
        walls.settings.push(setting);
        Ok(())
    }
}

const fn file(version: Version) -> &'static str {
    match version {
        Version::V1 => "blkio.bfq.weight",
        Version::V2 => "io.weight",
    }
}
