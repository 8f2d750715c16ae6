//! Weights and quotas: what operators set of roles, checked and applied.
//!
//! Whether quotas go together is [`quotas`]'; who gets what because of them is the allocation
//! module's.

mod quotas;

use std::collections::BTreeMap;

use allotment_allocator::{Amounts, Quota};
use allotment_proto::allot;
use allotment_types::{AgentId, Fixed, Name, Resources, Role};

use super::Core;
use super::io::Refusal;
use super::out::About;
use super::registry::{QuotaRecord, Record, Registry, WeightRecord};

/// The least weight, in thousandths: shares are divided by it.
const WEIGHT_MIN: f64 = 0.001;
/// The largest weight; beyond, two roles would have to differ by more than a million.
const WEIGHT_MAX: f64 = 1_000_000.0;
/// How many roles may have a weight or quota of their own; each costs memory in every master.
const ROLES_MAX: usize = 10_000;
/// The most names in one quota.
const NAMES_MAX: usize = 100;

/// What was set, by role.
#[derive(Debug, Default)]
pub(super) struct Shares {
    pub(super) weights: BTreeMap<Role, u64>,
    pub(super) quotas: BTreeMap<Role, Quota>,
}

impl Shares {
    /// What an earlier master left. Roles that are none are left out: they were checked when they
    /// were written.
    pub(super) fn from_registry(registry: &Registry) -> Self {
        let amounts = |amounts: &BTreeMap<String, u64>| -> Amounts {
            let amount = |(name, t): (&String, &u64)| {
                (Name::from(name.as_str()), Fixed::from_thousandths(*t))
            };
            amounts.iter().map(amount).collect()
        };
        let role = |role: &String| Role::parse(role).ok();
        let weights = registry.weights.iter();
        let quotas = registry.quotas.iter();
        Self {
            weights: weights.filter_map(|(r, w)| Some((role(r)?, *w))).collect(),
            quotas: quotas
                .filter_map(|(r, record)| {
                    let quota = Quota {
                        guarantees: amounts(&record.guarantees),
                        limits: amounts(&record.limits),
                    };
                    Some((role(r)?, quota))
                })
                .collect(),
        }
    }

    pub(super) fn has_no_quota(&self) -> bool {
        self.quotas.is_empty()
    }
}

/// A role that can have a weight or quota.
fn role(name: &str) -> Result<Role, Refusal> {
    let role = Role::parse(name).map_err(|e| Refusal::Invalid(e.to_string()))?;
    if role == Role::star() {
        return Err(Refusal::Invalid(
            "role `*` is everybody's and has no quota or weight of its own; name another role"
                .to_owned(),
        ));
    }
    Ok(role)
}

fn amounts(views: &[allot::ScalarView], what: &str) -> Result<Amounts, Refusal> {
    let mut amounts = Amounts::new();
    if views.len() > NAMES_MAX {
        return Err(Refusal::Invalid(format!(
            "the {what} names {} resources; at most {NAMES_MAX} are accepted",
            views.len()
        )));
    }
    for view in views {
        let name = super::accept::truncated(&view.name);
        if view.name.is_empty() || view.lot.is_some() {
            return Err(Refusal::Invalid(format!(
                "the {what} {name:?} is no plain resource; name one such as cpus or mem"
            )));
        }
        let amount = Fixed::from_f64(view.value)
            .map_err(|e| Refusal::Invalid(format!("the {what} of {name}: {e}")))?;
        if amounts
            .insert(Name::from(view.name.as_str()), amount)
            .is_some()
        {
            return Err(Refusal::Invalid(format!(
                "the {what} of {name} is given twice; give it once"
            )));
        }
    }
    Ok(amounts)
}

impl Core {
    pub(super) fn apply_shares(&mut self) {
        for (role, weight) in &self.shares.weights {
            self.allocator.set_weight(role, *weight);
        }
        for (role, quota) in &self.shares.quotas {
            self.allocator.set_quota(role, quota.clone());
        }
    }

    pub(super) fn operator_set_weight(
        &mut self,
        request: &allot::SetWeightRequest,
    ) -> Result<allot::RoleView, Refusal> {
        let role = role(&request.role)?;
        let weight = request.weight;
        if !(WEIGHT_MIN..=WEIGHT_MAX).contains(&weight) {
            return Err(Refusal::Invalid(format!(
                "the weight {weight} is out of range; give a number from {WEIGHT_MIN} to \
                 {WEIGHT_MAX}"
            )));
        }
        let thousandths = Fixed::from_f64(weight)
            .map_err(|e| Refusal::Invalid(e.to_string()))?
            .thousandths();
        self.room_for(&role)?;
        if thousandths == 1000 {
            self.shares.weights.remove(&role);
        } else {
            self.shares.weights.insert(role.clone(), thousandths);
        }
        self.out.persist(Record::Weight(WeightRecord {
            role: role.to_string(),
            thousandths,
        }));
        self.allocator.set_weight(&role, thousandths);
        self.out.publish(
            "role-weight",
            About::default(),
            format!("role {role} has weight {weight}"),
        );
        self.rescind_for_weight(&role);
        self.offers.want_round();
        Ok(self.role_view(&role))
    }

