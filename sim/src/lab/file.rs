//! A scenario file: what it may say, and what is refused.

use std::collections::BTreeSet;

use allotment_types::{Resources, Role};
use serde::Deserialize;

use super::amount::{Distribution, Number, Span};
use super::workload::{self, Preset, TracedJob};

/// More agents than this do not fit in memory beside their tasks.
const AGENTS_MAX: usize = 100_000;
/// As many frameworks as Mesos' own allocator benchmark has, and some more.
const FRAMEWORKS_MAX: usize = 10_000;

/// An experiment, as its TOML file describes it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabScenario {
    /// What every random choice follows from; the command line may name another.
    #[serde(default = "one")]
    pub seed: u64,
    /// How long jobs arrive.
    pub time: Span,
    /// How long the report looks on afterwards, until every job is done; twice `time` when absent.
    pub patience: Option<Span>,
    /// How often the cluster is looked at; a 200th of `time` when absent.
    pub sample: Option<Span>,
    /// How often it is looked whether somebody waits although there is room; never when absent.
    pub starvation_sample: Option<Span>,
    /// The allocation module, by its name.
    #[serde(default = "drf")]
    pub allocator: String,
    /// Its configuration, as `allot master --allocator-config` takes it.
    #[serde(default)]
    pub allocator_config: serde_json::Value,
    /// How long an offer stands; the master's default when absent.
    pub offer_timeout: Option<Span>,
    /// The machines.
    pub agents: Vec<AgentGroup>,
    /// Roles that are not as every role is.
    #[serde(default)]
    pub roles: Vec<RoleSettings>,
    /// Who uses the machines.
    pub frameworks: Vec<FrameworkGroup>,
}

/// Machines of one kind.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentGroup {
    /// How many.
    #[serde(default = "one_machine")]
    pub count: usize,
    /// What each has, as `cpus:4;mem:16384`.
    #[serde(deserialize_with = "resources")]
    pub resources: Resources,
}

/// How a role is set.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleSettings {
    /// Its name.
    pub name: String,
    /// Its shares count `1 / weight`.
    #[serde(default = "weight_one")]
    pub weight: f64,
    /// It never holds more than this.
    #[serde(default, deserialize_with = "some_resources")]
    pub limit: Option<Resources>,
    /// This much is kept for it.
    #[serde(default, deserialize_with = "some_resources")]
    pub guarantee: Option<Resources>,
}

/// How a framework behaves towards offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Uses what fits its tasks and declines the rest.
    Greedy,
    /// Takes only offers of a certain size.
    Picky,
    /// Greedy, with jobs that come in bursts.
    Bursty,
    /// Wants offers and never uses one.
    Idle,
}

/// Frameworks of one kind.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameworkGroup {
    /// Its name in the report; each framework's name adds a number.
    pub name: String,
    /// How many.
    #[serde(default = "one_machine")]
    pub count: usize,
    /// Their role; the group's name when absent.
    pub role: Option<String>,
    /// How they behave.
    #[serde(default = "greedy")]
    pub policy: Policy,
    /// Picky: the least that an offer must hold.
    #[serde(default, deserialize_with = "some_resources")]
    pub at_least: Option<Resources>,
    /// Bursty: how long a burst is.
    pub burst: Option<Span>,
    /// Bursty: how long the pause after it is.
    pub pause: Option<Span>,
    /// Idle: keeps offers until the master takes them back, rather than declining them.
    #[serde(default)]
    pub holds_offers: bool,
    /// For how long what it declines is not offered again; Mesos' 5 s when absent.
    pub refuse_for: Option<Span>,
    /// A load that is known by name.
    pub workload: Option<Preset>,
    /// A file of jobs: CSV with the columns `submit_s,tasks,duration_s,cpus,mem_mib`.
    pub trace: Option<String>,
    /// What one task needs.
    #[serde(default, deserialize_with = "some_resources")]
    pub task: Option<Resources>,
    /// The time between two jobs of one framework.
    pub arrivals: Option<Distribution<Span>>,
    /// Tasks per job.
    pub tasks: Option<Distribution<Number>>,
    /// How long a task runs.
    pub duration: Option<Distribution<Span>>,
    /// The jobs of `trace`, once it is read.
    #[serde(skip)]
    pub traced: Vec<TracedJob>,
}

/// What is wrong with a scenario file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScenarioError {
    /// It is no TOML, or a key or value is none that a scenario has.
    #[error("{0}")]
    Syntax(String),
    /// It reads well and makes no sense.
    #[error("{place}: {problem}")]
    Nonsense {
        /// Which part of it.
        place: String,
        /// With both sides of the comparison.
        problem: String,
    },
}

