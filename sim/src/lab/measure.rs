//! Looking at a running experiment, and summing up.

use allotment_allocator::Allocator;
use allotment_types::{Resources, Role, Timestamp};

use super::file::LabScenario;
use super::report::{
    Fairness, GroupReport, LabReport, Moment, Percentiles, ResourceReport, RoleReport,
};
use super::starved::Starved;
use super::tenant::Tenant;
use crate::world::World;

/// What one role adds up to.
#[derive(Debug)]
struct RoleSum {
    role: Role,
    weight: f64,
    share: Mean,
    share_while_waiting: Mean,
    offered_unused: Mean,
}

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Measure<'a> {
    scenario: &'a LabScenario,
    /// Which group each framework is of.
    groups: Vec<usize>,
    /// Which role each group is in.
    group_roles: Vec<usize>,
    roles: Vec<RoleSum>,
    total: Resources,
    cpus: Use,
    mem: Use,
    roles_jain: Mean,
    frameworks_jain: Mean,
    moments: Vec<Moment>,
}

impl<'a> Measure<'a> {
    /// `groups`: which group each framework of the world is of, in their order.
    pub(super) fn new(scenario: &'a LabScenario, groups: Vec<usize>) -> Self {
        let mut roles: Vec<RoleSum> = Vec::new();
        let mut group_roles = Vec::new();
        for group in &scenario.frameworks {
            let Ok(role) = Role::parse(group.role()) else {
                continue;
            };
            let place = roles.iter().position(|sum| sum.role == role);
            group_roles.push(place.unwrap_or(roles.len()));
            if place.is_none() {
                let settings = scenario.roles.iter().find(|r| r.name == role.as_str());
                roles.push(RoleSum {
                    role,
                    weight: settings.map_or(1.0, |settings| settings.weight),
                    share: Mean::default(),
                    share_while_waiting: Mean::default(),
                    offered_unused: Mean::default(),
                });
            }
        }
        let mut total = Resources::EMPTY;
        for group in &scenario.agents {
            for _ in 0..group.count {
                total.add(&group.resources);
            }
        }
        Self {
            scenario,
            groups,
            group_roles,
            roles,
            total,
            cpus: Use::default(),
            mem: Use::default(),
            roles_jain: Mean::default(),
            frameworks_jain: Mean::default(),
            moments: Vec::new(),
        }
    }

    fn role_of(&self, framework: usize) -> Option<usize> {
        self.group_roles.get(*self.groups.get(framework)?).copied()
    }

    /// Looks at the cluster as it is now.
    pub(super) fn look(&mut self, world: &World) {
        let mut used = vec![Resources::EMPTY; self.roles.len()];
        let mut waiting = vec![0; self.roles.len()];
        // Per role, the shares of its frameworks that wait.
        let mut shares: Vec<Vec<f64>> = vec![Vec::new(); self.roles.len()];
        for (i, tenant) in world.tenants().enumerate() {
            let Some(role) = self.role_of(i) else {
                continue;
            };
            used[role].add(tenant.used());
            waiting[role] += tenant.n_waiting();
            if tenant.n_waiting() > 0 {
                shares[role].push(dominant(tenant.used(), &self.total));
            }
        }
        let all: Resources = used.iter().fold(Resources::EMPTY, |sum, r| sum.plus(r));
        let waiting_all = waiting.iter().sum();
        let moment = Moment {
            at: world.now().as_secs_f64(),
            cpus: part(all.cpus().as_f64(), self.total.cpus().as_f64()),
            mem: part(all.mem().as_f64(), self.total.mem().as_f64()),
            waiting: waiting_all,
            shares: self
                .roles
                .iter()
                .zip(&used)
                .map(|(sum, used)| (sum.role.to_string(), dominant(used, &self.total)))
                .collect(),
        };
        if world.now() <= Timestamp::ZERO + self.scenario.time.0 {
            self.cpus.look(moment.cpus, waiting_all > 0);
            self.mem.look(moment.mem, waiting_all > 0);
            self.look_at_roles(world.allocator(), &used, &waiting);
            let several = shares.iter().filter(|shares| shares.len() > 1);
            for index in several.filter_map(|shares| jain(shares)) {
                self.frameworks_jain.add(index);
            }
        }
        self.moments.push(moment);
    }

    fn look_at_roles(&mut self, allocator: &dyn Allocator, used: &[Resources], waiting: &[usize]) {
        let mut rivals = Vec::new();
        for ((sum, used), waiting) in self.roles.iter_mut().zip(used).zip(waiting) {
            let share = dominant(used, &self.total);
            sum.share.add(share);
            let held = allocator.role_share(&sum.role).as_f64();
            sum.offered_unused.add((held - share).max(0.0));
            if *waiting > 0 {
                sum.share_while_waiting.add(share);
                rivals.push(share / sum.weight);
            }
        }
        if rivals.len() > 1
            && let Some(index) = jain(&rivals)
        {
            self.roles_jain.add(index);
        }
    }

