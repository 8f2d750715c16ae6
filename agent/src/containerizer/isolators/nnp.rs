//! `linux/nnp`: no program gives a task more rights than it has, be it set-user-id or carry
//! capabilities (`no_new_privs`; Nomad's CVE-2019-14803).

use super::super::sys;
use super::{Host, Isolate, Walls, namespaces};
use crate::containerizer::wire::Launch;
use crate::isolation::Isolator;
use nix::sched::CloneFlags;

#[derive(Debug)]
pub(super) struct NoNewPrivileges;

impl Isolate for NoNewPrivileges {
    fn isolator(&self) -> Isolator {
        Isolator::LinuxNnp
    }

    fn probe(&mut self, _host: &mut Host) -> Result<String, String> {
        let trial = || sys::try_filter(None).map_or_else(|errno| errno as i32, |()| 0);
        namespaces::try_once(CloneFlags::empty(), trial)
            .map_err(|_| "the kernel knows no no_new_privs".to_owned())?;
        Ok("set-user-id programs give no rights".to_owned())
    }

    fn isolate(&mut self, _launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        walls.hardening.no_new_privs = true;
        Ok(())
    }

    fn enter(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        self.isolate(launch, walls)
    }
}