fn nonsense(place: impl Into<String>, problem: impl Into<String>) -> ScenarioError {
    ScenarioError::Nonsense {
        place: place.into(),
        problem: problem.into(),
    }
}

impl LabScenario {
    /// Reads a scenario file; `read` fetches the trace files that it names.
    ///
    /// # Errors
    /// With the place and both values of what does not go together.
    pub fn parse(
        text: &str,
        read: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Self, ScenarioError> {
        let mut scenario: Self =
            toml::from_str(text).map_err(|error| ScenarioError::Syntax(error.to_string()))?;
        for group in &mut scenario.frameworks {
            if let Some(path) = &group.trace {
                let place = format!("trace {path:?} of framework {:?}", group.name);
                let text = read(path).map_err(|error| nonsense(&place, error))?;
                group.traced =
                    workload::parse_trace(&text).map_err(|error| nonsense(&place, error))?;
            }
        }
        scenario.validate()?;
        Ok(scenario)
    }

    /// Machines in all.
    pub fn n_agents(&self) -> usize {
        self.agents.iter().map(|group| group.count).sum()
    }

    /// Frameworks in all.
    pub fn n_frameworks(&self) -> usize {
        self.frameworks.iter().map(|group| group.count).sum()
    }

    /// How often the cluster is looked at.
    pub(super) fn sample(&self) -> std::time::Duration {
        self.sample.map_or(self.time.0 / 200, |sample| sample.0)
    }

    fn validate(&self) -> Result<(), ScenarioError> {
        if self.time.0.is_zero() {
            return Err(nonsense("time", "0s leaves no time for a job to arrive"));
        }
        if let Some(sample) = self.sample {
            if sample > self.time {
                let problem = format!("{sample} must not exceed time {}", self.time);
                return Err(nonsense("sample", problem));
            }
            if sample.0 < self.time.0 / 100_000 {
                let problem = format!("{sample} is less than a 100,000th of time {}", self.time);
                return Err(nonsense("sample", problem));
            }
        }
        bounded("agents", self.n_agents(), AGENTS_MAX)?;
        bounded("frameworks", self.n_frameworks(), FRAMEWORKS_MAX)?;
        for (i, group) in self.agents.iter().enumerate() {
            if group.resources.cpus().is_zero() && group.resources.mem().is_zero() {
                let problem = format!("{} has neither cpus nor mem", group.resources);
                return Err(nonsense(format!("agents group {}", i + 1), problem));
            }
        }
        self.validate_roles()?;
        let mut names = BTreeSet::new();
        for group in &self.frameworks {
            let place = format!("framework {:?}", group.name);
            if !names.insert(&group.name) {
                return Err(nonsense(place, "two groups have this name"));
            }
            group.validate(self).map_err(|p| nonsense(place, p))?;
        }
        Ok(())
    }

    fn validate_roles(&self) -> Result<(), ScenarioError> {
        let mut names = BTreeSet::new();
        for role in &self.roles {
            let place = format!("role {:?}", role.name);
            Role::parse(&role.name).map_err(|error| nonsense(&place, error.to_string()))?;
            if !names.insert(&role.name) {
                return Err(nonsense(place, "is set twice"));
            }
            if !(0.001..=1_000_000.0).contains(&role.weight) {
                let problem = format!("weight {} must lie between 0.001 and 1000000", role.weight);
                return Err(nonsense(place, problem));
            }
            if let (Some(limit), Some(guarantee)) = (&role.limit, &role.guarantee) {
                for (name, promised) in guarantee.scalars() {
                    let most = limit.scalar(name);
                    if limit.scalars().any(|(n, _)| n == name) && promised > most {
                        let problem = format!(
                            "guarantee {name}:{promised} must not exceed limit {name}:{most}"
                        );
                        return Err(nonsense(place, problem));
                    }
                }
            }
        }
        Ok(())
    }
}

fn bounded(what: &str, count: usize, most: usize) -> Result<(), ScenarioError> {
    if count == 0 {
        return Err(nonsense(what, "there must be at least one"));
    }
    if count > most {
        return Err(nonsense(what, format!("{count} are more than {most}")));
    }
    Ok(())
}

impl FrameworkGroup {
    /// The name of their role.
    pub fn role(&self) -> &str {
        self.role.as_deref().unwrap_or(&self.name)
    }

