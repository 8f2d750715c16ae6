//! `posix/rlimits`: limits that a task asks for of each of its processes.

use allotment_proto::mesos::r_limit_info::r_limit::Type;

use super::{Host, Isolate, Walls};
use crate::containerizer::wire::Launch;
use crate::isolation::Isolator;

#[derive(Debug)]
pub(super) struct Rlimits;

impl Isolate for Rlimits {
    fn isolator(&self) -> Isolator {
        Isolator::PosixRlimits
    }

    fn probe(&mut self, _host: &mut Host) -> Result<String, String> {
        Ok("rlimits that tasks ask for".to_owned())
    }

    fn isolate(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        let asked = launch.confinement.iter().flat_map(|c| &c.rlimits);
        for limit in asked {
            let kind = Type::try_from(limit.kind).unwrap_or_default();
            let kind = kernels(kind).ok_or_else(|| {
                format!(
                    "rlimit {} does not exist on this machine",
                    kind.as_str_name()
                )
            })?;
            walls.hardening.rlimits.push((kind, limit.soft, limit.hard));
        }
        Ok(())
    }

    fn enter(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        self.isolate(launch, walls)
    }
}

fn kernels(kind: Type) -> Option<u32> {
    use nix::libc;
    Some(match kind {
        Type::Unknown => return None,
        Type::RlmtAs => libc::RLIMIT_AS,
        Type::RlmtCore => libc::RLIMIT_CORE,
        Type::RlmtCpu => libc::RLIMIT_CPU,
        Type::RlmtData => libc::RLIMIT_DATA,
        Type::RlmtFsize => libc::RLIMIT_FSIZE,
        Type::RlmtLocks => libc::RLIMIT_LOCKS,
        Type::RlmtMemlock => libc::RLIMIT_MEMLOCK,
        Type::RlmtMsgqueue => libc::RLIMIT_MSGQUEUE,
        Type::RlmtNice => libc::RLIMIT_NICE,
        Type::RlmtNofile => libc::RLIMIT_NOFILE,
        Type::RlmtNproc => libc::RLIMIT_NPROC,
        Type::RlmtRss => libc::RLIMIT_RSS,
        Type::RlmtRtprio => libc::RLIMIT_RTPRIO,
        Type::RlmtRttime => libc::RLIMIT_RTTIME,
        Type::RlmtSigpending => libc::RLIMIT_SIGPENDING,
        Type::RlmtStack => libc::RLIMIT_STACK,
    })
}
