//! What a framework wants to be offered, as it says it on the wire: offer constraints, smallest
//! bundles, demands.

use std::collections::{BTreeMap, BTreeSet};

use allotment_allocator::constraint::{Constraint, PatternError, Predicate, Selector, pattern};
use allotment_allocator::{Amounts, Constraints, Demand, MinAllocatable};
use allotment_proto::convert::{self, ResourceError};
use allotment_proto::scheduler::attribute_constraint::{self as wire, predicate, selector};
use allotment_proto::{mesos, scheduler};
use allotment_types::resources::AmountError;
use allotment_types::role::RoleError;
use allotment_types::{Fixed, Name, Role};

use super::accept::truncated;

/// The most constraints of one framework over all its roles: a few for each of a thousand apps,
/// and at 64 KiB a compiled pattern no more than memory can bear.
const CONSTRAINTS_MAX: usize = 4096;
/// The longest text or pattern in a constraint, in bytes.
const TEXT_MAX: usize = 4096;
/// The most alternatives and names of smallest bundles in one role.
const QUANTITIES_MAX: usize = 100;

/// Why what a framework wants cannot be understood.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum WantError {
    #[error(transparent)]
    Role(#[from] RoleError),
    #[error("{what} name role {role}, which is not among the framework's roles; add the role")]
    NotOwn { what: &'static str, role: Role },
    #[error(
        "the offer constraints of role {0} have no group, or a group without constraints; leave \
         the role out when every agent will do"
    )]
    Empty(Role),
    #[error("a constraint of role {role} {problem}")]
    Constraint { role: Role, problem: &'static str },
    #[error("in role {role}: {source}")]
    Pattern { role: Role, source: PatternError },
    #[error("there are {0} offer constraints; at most {CONSTRAINTS_MAX} are accepted")]
    TooMany(usize),
    #[error("the smallest offers of role {role} name {name:?}: {source}")]
    Quantity {
        role: Role,
        name: String,
        source: AmountError,
    },
    #[error(
        "the smallest offers of role {0} list more than {QUANTITIES_MAX} quantities or names; \
         list fewer"
    )]
    TooManyQuantities(Role),
    #[error("the demand is refused: {0}")]
    Demand(#[from] ResourceError),
    #[error("the demand of role {0} asks for nothing; name the smallest useful bundle")]
    EmptyDemand(Role),
}

fn own(roles: &BTreeSet<Role>, name: &str, what: &'static str) -> Result<Role, WantError> {
    let role = Role::parse(name)?;
    if roles.contains(&role) {
        Ok(role)
    } else {
        Err(WantError::NotOwn { what, role })
    }
}

/// Reads `FrameworkInfo.offer_filters`.
pub(super) fn min_allocatable(
    roles: &BTreeSet<Role>,
    filters: &BTreeMap<String, mesos::OfferFilters>,
) -> Result<BTreeMap<Role, MinAllocatable>, WantError> {
    let mut read = BTreeMap::new();
    for (name, filters) in filters {
        let role = own(roles, name, "the offer filters")?;
        let Some(min) = &filters.min_allocatable_resources else {
            continue;
        };
        let crowded = |n: usize| n > QUANTITIES_MAX;
        if crowded(min.quantities.len())
            || min.quantities.iter().any(|q| crowded(q.quantities.len()))
        {
            return Err(WantError::TooManyQuantities(role));
        }
        let mut bundles = MinAllocatable::new();
        for quantities in &min.quantities {
            let mut amounts = Amounts::new();
            for (name, scalar) in &quantities.quantities {
                let amount = Fixed::from_f64(scalar.value).map_err(|source| {
                    let (role, name) = (role.clone(), truncated(name));
                    WantError::Quantity { role, name, source }
                })?;
                amounts.insert(Name::from(name.as_str()), amount);
            }
            bundles.push(amounts);
        }
        read.insert(role, bundles);
    }
    Ok(read)
}

