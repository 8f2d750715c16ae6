//! `linux/capabilities`: root's powers cut down to what programs in containers need, and given
//! by name to tasks that ask, as far as the operator allows.

use std::fs;

use super::super::sys;
use super::{Host, Isolate, Walls};
use crate::containerizer::wire::{Launch, SetUp};
use crate::isolation::{Isolator, capability_names};

/// `CAP_SETPCAP`.
const SETPCAP: u64 = 1 << 8;

#[derive(Debug)]
pub(super) struct Capabilities {
    /// What tasks may gain at most.
    bounding: u64,
    /// What a task that asks for nothing starts with, when it runs as root.
    effective: u64,
    /// What the launcher itself has.
    own: u64,
    last: u32,
}

impl Capabilities {
    pub(super) fn new(set_up: &SetUp) -> Self {
        Self {
            bounding: set_up.bounding_capabilities,
            effective: set_up.effective_capabilities,
            own: 0,
            last: 0,
        }
    }

    fn of(&self, launch: &Launch) -> Result<sys::Capabilities, String> {
        let wish = launch.confinement.as_ref();
        let asked = wish.and_then(|c| c.effective_capabilities);
        let bounding = wish.and_then(|c| c.bounding_capabilities);
        let effective = asked.unwrap_or(match bounding {
            Some(bounding) => self.effective & bounding,
            None => self.effective,
        });
        // As in Mesos, one set alone stands for both.
        let bounding = bounding.unwrap_or(effective);
        let beyond = (bounding | effective) & !(self.bounding & self.own);
        if beyond != 0 {
            return Err(format!(
                "the task asks for the capabilities {}, which this agent does not give; the \
                 operator may allow them with --bounding-capabilities",
                capability_names(beyond)
            ));
        }
        let root = launch.user.as_ref().is_none_or(|user| user.uid == 0);
        let ambient = if root {
            effective != bounding
        } else {
            asked.is_some_and(|asked| asked != 0)
        };
        Ok(sys::Capabilities {
            bounding,
            effective,
            ambient,
            last: self.last,
            inherited: self.bounding,
        })
    }
}

impl Isolate for Capabilities {
    fn isolator(&self) -> Isolator {
        Isolator::LinuxCapabilities
    }

    fn probe(&mut self, _host: &mut Host) -> Result<String, String> {
        let status = fs::read_to_string("/proc/self/status")
            .map_err(|error| format!("/proc/self/status cannot be read: {error}"))?;
        let own = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        self.own = own
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .ok_or_else(|| "the kernel does not tell our capabilities".to_owned())?;
        if self.own & SETPCAP == 0 {
            return Err("only root may take capabilities away".to_owned());
        }
        self.last = fs::read_to_string("/proc/sys/kernel/cap_last_cap")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .filter(|last| *last < 64)
            .ok_or_else(|| "the kernel does not tell its last capability".to_owned())?;
        self.effective &= self.own & self.bounding;
        // Once for all containers: the set that bounds a program's gains is inherited, and this
        // process runs none. Forty calls for each launch otherwise.
        let all = sys::Capabilities {
            bounding: self.bounding,
            effective: 0,
            ambient: false,
            last: self.last,
            inherited: u64::MAX,
        };
        all.bound()
            .map_err(|errno| format!("capabilities cannot be bounded: {}", errno.desc()))?;
        Ok(format!(
            "root has {} only",
            capability_names(self.effective)
        ))
    }

    fn isolate(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        walls.hardening.capabilities = Some(self.of(launch)?);
        Ok(())
    }

    fn enter(&mut self, launch: &Launch, walls: &mut Walls) -> Result<(), String> {
        self.isolate(launch, walls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerizer::wire::User;
    use crate::core::Confinement;

    fn wall() -> Capabilities {
        Capabilities {
            bounding: 0b1111,
            effective: 0b0011,
            own: !0,
            last: 40,
        }
    }

    fn asking(uid: u32, effective: Option<u64>, bounding: Option<u64>) -> Launch {
        Launch {
            user: Some(User {
                uid,
                ..Default::default()
            }),
            confinement: Some(Box::new(Confinement {
                effective_capabilities: effective,
                bounding_capabilities: bounding,
                ..Default::default()
            })),
            ..Default::default()
        }
    }

    #[test]
    fn who_asks_for_nothing_has_the_default_and_can_gain_no_more() {
        let given = wall().of(&asking(0, None, None)).unwrap();
        assert_eq!((given.bounding, given.effective), (0b0011, 0b0011));
        assert!(!given.ambient);
    }

    #[test]
    fn what_is_asked_for_is_given_up_to_the_operators_bound() {
        let given = wall().of(&asking(1000, Some(0b0100), None)).unwrap();
        assert_eq!((given.bounding, given.effective), (0b0100, 0b0100));
        assert!(given.ambient);
        let given = wall().of(&asking(0, Some(0b0001), Some(0b1001))).unwrap();
        assert!(given.ambient);
        let refused = wall().of(&asking(0, Some(1 << 21), None)).unwrap_err();
        assert!(refused.contains("SYS_ADMIN"), "{refused}");
    }
}
