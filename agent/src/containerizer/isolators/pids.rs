//! `cgroups/pids`: a fork bomb stays inside its task.

use super::cgroups::Controller;
use super::{Host, Isolate, Setting, Walls};
use crate::containerizer::wire::Launch;
use crate::isolation::Isolator;

#[derive(Debug)]
pub(super) struct Pids;

impl Isolate for Pids {
    fn isolator(&self) -> Isolator {
        Isolator::CgroupsPids
    }

    fn probe(&mut self, host: &mut Host) -> Result<String, String> {
        let (_, at) = host.cgroups.add(Controller::Pids)?;
        Ok(format!("a limit of processes and threads ({at})"))
    }

    fn isolate(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        let most = launch.pids_max;
        walls
            .settings
            .push(Setting::must(Controller::Pids, "pids.max", most));
        Ok(())
    }
}
