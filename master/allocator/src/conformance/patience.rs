//! Nobody starves: how many rounds a client waits while what it wants comes free.

use std::collections::BTreeMap;
use std::time::Duration;

use allotment_types::{FrameworkId, Timestamp};

use super::material;
use crate::{AgentSpec, Allocator, FrameworkSpec, Grant, Recovery, RoleSpec};

/// A client is offered something after so many rounds per client at the latest. Fair modules
/// need one; a lottery among `n` that misses somebody 32 × `n` times has odds of e^-32.
const ROUNDS_PER_CLIENT: u32 = 32;

/// Who waits how.
#[derive(Debug, Clone, Copy)]
struct Crowd {
    frameworks: u8,
    agents: u8,
    /// All in one role, or each in its own.
    one_role: bool,
    /// How long a declined bundle is refused.
    refuse_for: Duration,
}

/// Crowds whose frameworks decline whatever they are offered, as idle frameworks do: everybody
/// must still be asked. And a framework among them that uses what it is offered must get it.
pub(super) fn starving(make: &impl Fn() -> Box<dyn Allocator>) -> Result<(), String> {
    for frameworks in [2, 7] {
        for one_role in [true, false] {
            for refuse_for in [Duration::ZERO, Duration::from_secs(5)] {
                let crowd = Crowd {
                    frameworks,
                    agents: 2,
                    one_role,
                    refuse_for,
                };
                everybody_is_asked(&mut *make(), crowd)?;
                the_hungry_one_is_fed(&mut *make(), crowd)?;
            }
        }
    }
    Ok(())
}

fn gather(module: &mut dyn Allocator, crowd: Crowd) -> Vec<FrameworkId> {
    for n in 0..crowd.agents {
        let spec = AgentSpec {
            total: material::resources("cpus:4; mem:4096"),
            ..AgentSpec::default()
        };
        module.add_agent(&material::agent_id(n), spec);
    }
    let ids: Vec<FrameworkId> = (0..crowd.frameworks).map(material::framework_id).collect();
    for (n, id) in ids.iter().enumerate() {
        let role = if crowd.one_role {
            material::role("*")
        } else {
            material::role(&format!("r{n}"))
        };
        let spec = FrameworkSpec {
            roles: [(role, RoleSpec::default())].into(),
            ..FrameworkSpec::default()
        };
        module.add_framework(id, spec);
    }
    ids
}

/// One round; everybody but `keeper` declines. Returns who was offered something.
fn round(
    module: &mut dyn Allocator,
    now: Timestamp,
    crowd: Crowd,
    keeper: Option<&FrameworkId>,
) -> Vec<FrameworkId> {
    let granted = module.allocate(now).allocations;
    for x in &granted {
        if Some(&x.framework) == keeper {
            continue;
        }
        let grant = Grant {
            framework: x.framework.clone(),
            role: x.role.clone(),
            resources: x.resources.clone(),
        };
        let recovery = Recovery::Declined {
            refuse_for: crowd.refuse_for,
            used_some: false,
        };
        module.recover(now, &x.agent, &grant, recovery);
    }
    granted.into_iter().map(|x| x.framework).collect()
}

fn everybody_is_asked(module: &mut dyn Allocator, crowd: Crowd) -> Result<(), String> {
    let ids = gather(module, crowd);
    let most = ROUNDS_PER_CLIENT * u32::from(crowd.frameworks);
    let mut last: BTreeMap<FrameworkId, u32> = ids.into_iter().map(|id| (id, 0)).collect();
    for n in 1..=3 * most {
        for framework in round(module, Timestamp::from_secs(n.into()), crowd, None) {
            last.insert(framework, n);
        }
        if let Some((framework, since)) = last.iter().find(|(_, since)| n - **since > most) {
            return Err(format!(
                "framework {framework} was offered nothing from round {since} to round {n}, \
                 though all offers were declined: {crowd:?}"
            ));
        }
    }
    Ok(())
}

fn the_hungry_one_is_fed(module: &mut dyn Allocator, crowd: Crowd) -> Result<(), String> {
    let ids = gather(module, crowd);
    let hungry = ids.last();
    let most = ROUNDS_PER_CLIENT * u32::from(crowd.frameworks) * u32::from(crowd.agents);
    let mut fed = 0;
    for n in 1..=most {
        let offered = round(module, Timestamp::from_secs(n.into()), crowd, hungry);
        fed += offered.iter().filter(|id| Some(*id) == hungry).count();
        if fed >= usize::from(crowd.agents) {
            return Ok(());
        }
    }
    Err(format!(
        "a framework that keeps what it is offered got {fed} of {} agents in {most} rounds, \
         though nobody else wants them: {crowd:?}",
        crowd.agents
    ))
}
