//! What a framework wants to be offered, and operations on offers, as Mesos writes them.

use std::collections::BTreeMap;

use allotment_proto::mesos::offer::operation;
use allotment_proto::scheduler::attribute_constraint::{self, predicate, selector};
use allotment_proto::scheduler::offer_constraints::{RoleConstraints, role_constraints};
use allotment_proto::{allot, convert, mesos, scheduler};
use allotment_types::{AgentId, Fixed, Name, OfferId, Role, Timestamp};

use crate::api::{InverseOffer, Operation, Unavailability};
use crate::wants::{Constraint, Constraints, Demand, Predicate, Selector, Wants};

/// Writes constraints; `None` when there are none.
pub(crate) fn constraints(wants: &Wants) -> Option<scheduler::OfferConstraints> {
    if wants.constraints.is_empty() {
        return None;
    }
    let role = |(role, constraints): (&Role, &Constraints)| {
        let group = |group: &Vec<Constraint>| role_constraints::Group {
            attribute_constraints: group.iter().map(constraint).collect(),
        };
        let groups = constraints.groups.iter().map(group).collect();
        (role.as_str().to_owned(), RoleConstraints { groups })
    };
    Some(scheduler::OfferConstraints {
        role_constraints: wants.constraints.iter().map(role).collect(),
    })
}

fn constraint(constraint: &Constraint) -> scheduler::AttributeConstraint {
    use attribute_constraint::predicate as p;
    use attribute_constraint::selector::PseudoattributeType as Pseudo;
    let selector = match &constraint.selector {
        Selector::Attribute(name) => selector::Selector::AttributeName(name.clone()),
        Selector::Hostname => selector::Selector::PseudoattributeType(Pseudo::Hostname.into()),
        Selector::Region => selector::Selector::PseudoattributeType(Pseudo::Region.into()),
        Selector::Zone => selector::Selector::PseudoattributeType(Pseudo::Zone.into()),
    };
    let predicate = match &constraint.predicate {
        Predicate::Exists => predicate::Predicate::Exists(p::Exists {}),
        Predicate::NotExists => predicate::Predicate::NotExists(p::NotExists {}),
        Predicate::Equals(text) => predicate::Predicate::TextEquals(p::TextEquals {
            value: text.clone(),
        }),
        Predicate::NotEquals(text) => predicate::Predicate::TextNotEquals(p::TextNotEquals {
            value: text.clone(),
        }),
        Predicate::Matches(regex) => predicate::Predicate::TextMatches(p::TextMatches {
            regex: regex.clone(),
        }),
        Predicate::NotMatches(regex) => predicate::Predicate::TextNotMatches(p::TextNotMatches {
            regex: regex.clone(),
        }),
    };
    scheduler::AttributeConstraint {
        selector: attribute_constraint::Selector {
            selector: Some(selector),
        },
        predicate: attribute_constraint::Predicate {
            predicate: Some(predicate),
        },
    }
}

/// Writes the smallest useful offers.
pub(crate) fn offer_filters(wants: &Wants) -> BTreeMap<String, mesos::OfferFilters> {
    use mesos::offer_filters::{MinAllocatableResources, ResourceQuantities};
    let quantities = |amounts: &BTreeMap<Name, Fixed>| ResourceQuantities {
        quantities: amounts
            .iter()
            .map(|(name, amount)| {
                let value = amount.as_f64();
                (name.as_str().to_owned(), mesos::value::Scalar { value })
            })
            .collect(),
    };
    let filters = |bundles: &Vec<BTreeMap<Name, Fixed>>| mesos::OfferFilters {
        min_allocatable_resources: Some(MinAllocatableResources {
            quantities: bundles.iter().map(quantities).collect(),
        }),
    };
    wants
        .min_allocatable
        .iter()
        .map(|(role, bundles)| (role.as_str().to_owned(), filters(bundles)))
        .collect()
}

/// Writes a demand; `None` in its place ends one.
pub(crate) fn request(role: &Role, demand: Option<&Demand>) -> mesos::Request {
    mesos::Request {
        agent_id: None,
        resources: demand.map_or_else(Vec::new, |demand| {
            convert::resources_to_wire(&demand.bundle, None)
        }),
        demand: Some(allot::Demand {
            role: role.as_str().to_owned(),
            count: demand.map(|demand| demand.count),
            hole: demand.map(|demand| demand.hole),
        }),
    }
}

/// Writes an operation on offers of `agent`.
pub(crate) fn operation(agent: &AgentId, operation: &Operation) -> mesos::offer::Operation {
    let mut wire = mesos::offer::Operation::default();
    let kind = match operation {
        Operation::Launch(tasks) => {
            let task_infos = tasks.iter().map(|task| super::task(agent, task)).collect();
            wire.launch = Some(operation::Launch { task_infos });
            operation::Type::Launch
        }
        Operation::LaunchGroup { executor, tasks } => {
            let tasks = tasks.iter().map(|task| super::task(agent, task)).collect();
            wire.launch_group = Some(operation::LaunchGroup {
                executor: super::executors::executor(executor),
                task_group: mesos::TaskGroupInfo { tasks },
            });
            operation::Type::LaunchGroup
        }
        Operation::Reserve(resources) => {
            wire.reserve = Some(operation::Reserve {
                source: Vec::new(),
                resources: convert::resources_to_wire(resources, None),
            });
            operation::Type::Reserve
        }
        Operation::Unreserve(resources) => {
            let resources = convert::resources_to_wire(resources, None);
            wire.unreserve = Some(operation::Unreserve { resources });
            operation::Type::Unreserve
        }
        Operation::Create(volumes) => {
            let volumes = convert::resources_to_wire(volumes, None);
            wire.create = Some(operation::Create { volumes });
            operation::Type::Create
        }
        Operation::Destroy(volumes) => {
            let volumes = convert::resources_to_wire(volumes, None);
            wire.destroy = Some(operation::Destroy { volumes });
            operation::Type::Destroy
        }
    };
    wire.set_type(kind);
    wire
}

/// Reads a planned absence.
pub(crate) fn unavailability(wire: &mesos::Unavailability) -> Unavailability {
    let nanos = |nanos: i64| u64::try_from(nanos).unwrap_or(0);
    Unavailability {
        start: Timestamp::from_nanos(nanos(wire.start.nanoseconds)),
        duration: wire
            .duration
            .as_ref()
            .map(|duration| std::time::Duration::from_nanos(nanos(duration.nanoseconds))),
    }
}

/// Reads a request to leave an agent.
///
/// # Errors
/// A sentence about what is wrong with it.
pub(crate) fn inverse_offer(wire: &mesos::InverseOffer) -> Result<InverseOffer, String> {
    let id = OfferId::try_from(&wire.id).map_err(|e| format!("inverse offer: {e}"))?;
    let agent = wire.agent_id.as_ref();
    let agent = agent.ok_or_else(|| format!("inverse offer {id} names no agent"))?;
    Ok(InverseOffer {
        agent: AgentId::try_from(agent).map_err(|e| format!("inverse offer {id}: {e}"))?,
        unavailability: unavailability(&wire.unavailability),
        id,
    })
}