    /// Sums up.
    pub(super) fn report(self, seed: u64, world: &World, starved: &Starved) -> LabReport {
        let now = world.now();
        let groups = self.scenario.frameworks.iter().enumerate();
        let groups = groups.map(|(g, group)| {
            let tenants = world.tenants().zip(&self.groups);
            let tenants: Vec<&Tenant> = tenants
                .filter(|(_, of)| **of == g)
                .map(|(tenant, _)| tenant)
                .collect();
            let jobs = || tenants.iter().flat_map(|tenant| tenant.jobs());
            let took = jobs().filter_map(|job| {
                let done = job.done?;
                Some(done.since(job.submitted).as_secs_f64())
            });
            let took: Vec<f64> = took.collect();
            let waits = tenants.iter().flat_map(|tenant| tenant.waits());
            let waits: Vec<f64> = waits.copied().collect();
            let oldest = tenants.iter().filter_map(|tenant| tenant.waits_since());
            let oldest = oldest.map(|since| now.since(since).as_secs_f64());
            let of_group = self.groups.iter().enumerate().filter(|(_, of)| **of == g);
            let longest_starved = of_group.filter_map(|(i, _)| starved.longest(i)).max();
            let longest_wait = waits.iter().copied().chain(oldest).fold(0.0, f64::max);
            GroupReport {
                name: group.name.clone(),
                role: group.role().to_owned(),
                frameworks: group.count,
                jobs: jobs().count(),
                jobs_done: took.len(),
                tasks_run: waits.len(),
                tasks_waiting: tenants.iter().map(|tenant| tenant.n_waiting()).sum(),
                wait: percentiles(waits),
                job: percentiles(took),
                longest_wait,
                longest_starved: longest_starved.map(|longest| longest.as_secs_f64()),
            }
        });
        let roles = self.roles.iter().map(|sum| RoleReport {
            name: sum.role.to_string(),
            weight: sum.weight,
            share_mean: sum.share.mean().unwrap_or(0.0),
            share_while_waiting: sum.share_while_waiting.mean(),
            share_peak: sum.share.most,
            offered_unused: sum.offered_unused.mean().unwrap_or(0.0),
        });
        LabReport {
            seed,
            allocator: self.scenario.allocator.clone(),
            agents: self.scenario.n_agents(),
            frameworks: self.scenario.n_frameworks(),
            time: self.scenario.time.0.as_secs_f64(),
            ended_at: now.as_secs_f64(),
            steps: world.trace.steps(),
            utilisation: vec![self.cpus.report("cpus"), self.mem.report("mem")],
            groups: groups.collect(),
            roles: roles.collect(),
            fairness: Fairness {
                roles_mean: self.roles_jain.mean(),
                roles_least: self.roles_jain.least,
                frameworks_mean: self.frameworks_jain.mean(),
                frameworks_least: self.frameworks_jain.least,
            },
            moments: self.moments,
        }
    }
}

/// The use of one resource.
#[derive(Debug, Default)]
struct Use {
    all: Mean,
    while_waiting: Mean,
}

impl Use {
    fn look(&mut self, part: f64, somebody_waits: bool) {
        self.all.add(part);
        if somebody_waits {
            self.while_waiting.add(part);
        }
    }

    fn report(&self, resource: &str) -> ResourceReport {
        ResourceReport {
            resource: resource.to_owned(),
            mean: self.all.mean().unwrap_or(0.0),
            mean_while_waiting: self.while_waiting.mean().unwrap_or(0.0),
            peak: self.all.most,
        }
    }
}

#[derive(Debug, Default)]
struct Mean {
    sum: f64,
    n: f64,
    least: Option<f64>,
    most: f64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.n += 1.0;
        self.least = Some(self.least.map_or(value, |least| least.min(value)));
        self.most = self.most.max(value);
    }

    fn mean(&self) -> Option<f64> {
        (self.n > 0.0).then(|| self.sum / self.n)
    }
}

fn part(of: f64, total: f64) -> f64 {
    if total > 0.0 { of / total } else { 0.0 }
}

/// The largest part of the total that is used of any scalar.
fn dominant(used: &Resources, total: &Resources) -> f64 {
    let parts = used.scalars();
    parts
        .map(|(name, amount)| part(amount.as_f64(), total.scalar(name).as_f64()))
        .fold(0.0, f64::max)
}

/// `None` when nobody has anything.
fn jain(shares: &[f64]) -> Option<f64> {
    let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for share in shares {
        n += 1.0;
        sum += share;
        squares += share * share;
    }
    (squares > 0.0).then(|| sum * sum / (n * squares))
}

fn percentiles(mut values: Vec<f64>) -> Percentiles {
    values.sort_by(f64::total_cmp);
    let of = |part| crate::sharing::quantile(&values, part);
    Percentiles {
        p50: of(0.5),
        p90: of(0.9),
        p99: of(0.99),
        max: of(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jains_index_is_one_for_equals_and_one_nth_for_a_monopoly() {
        assert_eq!(jain(&[0.25, 0.25, 0.25]), Some(1.0));
        assert_eq!(jain(&[1.0, 0.0, 0.0, 0.0]), Some(0.25));
        assert_eq!(jain(&[0.0, 0.0]), None);
    }

    #[test]
    fn the_dominant_share_is_the_largest_part() {
        let of = |text: &str| text.parse::<Resources>().unwrap();
        let share = dominant(&of("cpus:2;mem:400"), &of("cpus:10;mem:1000"));
        assert!((share - 0.4).abs() < 1e-12);
    }
}
