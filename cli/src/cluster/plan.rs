//! What each agent of a cluster on one machine may hand out.
//!
//! Agents on one machine share it, so each declares a part. Measuring the machine is left to the
//! caller.

use allotment_types::{Fixed, Name, Ranges, Resources};

/// What a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Cores.
    pub(crate) cores: u64,
    /// Memory in MiB.
    pub(crate) mem_mib: u64,
    /// Free disk space where the data is, in MiB.
    pub(crate) disk_mib: u64,
}

/// The host ports that agents hand out together: Mesos' default range.
const PORTS: (u64, u64) = (31_000, 32_000);

/// Shares the machine among `n_agents` (at least one).
///
/// As Mesos' agent does, 1 GiB of memory and 5 GiB of disk stay with the system (half of them,
/// when there is little). An agent never gets less than two cores: most jobs ask for a whole one
/// and would otherwise wait for ever beside the smallest service. With many agents the cores are
/// therefore promised more than once, which the kernel's fair scheduling makes slow but safe.
pub(crate) fn share(machine: Machine, n_agents: u64) -> Vec<Resources> {
    let n = n_agents.max(1);
    let mem = spare(machine.mem_mib, 1024) / n;
    let disk = spare(machine.disk_mib, 5 * 1024) / n;
    let cpus = (machine.cores * 1000 / n).max(2000);
    let n_ports = (PORTS.1 - PORTS.0 + 1) / n;
    (0..n)
        .map(|i| {
            let first = PORTS.0 + i * n_ports;
            Resources::cpus_mem(Fixed::from_thousandths(cpus), Fixed::units(mem))
                .with_scalar(Name::DISK, Fixed::units(disk))
                .with_ranges(Name::PORTS, Ranges::new([(first, first + n_ports - 1)]))
        })
        .collect()
}

/// `given`, and of the kinds it leaves out what `share` has, as Mesos' agent does.
pub(crate) fn fill(given: &Resources, share: &Resources) -> Resources {
    share
        .iter()
        .filter(|(name, _, _)| given.iter().all(|(found, _, _)| found != *name))
        .fold(given.clone(), |filled, (name, lot, value)| {
            filled.with(name.clone(), lot.clone(), value.clone())
        })
}

/// What may be handed out of `total` when the system keeps `kept`.
const fn spare(total: u64, kept: u64) -> u64 {
    if total > 2 * kept {
        total - kept
    } else {
        total / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine {
        cores: 8,
        mem_mib: 9 * 1024,
        disk_mib: 45 * 1024,
    };

    #[test]
    fn agents_share_what_the_system_leaves() {
        let shares = share(MACHINE, 4);
        assert_eq!(shares.len(), 4);
        assert_eq!(
            shares[0],
            "cpus:2; mem:2048; disk:10240; ports:[31000-31249]"
                .parse()
                .unwrap()
        );
    }

    #[test]
    fn no_port_is_handed_out_by_two_agents() {
        let ports: Vec<_> = share(MACHINE, 7).iter().map(Resources::ports).collect();
        for (i, mine) in ports.iter().enumerate() {
            assert!(mine.count() > 0);
            assert!(ports[i + 1..].iter().all(|other| !mine.intersects(other)));
        }
    }

    #[test]
    fn more_agents_than_cores_still_fit_a_job_of_one_core_beside_a_service() {
        assert_eq!(share(MACHINE, 20)[19].cpus(), Fixed::units(2));
    }

    #[test]
    fn kinds_that_are_left_out_come_from_the_share() {
        let given = "cpus:4; gpus:1".parse().unwrap();
        let share = "cpus:1; mem:64; ports:[1-2]".parse().unwrap();
        let filled: Resources = "cpus:4; gpus:1; mem:64; ports:[1-2]".parse().unwrap();
        assert_eq!(fill(&given, &share), filled);
    }

    #[test]
    fn a_small_machine_keeps_half_of_its_memory() {
        let small = Machine {
            mem_mib: 1000,
            ..MACHINE
        };
        assert_eq!(share(small, 1)[0].mem(), Fixed::units(500));
    }
}
