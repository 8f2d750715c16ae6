//! Whether quotas go together: pure relations between a role, its ancestors and its descendants.

use std::collections::{BTreeMap, BTreeSet};

use allotment_allocator::{Amounts, Quota};
use allotment_types::{Fixed, Name, Role};

/// Why quotas contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum QuotaFault {
    #[error(
        "role {role} would be promised {name} {promised}{unit} but limited to {limit}{unit}, with \
         what is promised to roles below it; raise the limit or promise less",
        unit = name.unit()
    )]
    BeyondOwnLimit {
        role: Role,
        name: Name,
        promised: Fixed,
        limit: Fixed,
    },
    #[error(
        "role {role} would be limited to {name} {limit}{unit}, above the {above}{unit} of its \
         ancestor {ancestor}; limit it to at most that, or raise {ancestor}'s limit first",
        unit = name.unit()
    )]
    AboveAncestor {
        role: Role,
        name: Name,
        limit: Fixed,
        ancestor: Role,
        above: Fixed,
    },
    #[error(
        "the roles below {role} would be promised {name} {promised}{unit} in sum, more than the \
         {own}{unit} of {role} itself; promise them less, or raise {role}'s guarantee first",
        unit = name.unit()
    )]
    BelowPromisedMore {
        role: Role,
        name: Name,
        promised: Fixed,
        own: Fixed,
    },
}

/// What each role needs of `name` because of guarantees: the larger of its own and the sum of its
/// children's.
fn needs(quotas: &BTreeMap<Role, Quota>, name: &Name) -> BTreeMap<Role, (Fixed, Fixed)> {
    let mut needs: BTreeMap<Role, (Fixed, Fixed)> = BTreeMap::new();
    for role in quotas.keys() {
        for node in role.path() {
            needs.entry(node).or_default();
        }
    }
    // Deepest first, so that children are done when their parent's turn comes.
    let mut order: Vec<Role> = needs.keys().cloned().collect();
    order.sort_by_key(|role| std::cmp::Reverse(role.path().count()));
    for role in order {
        let own = quotas.get(&role).and_then(|q| q.guarantees.get(name));
        let below = needs
            .get(&role)
            .map(|(_, below)| *below)
            .unwrap_or_default();
        let need = below.max(own.copied().unwrap_or_default());
        if let Some(entry) = needs.get_mut(&role) {
            entry.0 = need;
        }
        if let Some(parent) = role.parent()
            && let Some((_, sum)) = needs.get_mut(&parent)
        {
            *sum = sum.saturating_add(need);
        }
    }
    needs
}

fn names(quotas: &BTreeMap<Role, Quota>) -> BTreeSet<&Name> {
    let named = quotas.values();
    named
        .flat_map(|quota| quota.guarantees.keys().chain(quota.limits.keys()))
        .collect()
}

/// Checks that all quotas go together.
pub(super) fn check(quotas: &BTreeMap<Role, Quota>) -> Result<(), QuotaFault> {
    for name in names(quotas) {
        let needs = needs(quotas, name);
        for (role, quota) in quotas {
            let (need, below) = needs.get(role).copied().unwrap_or_default();
            if let Some(own) = quota.guarantees.get(name)
                && below > *own
            {
                return Err(QuotaFault::BelowPromisedMore {
                    role: role.clone(),
                    name: name.clone(),
                    promised: below,
                    own: *own,
                });
            }
            let Some(limit) = quota.limits.get(name).copied() else {
                continue;
            };
            if need > limit {
                return Err(QuotaFault::BeyondOwnLimit {
                    role: role.clone(),
                    name: name.clone(),
                    promised: need,
                    limit,
                });
            }
            for ancestor in role.path().filter(|node| node != role) {
                let above = quotas.get(&ancestor).and_then(|q| q.limits.get(name));
                if let Some(above) = above.copied().filter(|above| limit > *above) {
                    return Err(QuotaFault::AboveAncestor {
                        role: role.clone(),
                        name: name.clone(),
                        limit,
                        ancestor,
                        above,
                    });
                }
            }
        }
    }
    Ok(())
}

/// What all guarantees add up to: the sum over the roles at the top.
pub(super) fn promised(quotas: &BTreeMap<Role, Quota>) -> Amounts {
    let mut sums = Amounts::new();
    for name in names(quotas) {
        let needs = needs(quotas, name);
        let top = needs.iter().filter(|(role, _)| role.parent().is_none());
        let sum = top.fold(Fixed::ZERO, |sum, (_, (need, _))| sum.saturating_add(*need));
        sums.insert(name.clone(), sum);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(set: &[(&str, u64, u64)]) -> BTreeMap<Role, Quota> {
        let amounts = |cpus: u64| match cpus {
            0 => Amounts::new(),
            cpus => Amounts::from([(Name::CPUS, Fixed::units(cpus))]),
        };
        let quota = |(role, guarantee, limit): &(&str, u64, u64)| {
            let quota = Quota {
                guarantees: amounts(*guarantee),
                limits: amounts(*limit),
            };
            (Role::parse(role).unwrap(), quota)
        };
        set.iter().map(quota).collect()
    }

    fn refused(set: &[(&str, u64, u64)]) -> String {
        check(&quotas(set)).unwrap_err().to_string()
    }

    #[test]
    fn a_role_is_not_promised_more_than_it_may_have() {
        assert_eq!(
            refused(&[("eng", 4, 2)]),
            "role eng would be promised cpus 4 but limited to 2, with what is promised to roles \
             below it; raise the limit or promise less"
        );
        assert!(refused(&[("eng", 0, 2), ("eng/web/api", 3, 0)]).contains("role eng would be"));
        assert_eq!(check(&quotas(&[("eng", 2, 2), ("eng/web", 2, 0)])), Ok(()));
    }

    #[test]
    fn children_are_promised_no_more_than_their_parent() {
        let told = refused(&[("eng", 4, 0), ("eng/a", 3, 0), ("eng/b", 2, 0)]);
        assert!(
            told.contains("promised cpus 5 in sum, more than the 4 of eng itself"),
            "{told}"
        );
        // A parent that promises nothing of its own promises what its children are.
        assert_eq!(check(&quotas(&[("eng/a", 3, 0), ("eng/b", 2, 0)])), Ok(()));
    }

    #[test]
    fn no_role_may_have_more_than_its_ancestors() {
        let told = refused(&[("eng", 0, 4), ("eng/web/api", 0, 5)]);
        assert!(told.contains("above the 4 of its ancestor eng"), "{told}");
    }

    #[test]
    fn guarantees_of_children_count_once() {
        let set = quotas(&[("eng", 4, 0), ("eng/a", 3, 0), ("ops/x", 2, 0)]);
        let sum = promised(&set).get(&Name::CPUS).copied();
        assert_eq!(sum, Some(Fixed::units(6)));
    }
}
