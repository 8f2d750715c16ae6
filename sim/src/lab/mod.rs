//! The laboratory: what would a cluster do? Real master, real allocation module, virtual time.
//!
//! A scenario file ([`LabScenario`]) names machines, roles, frameworks and their load; [`run`]
//! plays it without faults and reports utilisation, waiting times and fairness ([`LabReport`]).
//! Agents follow the protocol by the letter and their tasks are nothing but durations.
//!
//! Not here: faults (see [`crate::run_seed`]), images, disks and networks; a task that is launched
//! runs for the time it was drawn and holds exactly what it asked for.

mod amount;
mod file;
#[cfg(test)]
mod large_job;
mod measure;
mod plot;
mod report;
mod starved;
mod table;
mod tenant;
mod workload;

use std::time::Duration;

use allotment_allocator::Quota;
use allotment_types::{Role, Timestamp};

use crate::brain::Brain;
use crate::module::{Module, RoleSetting, amounts};
use crate::plant::Plant;
use crate::trace::TraceDepth;
use crate::world::{FAILOVER_TIMEOUT, Seat, Setup, World};

pub use amount::{Distribution, Number, Span};
pub use file::{AgentGroup, FrameworkGroup, LabScenario, Policy, RoleSettings, ScenarioError};
pub use report::{
    Fairness, GroupReport, LabReport, Moment, Percentiles, ResourceReport, RoleReport,
};
pub(crate) use tenant::Tenant;
pub use workload::{Preset, TracedJob};

use measure::Measure;
use starved::Starved;
use workload::Workload;

/// How far an experiment is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// The virtual time.
    pub now: Timestamp,
    /// When jobs stop arriving.
    pub time: Duration,
}

/// Plays a scenario; the same seed gives the same report. `told` hears of the progress now and
/// then.
///
/// # Errors
/// A sentence when the allocation module is not known or cannot do what is asked of it, or when
/// the simulated cluster broke an invariant, which would be a bug.
pub fn run(
    scenario: &LabScenario,
    seed: u64,
    mut told: impl FnMut(Progress),
) -> Result<LabReport, String> {
    let module = module(scenario)?;
    let end = Timestamp::ZERO + scenario.time.0;
    let mut seats = Vec::new();
    let mut groups = Vec::new();
    for (g, group) in scenario.frameworks.iter().enumerate() {
        let role = Role::parse(group.role()).map_err(|e| e.to_string())?;
        for number in 1..=group.count {
            let name = format!("{}-{number}", group.name);
            let load = Workload::new(group, workload::stream(seed, &group.name, number), end);
            let tenant = Tenant::new(name.clone(), group, load);
            groups.push(g);
            seats.push(Seat {
                name,
                role: role.clone(),
                suppressed: tenant.starts_suppressed(),
                failover_timeout: FAILOVER_TIMEOUT,
                absent: false,
                brain: Brain::Tenant(Box::new(tenant)),
            });
        }
    }
    let machines = scenario
        .agents
        .iter()
        .flat_map(|group| std::iter::repeat_n(group.resources.clone(), group.count));
    let mut world = World::new(Setup {
        masters: 1,
        election_timeout: Duration::from_secs(12),
        seed,
        machines: machines.collect(),
        frameworks: seats,
        module,
        offer_timeout: scenario.offer_timeout.map(|span| span.0),
        delay: (Duration::from_micros(200), Duration::from_millis(2)),
        trace: TraceDepth::None,
        plant: Plant::None,
        checked: false,
        real_agents: false,
    })?;
    let mut measure = Measure::new(scenario, groups);
    let mut starved = Starved::default();
    let patience = scenario.patience.map_or(scenario.time.0 * 2, |span| span.0);
    let mut at = Timestamp::ZERO;
    loop {
        at = at + scenario.sample();
        if let Some(step) = scenario.starvation_sample {
            let mut look = world.now() + step.0;
            while look < at {
                world.run_until(look)?;
                starved.look(&world);
                look = look + step.0;
            }
        }
        world.run_until(at)?;
        measure.look(&world);
        told(Progress {
            now: at,
            time: scenario.time.0,
        });
        let over = at >= end && world.tenants().all(Tenant::is_done);
        if over || at >= end + patience {
            return Ok(measure.report(seed, &world, &starved));
        }
    }
}

fn module(scenario: &LabScenario) -> Result<Module, String> {
    let mut roles = Vec::new();
    for settings in &scenario.roles {
        roles.push(RoleSetting {
            role: Role::parse(&settings.name).map_err(|e| e.to_string())?,
            weight_thousandths: thousandths(settings.weight),
            quota: Quota {
                guarantees: amounts(settings.guarantee.as_ref()),
                limits: amounts(settings.limit.as_ref()),
            },
        });
    }
    let module = Module::new(
        &scenario.allocator,
        &scenario.allocator_config,
        roles.clone(),
    )?;
    let built = module.build();
    for setting in roles {
        if built.quota(&setting.role) != setting.quota {
            return Err(format!(
                "allocation module {:?} does not obey quotas, but role {} has a limit or a \
                 guarantee; leave them out or choose another module",
                scenario.allocator, setting.role
            ));
        }
    }
    Ok(module)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the file allows 0.001 to 1000000"
)]
fn thousandths(weight: f64) -> u64 {
    (weight * 1000.0).round() as u64
}