    fn validate(&self, scenario: &LabScenario) -> Result<(), String> {
        Role::parse(self.role()).map_err(|error| error.to_string())?;
        self.validate_policy()?;
        let sources = [
            ("workload", self.workload.is_some()),
            ("trace", self.trace.is_some()),
            ("arrivals", self.arrivals.is_some()),
        ];
        let named: Vec<_> = sources
            .iter()
            .filter(|(_, there)| *there)
            .map(|(name, _)| *name)
            .collect();
        match (self.policy, named.as_slice()) {
            (Policy::Idle, []) | (_, [_]) => {}
            (Policy::Idle, [..]) => {
                return Err(format!(
                    "policy \"idle\" uses nothing, but {} is given",
                    named.join(" and ")
                ));
            }
            (_, []) => {
                return Err(
                    "has no load; give one of workload, trace, or arrivals with tasks, duration \
                     and task"
                        .to_owned(),
                );
            }
            (_, [..]) => return Err(format!("{} exclude each other", named.join(" and "))),
        }
        self.validate_load()?;
        for needs in self.load_needs() {
            if !scenario.agents.iter().any(|a| a.resources.contains(&needs)) {
                let largest = scenario.agents.iter().map(|a| &a.resources);
                let largest = largest.max_by_key(|r| (r.cpus(), r.mem()));
                return Err(format!(
                    "a task asks {needs}, but no agent has that much; the largest has {}",
                    largest.map_or_else(String::new, ToString::to_string)
                ));
            }
        }
        Ok(())
    }

    fn validate_policy(&self) -> Result<(), String> {
        let only = |key: &str, there: bool, policy: Policy, name: &str| {
            if there && self.policy != policy {
                Err(format!(
                    "{key} belongs to policy {name:?}, but the policy is {:?}",
                    format!("{:?}", self.policy).to_lowercase()
                ))
            } else {
                Ok(())
            }
        };
        only("at_least", self.at_least.is_some(), Policy::Picky, "picky")?;
        only("burst", self.burst.is_some(), Policy::Bursty, "bursty")?;
        only("pause", self.pause.is_some(), Policy::Bursty, "bursty")?;
        only("holds_offers", self.holds_offers, Policy::Idle, "idle")?;
        match self.policy {
            Policy::Picky if self.at_least.is_none() => {
                Err("policy \"picky\" needs at_least, as in \"cpus:4;mem:8192\"".to_owned())
            }
            Policy::Bursty => match (self.burst, self.pause) {
                (Some(burst), Some(_)) if !burst.0.is_zero() => Ok(()),
                _ => Err("policy \"bursty\" needs burst (above 0s) and pause".to_owned()),
            },
            Policy::Greedy | Policy::Picky | Policy::Idle => Ok(()),
        }
    }

    fn validate_load(&self) -> Result<(), String> {
        if self.arrivals.is_none() {
            let parts = [
                ("tasks", self.tasks.is_some()),
                ("duration", self.duration.is_some()),
                ("task", self.task.is_some()),
            ];
            return match parts.iter().find(|(_, there)| *there) {
                Some((key, _)) => Err(format!("{key} goes with arrivals, and there are none")),
                None => Ok(()),
            };
        }
        let of = |key: &str, checked: Option<Result<(), String>>| match checked {
            None => Err(format!("arrivals need {key} beside them")),
            Some(checked) => checked.map_err(|problem| format!("{key}: {problem}")),
        };
        of("arrivals", self.arrivals.as_ref().map(Distribution::check))?;
        of("tasks", self.tasks.as_ref().map(Distribution::check))?;
        of("duration", self.duration.as_ref().map(Distribution::check))?;
        of("task", self.task.as_ref().map(check_task))
    }

    /// What single tasks of this group ask.
    fn load_needs(&self) -> Vec<Resources> {
        let traced = self.traced.iter().map(|job| job.needs.clone());
        let preset = self.workload.map(Preset::needs);
        traced.chain(preset).chain(self.task.clone()).collect()
    }
}

fn check_task(task: &Resources) -> Result<(), String> {
    if task.cpus().is_zero() && task.mem().is_zero() {
        return Err(format!("{task} asks neither cpus nor mem"));
    }
    Ok(())
}

fn resources<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Resources, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}")))
}

fn some_resources<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Resources>, D::Error> {
    resources(deserializer).map(Some)
}

fn one() -> u64 {
    1
}

fn one_machine() -> usize {
    1
}

fn weight_one() -> f64 {
    1.0
}

fn drf() -> String {
    "drf".to_owned()
}

fn greedy() -> Policy {
    Policy::Greedy
}