    /// Mesos rescinds every offer when the weight of a role in use changes. Only the roles that
    /// compete with this one, siblings and their descendants, have an order that changed.
    fn rescind_for_weight(&mut self, role: &Role) {
        let below = |root: &Role, other: &Role| other == root || root.is_ancestor_of(other);
        let in_use = self
            .frameworks
            .values()
            .any(|f| f.roles.iter().any(|other| below(role, other)));
        if !in_use {
            return;
        }
        let parent = role.parent();
        let competes = |other: &Role| parent.as_ref().is_none_or(|parent| below(parent, other));
        let numbers: Vec<u64> = self
            .offers
            .iter()
            .filter(|(_, offer)| competes(&offer.grant.role))
            .map(|(number, _)| number)
            .collect();
        for number in numbers {
            self.rescind_offer(number);
        }
    }

    pub(super) fn operator_set_quota(
        &mut self,
        request: &allot::SetQuotaRequest,
    ) -> Result<allot::SetQuotaResponse, Refusal> {
        let role = role(&request.role)?;
        let quota = Quota {
            guarantees: amounts(&request.guarantees, "guarantee")?,
            limits: amounts(&request.limits, "limit")?,
        };
        self.room_for(&role)?;
        let mut together = self.shares.quotas.clone();
        let removed = quota == Quota::default();
        if removed {
            together.remove(&role);
        } else {
            together.insert(role.clone(), quota.clone());
        }
        quotas::check(&together).map_err(|fault| Refusal::Precondition(fault.to_string()))?;
        if !request.force() {
            self.check_limit(&role, &quota)?;
        }
        let warnings = self.quota_warnings(&together, &quota);
        self.shares.quotas = together;
        let thousandths = |amounts: &Amounts| {
            let amount =
                |(name, amount): (&Name, &Fixed)| (name.as_str().to_owned(), amount.thousandths());
            amounts.iter().map(amount).collect()
        };
        self.out.persist(Record::Quota(QuotaRecord {
            role: role.to_string(),
            guarantees: thousandths(&quota.guarantees),
            limits: thousandths(&quota.limits),
        }));
        self.allocator.set_quota(&role, quota.clone());
        let message = if removed {
            format!("role {role} has no quota any more")
        } else {
            format!(
                "role {role} is promised {} and limited to {}",
                printed(&quota.guarantees),
                printed(&quota.limits)
            )
        };
        self.out.publish("role-quota", About::default(), message);
        self.rescind_beyond_limit(&role, &quota.limits);
        self.rescind_for_guarantee(&role, &quota.guarantees);
        self.offers.want_round();
        Ok(allot::SetQuotaResponse {
            role: self.role_view(&role),
            warnings,
        })
    }

    fn room_for(&self, role: &Role) -> Result<(), Refusal> {
        let known =
            |role| self.shares.weights.contains_key(role) || self.shares.quotas.contains_key(role);
        let n = self.shares.weights.len().max(self.shares.quotas.len());
        if n >= ROLES_MAX && !known(role) {
            return Err(Refusal::Exhausted(format!(
                "{n} roles have a weight or quota of their own, which is the most; remove one first"
            )));
        }
        Ok(())
    }

    /// What counts against a role's quota and would still count if all its offers came back.
    fn in_use(&self, role: &Role) -> Amounts {
        let mut used = self.allocator.consumed(role);
        for (_, offer) in self.offers.iter() {
            if offer.grant.role == *role || role.is_ancestor_of(&offer.grant.role) {
                for (name, amount) in unreserved(&offer.grant.resources) {
                    if let Some(sum) = used.get_mut(&name) {
                        *sum = sum.saturating_sub(amount);
                    }
                }
            }
        }
        used
    }

    fn check_limit(&self, role: &Role, quota: &Quota) -> Result<(), Refusal> {
        let used = self.in_use(role);
        let over = quota.limits.iter().find_map(|(name, limit)| {
            let used = used.get(name)?;
            (used > limit).then_some((name, limit, used))
        });
        let Some((name, limit, used)) = over else {
            return Ok(());
        };
        let unit = name.unit();
        Err(Refusal::Precondition(format!(
            "role {role} would be limited to {name} {limit}{unit} but uses {used}{unit}; end some \
             of its tasks or reservations first, or set the limit with force, and it gets nothing \
             more until it is below"
        )))
    }