/// Reads `offer_constraints` of SUBSCRIBE and UPDATE_FRAMEWORK.
pub(super) fn constraints(
    roles: &BTreeSet<Role>,
    offered: Option<&scheduler::OfferConstraints>,
) -> Result<BTreeMap<Role, Constraints>, WantError> {
    let Some(offered) = offered else {
        return Ok(BTreeMap::new());
    };
    let groups = offered.role_constraints.values().flat_map(|r| &r.groups);
    let n: usize = groups.map(|g| g.attribute_constraints.len()).sum();
    if n > CONSTRAINTS_MAX {
        return Err(WantError::TooMany(n));
    }
    let mut read = BTreeMap::new();
    for (name, wanted) in &offered.role_constraints {
        let role = own(roles, name, "the offer constraints")?;
        let empty = |g: &scheduler::offer_constraints::role_constraints::Group| {
            g.attribute_constraints.is_empty()
        };
        if wanted.groups.is_empty() || wanted.groups.iter().any(empty) {
            return Err(WantError::Empty(role));
        }
        let groups = wanted.groups.iter().map(|group| {
            let constraints = group.attribute_constraints.iter();
            constraints.map(|c| constraint(&role, c)).collect()
        });
        let groups: Result<Vec<Vec<Constraint>>, WantError> = groups.collect();
        read.insert(role.clone(), Constraints { groups: groups? });
    }
    Ok(read)
}

fn constraint(role: &Role, wire: &scheduler::AttributeConstraint) -> Result<Constraint, WantError> {
    let refuse = |problem| WantError::Constraint {
        role: role.clone(),
        problem,
    };
    let selector = match &wire.selector.selector {
        Some(selector::Selector::AttributeName(name)) if name.len() <= TEXT_MAX => {
            Selector::Attribute(name.clone())
        }
        Some(selector::Selector::AttributeName(_)) => {
            return Err(refuse("names an attribute of more than 4096 bytes"));
        }
        Some(selector::Selector::PseudoattributeType(kind)) => match selector_of(*kind) {
            Some(selector) => selector,
            None => return Err(refuse("selects an unknown pseudo attribute")),
        },
        None => return Err(refuse("selects nothing; name an attribute")),
    };
    let bounded = |text: &String| {
        if text.len() > TEXT_MAX {
            return Err(refuse("holds a text of more than 4096 bytes"));
        }
        Ok(text.clone())
    };
    let compiled = |regex: &String| {
        pattern(&bounded(regex)?).map_err(|source| WantError::Pattern {
            role: role.clone(),
            source,
        })
    };
    use predicate::Predicate as Wire;
    let predicate = match &wire.predicate.predicate {
        Some(Wire::Exists(_)) => Predicate::Exists,
        Some(Wire::NotExists(_)) => Predicate::NotExists,
        Some(Wire::TextEquals(text)) => Predicate::Equals(bounded(&text.value)?),
        Some(Wire::TextNotEquals(text)) => Predicate::NotEquals(bounded(&text.value)?),
        Some(Wire::TextMatches(text)) => Predicate::Matches(compiled(&text.regex)?),
        Some(Wire::TextNotMatches(text)) => Predicate::NotMatches(compiled(&text.regex)?),
        None => return Err(refuse("has no predicate that this master knows")),
    };
    Ok(Constraint {
        selector,
        predicate,
    })
}

fn selector_of(kind: i32) -> Option<Selector> {
    match wire::selector::PseudoattributeType::try_from(kind).ok()? {
        wire::selector::PseudoattributeType::Hostname => Some(Selector::Hostname),
        wire::selector::PseudoattributeType::Region => Some(Selector::Region),
        wire::selector::PseudoattributeType::Zone => Some(Selector::Zone),
        wire::selector::PseudoattributeType::Unknown => None,
    }
}

/// Reads the demand in a REQUEST: the role and what is wanted; `None` in its place ends a demand.
pub(super) fn demand(
    roles: &BTreeSet<Role>,
    request: &mesos::Request,
    demand: &allotment_proto::allot::Demand,
) -> Result<(Role, Option<Demand>), WantError> {
    let role = own(roles, &demand.role, "the demands")?;
    let Some(count) = demand.count else {
        return Ok((role, None));
    };
    let bundle = convert::amounts_from_wire(&request.resources)?;
    if bundle.is_empty() && count > 0 {
        return Err(WantError::EmptyDemand(role));
    }
    let hole = demand.hole();
    Ok((
        role,
        Some(Demand {
            bundle,
            count,
            hole,
        }),
    ))
}
