//! A small language for allocation histories.
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod broken;
pub(crate) mod cluster;
pub(crate) mod lockstep;
pub(crate) mod reference;

use std::collections::BTreeSet;

use std::time::Duration;

use allotment_allocator::{
    AgentSpec, Allocation, Allocator, FrameworkSpec, Grant, Recovery, RoleSpec,
};
use allotment_types::{AgentId, FrameworkId, Resources, Role};

pub(crate) fn f(id: &str) -> FrameworkId {
    FrameworkId::parse(id).expect("valid in a test")
}

pub(crate) fn a(id: &str) -> AgentId {
    AgentId::parse(id).expect("valid in a test")
}

pub(crate) fn role(name: &str) -> Role {
    Role::parse(name).expect("valid in a test")
}

pub(crate) fn res(text: &str) -> Resources {
    text.parse().expect("valid in a test")
}

pub(crate) fn roles(names: &[&str]) -> BTreeSet<Role> {
    names.iter().map(|name| role(name)).collect()
}

pub(crate) fn in_roles(names: &[&str]) -> FrameworkSpec {
    spec_of(&roles(names), &BTreeSet::new())
}

pub(crate) fn spec_of(roles: &BTreeSet<Role>, suppressed: &BTreeSet<Role>) -> FrameworkSpec {
    let wanted = |role: &Role| RoleSpec {
        suppressed: suppressed.contains(role),
        ..RoleSpec::default()
    };
    FrameworkSpec {
        roles: roles.iter().map(|r| (r.clone(), wanted(r))).collect(),
        ..FrameworkSpec::default()
    }
}

/// Declined with a filter, or given back without one.
pub(crate) fn declined(refuse_for: Option<Duration>) -> Recovery {
    refuse_for.map_or(Recovery::Rescinded, |refuse_for| Recovery::Declined {
        refuse_for,
        used_some: false,
    })
}

pub(crate) fn idle(total: &str) -> AgentSpec {
    AgentSpec {
        total: res(total),
        ..AgentSpec::default()
    }
}

pub(crate) fn grant_of(allocation: &Allocation) -> Grant {
    Grant {
        framework: allocation.framework.clone(),
        role: allocation.role.clone(),
        resources: allocation.resources.clone(),
    }
}

/// `f1/web a1 cpus:4` for each allocation, in order.
pub(crate) fn lines(allocations: &[Allocation]) -> Vec<String> {
    allocations
        .iter()
        .map(|x| format!("{}/{} {} {}", x.framework, x.role, x.agent, x.resources))
        .collect()
}

/// Asserts what an allocator promises at every instant: per agent, free and held make up the
/// total.
pub(crate) fn assert_conserved(allocator: &dyn Allocator, agent: &AgentId, total: &Resources) {
    let mut sum = allocator.free(agent);
    for grant in allocator.held(agent) {
        sum.add(&grant.resources);
    }
    assert_eq!(sum, *total, "agent {agent} does not add up");
}