    /// What the cluster cannot keep at present.
    fn quota_warnings(&self, together: &BTreeMap<Role, Quota>, quota: &Quota) -> Vec<String> {
        let mut total = super::Tally::default();
        for agent in self.agents.values().filter(|a| a.is_allocatable()) {
            total.add(&agent.total);
        }
        let promised = quotas::promised(together);
        let mut warnings = Vec::new();
        for name in quota.guarantees.keys() {
            let all = Fixed::from_thousandths(total.get(name));
            let sum = promised.get(name).copied().unwrap_or_default();
            if sum > all {
                let unit = name.unit();
                warnings.push(format!(
                    "the guarantees add up to {name} {sum}{unit} but the cluster has \
                     {all}{unit}; they cannot all be kept until agents join"
                ));
            }
        }
        for (name, limit) in &quota.limits {
            let all = Fixed::from_thousandths(total.get(name));
            if *limit > all {
                let unit = name.unit();
                warnings.push(format!(
                    "the limit of {name} {limit}{unit} is more than the cluster's {all}{unit} and \
                     holds nobody back at present"
                ));
            }
        }
        warnings
    }

    /// Takes back what the role was offered beyond its limit, the oldest offers first.
    fn rescind_beyond_limit(&mut self, role: &Role, limits: &Amounts) {
        let below = |other: &Role| other == role || role.is_ancestor_of(other);
        let numbers: Vec<u64> = self
            .offers
            .iter()
            .filter(|(_, offer)| below(&offer.grant.role))
            .map(|(number, _)| number)
            .collect();
        for number in numbers {
            let consumed = self.allocator.consumed(role);
            let is_over = |(name, limit): (&Name, &Fixed)| {
                consumed.get(name).is_some_and(|consumed| consumed > limit)
            };
            if !limits.iter().any(is_over) {
                return;
            }
            self.rescind_offer(number);
        }
    }

    /// Takes back from others what a guarantee needs and nothing free can give, the oldest offers
    /// first (Mesos: `Master::QuotaHandler::rescindOffers`).
    fn rescind_for_guarantee(&mut self, role: &Role, guarantees: &Amounts) {
        let consumed = self.allocator.consumed(role);
        let mut lacking: Amounts = guarantees
            .iter()
            .map(|(name, promised)| {
                let has = consumed.get(name).copied().unwrap_or_default();
                (name.clone(), promised.saturating_sub(has))
            })
            .collect();
        let offerable: Vec<&AgentId> = self
            .agents
            .values()
            .filter(|agent| agent.is_offerable())
            .map(|agent| &agent.id)
            .collect();
        for id in offerable {
            take(&mut lacking, &self.allocator.free(id));
        }
        let others: Vec<u64> = self
            .offers
            .iter()
            .filter(|(_, offer)| {
                let other = &offer.grant.role;
                other != role && !role.is_ancestor_of(other)
            })
            .map(|(number, _)| number)
            .collect();
        for number in others {
            if lacking.values().all(|amount| amount.is_zero()) {
                return;
            }
            let Some(offer) = self.offers.get(number) else {
                continue;
            };
            let helps = unreserved(&offer.grant.resources)
                .any(|(name, _)| lacking.get(&name).is_some_and(|l| !l.is_zero()));
            if helps {
                let resources = offer.grant.resources.clone();
                take(&mut lacking, &resources);
                self.rescind_offer(number);
            }
        }
    }
}

/// What counts against a quota by being held.
fn unreserved(resources: &Resources) -> impl Iterator<Item = (Name, Fixed)> {
    let plain = resources.filter(|_, lot| lot.reservations().is_empty() && !lot.is_revocable());
    let amounts: Vec<(Name, Fixed)> = plain.scalars().map(|(n, a)| (n.clone(), a)).collect();
    amounts.into_iter()
}

fn take(lacking: &mut Amounts, there: &Resources) {
    for (name, amount) in unreserved(there) {
        if let Some(lack) = lacking.get_mut(&name) {
            *lack = lack.saturating_sub(amount);
        }
    }
}

/// `cpus 4, mem 1024 MiB`, or `nothing`.
pub(super) fn printed(amounts: &Amounts) -> String {
    if amounts.is_empty() {
        return "nothing in particular".to_owned();
    }
    let one = |(name, amount): (&Name, &Fixed)| format!("{name} {amount}{}", name.unit());
    amounts.iter().map(one).collect::<Vec<_>>().join(", ")
}
