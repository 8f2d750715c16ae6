//! Who gets what over hours, and how long anybody waits: the allocation module alone on virtual
//! time, with frameworks of very different manners.
//!
//! - *greedy*: always wants more, and takes whatever it is offered.
//! - *picky*: always wants more, but only whole halves of machines of one rack.
//! - *bursty*: wants much for some minutes, then nothing, and declines in between.
//! - *idle*: wants nothing and never says so; it declines, as frameworks do.
//!
//! Nobody suppresses. Frameworks either say nothing of what they want, as those written for Mesos,
//! so that the module has nothing but declines to go by; or they state their demand.
//! A framework *waits* while its next task would fit into what no task uses on some machine (be it
//! free or offered to somebody else) and it has no offer in hand that fits.

mod manners;
mod plot;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use allotment_allocator::{
    AgentSpec, Allocation, Allocator, Drf, FrameworkSpec, Grant, Recovery, RoleSpec, Settings,
};
use allotment_types::{AgentId, FrameworkId, IdError, Resources, Role, Timestamp};

use self::manners::Manner;

/// How often shares are looked at.
const SAMPLE: Duration = Duration::from_secs(10);
/// From offer to answer.
const ANSWER: Duration = Duration::from_millis(100);
/// Mesos' default for what is declined.
const REFUSE: Duration = Duration::from_secs(5);

/// Whether frameworks say what they want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// They decline what they do not want, and no more.
    Declines,
    /// They state a demand whenever it changes, of holes too, and picky ones a constraint.
    Demands,
}

/// How one framework fared.
#[derive(Debug, Clone, PartialEq)]
pub struct Fared {
    /// Its name, which tells its manner.
    pub name: String,
    /// The longest it waited.
    pub waited_most: Duration,
    /// Its dominant share over time, on average.
    pub share_mean: f64,
    /// Offers that it got.
    pub offers: u64,
    /// Of them declined as a whole.
    pub declined: u64,
    /// Tasks that it ran.
    pub tasks: u64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub struct FairnessReport {
    /// The root seed.
    pub seed: u64,
    /// Machines.
    pub agents: usize,
    /// How long.
    pub lasted: Duration,
    /// When, and the dominant share of each framework.
    pub shares: Vec<(Timestamp, Vec<f64>)>,
    /// The frameworks.
    pub fared: Vec<Fared>,
    /// Rounds of the module.
    pub rounds: u64,
}

impl FairnessReport {
    /// The numbers as plain text.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{:10} {:>10} {:>8} {:>8} {:>9} {:>12}\n",
            "framework", "mean share", "offers", "declined", "tasks", "waited most"
        );
        for f in &self.fared {
            table += &format!(
                "{:10} {:>8.1} % {:>8} {:>8} {:>9} {:>10.1} s\n",
                f.name,
                f.share_mean * 100.0,
                f.offers,
                f.declined,
                f.tasks,
                f.waited_most.as_secs_f64()
            );
        }
        table
    }

    /// Shares over time, as an SVG document.
    pub fn svg(&self) -> String {
        plot::svg(self)
    }
}

#[derive(Debug)]
enum Event {
    Answer(Allocation),
    Ends(AgentId, Grant),
    Look,
}

struct Framework {
    manner: Manner,
    role: Role,
    /// How many tasks its stated demand is for.
    stated: Option<u32>,
    waits_since: Option<Timestamp>,
    /// Fitting offers that it has not answered yet.
    in_hand: usize,
    fared: Fared,
}

struct Play {
    speech: Speech,
    module: Drf,
    now: Timestamp,
    events: BTreeMap<(Timestamp, u64), Event>,
    n_events: u64,
    frameworks: BTreeMap<FrameworkId, Framework>,
    /// What no task uses, by agent: free, or offered.
    unused: BTreeMap<AgentId, Resources>,
    /// The agents of the rack that picky frameworks want.
    rack: BTreeSet<AgentId>,
    rounds: u64,
}

/// Plays `lasting` of virtual time on `n_agents` machines of 16 cores and 64 GiB. The same
/// arguments give the same report.
///
/// # Errors
/// A sentence, should an id be impossible.
pub fn fairness_experiment(
    seed: u64,
    n_agents: usize,
    lasting: Duration,
    speech: Speech,
    settings: Settings,
) -> Result<FairnessReport, String> {
    let mut play = Play::new(seed, n_agents, speech, settings).map_err(|e| e.to_string())?;
    let mut shares = Vec::new();
    let mut look = Timestamp::ZERO;
    while look < Timestamp::ZERO + lasting {
        look = look + SAMPLE;
        play.run_until(look);
        shares.push((look, play.shares()));
    }
    let samples = u32::try_from(shares.len()).map_or(1.0, f64::from).max(1.0);
    let mut fared: Vec<Fared> = play.frameworks.into_values().map(|f| f.fared).collect();
    for (n, fared) in fared.iter_mut().enumerate() {
        let of_it = shares.iter().filter_map(|(_, all)| all.get(n));
        fared.share_mean = of_it.sum::<f64>() / samples;
    }
    Ok(FairnessReport {
        seed,
        agents: n_agents,
        lasted: lasting,
        shares,
        fared,
        rounds: play.rounds,
    })
}

impl Play {
    fn new(
        seed: u64,
        n_agents: usize,
        speech: Speech,
        settings: Settings,
    ) -> Result<Self, IdError> {
        let mut play = Self {
            speech,
            module: Drf::new(settings),
            now: Timestamp::ZERO,
            events: BTreeMap::new(),
            n_events: 0,
            frameworks: BTreeMap::new(),
            unused: BTreeMap::new(),
            rack: BTreeSet::new(),
            rounds: 0,
        };
        for (name, manner) in Manner::all(seed) {
            let id = FrameworkId::parse(name)?;
            let role = Role::parse(name).unwrap_or_else(|_| Role::star());
            let constraints = (speech == Speech::Demands)
                .then(|| manner.constraints())
                .flatten();
            let wanted = RoleSpec {
                constraints,
                ..RoleSpec::default()
            };
            let spec = FrameworkSpec {
                roles: [(role.clone(), wanted)].into(),
                ..FrameworkSpec::default()
            };
            play.module.add_framework(&id, spec);
            let framework = Framework {
                manner,
                role,
                stated: None,
                waits_since: None,
                in_hand: 0,
                fared: Fared {
                    name: name.to_owned(),
                    waited_most: Duration::ZERO,
                    share_mean: 0.0,
                    offers: 0,
                    declined: 0,
                    tasks: 0,
                },
            };
            play.frameworks.insert(id, framework);
        }
        for n in 0..n_agents {
            let id = AgentId::parse(&format!("a{n}"))?;
            let (total, on_rack) = (manners::machine(), n % 5 == 0);
            let spec = AgentSpec {
                total: total.clone(),
                attributes: manners::attributes(on_rack),
                ..AgentSpec::default()
            };
            play.module.add_agent(&id, spec);
            play.unused.insert(id.clone(), total);
            if on_rack {
                play.rack.insert(id);
            }
        }
        play.at(Duration::ZERO, Event::Look);
        Ok(play)
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.n_events += 1;
        self.events.insert((self.now + after, self.n_events), event);
    }

    fn run_until(&mut self, end: Timestamp) {
        loop {
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let deadline = self.module.next_deadline();
            let Some(next) = event.into_iter().chain(deadline).min() else {
                break;
            };
            if next > end {
                break;
            }
            self.now = next.max(self.now);
            while let Some(entry) = self.events.first_entry()
                && entry.key().0 <= self.now
            {
                let event = entry.remove();
                self.happens(event);
            }
            self.state_demands();
            self.round();
            self.note_waits();
        }
        self.now = end;
        self.note_waits();
    }

    fn happens(&mut self, event: Event) {
        match event {
            // What frameworks want changes with the time alone.
            Event::Look => self.at(Duration::from_secs(1), Event::Look),
            Event::Ends(agent, grant) => {
                if let Some(unused) = self.unused.get_mut(&agent) {
                    unused.add(&grant.resources);
                }
                self.module
                    .recover(self.now, &agent, &grant, Recovery::Ended);
                if let Some(framework) = self.frameworks.get_mut(&grant.framework) {
                    framework.manner.ended();
                }
            }
            Event::Answer(offer) => self.answer(&offer),
        }
    }

    fn state_demands(&mut self) {
        if self.speech == Speech::Declines {
            return;
        }
        for (id, framework) in &mut self.frameworks {
            let wanted = framework.manner.tasks_wanted(self.now);
            // Offers on their way are part of it already.
            if framework.stated != Some(wanted) && framework.in_hand == 0 {
                framework.stated = Some(wanted);
                let demand = framework.manner.demand(wanted);
                self.module.set_demand(id, &framework.role, Some(demand));
            }
        }
    }

    fn round(&mut self) {
        self.rounds += 1;
        for offer in self.module.allocate(self.now).allocations {
            if let Some(framework) = self.frameworks.get_mut(&offer.framework) {
                framework.fared.offers += 1;
                let on_rack = self.rack.contains(&offer.agent);
                if framework.manner.wants(self.now, on_rack, &offer.resources) {
                    framework.in_hand += 1;
                }
            }
            self.at(ANSWER, Event::Answer(offer));
        }
    }

    fn answer(&mut self, offer: &Allocation) {
        let Some(framework) = self.frameworks.get_mut(&offer.framework) else {
            return;
        };
        framework.in_hand = framework.in_hand.saturating_sub(1);
        // What was offered is no longer demanded.
        framework.stated = None;
        let on_rack = self.rack.contains(&offer.agent);
        let mut left = offer.resources.clone();
        let mut launched = Vec::new();
        while framework.manner.wants(self.now, on_rack, &left) {
            let (task, lasts) = framework.manner.launch();
            left.subtract(&task);
            launched.push((task, lasts));
        }
        framework.fared.tasks += launched.len() as u64;
        framework.fared.declined += u64::from(launched.is_empty());
        let grant = |resources| Grant {
            framework: offer.framework.clone(),
            role: offer.role.clone(),
            resources,
        };
        let recovery = Recovery::Declined {
            refuse_for: REFUSE,
            used_some: !launched.is_empty(),
        };
        self.module
            .recover(self.now, &offer.agent, &grant(left), recovery);
        for (task, lasts) in launched {
            if let Some(unused) = self.unused.get_mut(&offer.agent) {
                unused.subtract(&task);
            }
            self.at(lasts, Event::Ends(offer.agent.clone(), grant(task)));
        }
    }

    /// Whoever waits no more has waited until now.
    fn note_waits(&mut self) {
        let (unused, rack, now) = (&self.unused, &self.rack, self.now);
        for framework in self.frameworks.values_mut() {
            let manner = &framework.manner;
            let mut machines = unused.iter();
            let fits = framework.in_hand == 0
                && machines.any(|(id, unused)| manner.wants(now, rack.contains(id), unused));
            let since = framework.waits_since.unwrap_or(now);
            let waited = now.since(since);
            framework.fared.waited_most = framework.fared.waited_most.max(waited);
            framework.waits_since = fits.then_some(since);
        }
    }

    fn shares(&self) -> Vec<f64> {
        let ids = self.frameworks.keys();
        ids.map(|id| self.module.framework_share(id).as_f64())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_hours(speech: Speech) -> FairnessReport {
        let lasting = Duration::from_secs(2 * 3600);
        fairness_experiment(1, 20, lasting, speech, Settings::default()).expect("ids are valid")
    }

    #[test]
    fn nobody_whose_task_fits_waits_longer_than_a_filter_lasts_or_a_hole_is_kept() {
        let hole = Settings::default().hole_timeout;
        let filter = REFUSE + ANSWER * 2;
        for (speech, bound) in [(Speech::Declines, filter), (Speech::Demands, hole)] {
            let report = two_hours(speech);
            for fared in &report.fared {
                assert!(fared.waited_most <= bound, "{}", report.table());
                let idle = fared.name.starts_with("idle");
                assert_eq!(fared.tasks == 0, idle, "{}", report.table());
            }
        }
    }

    #[test]
    fn who_states_a_demand_declines_only_what_came_too_late() {
        let report = two_hours(Speech::Demands);
        let sum = |of: fn(&Fared) -> u64| report.fared.iter().map(of).sum::<u64>();
        let (offers, declined) = (sum(|fared| fared.offers), sum(|fared| fared.declined));
        assert!(declined * 100 <= offers, "{}", report.table());
        let plain = two_hours(Speech::Declines);
        let declined: u64 = plain.fared.iter().map(|fared| fared.declined).sum();
        assert!(declined > offers, "{}", plain.table());
    }

    #[test]
    fn stepping_aside_from_crumbs_costs_large_tasks_little() {
        let never_aside = Settings {
            decline_patience: u32::MAX,
            ..Settings::default()
        };
        let lasting = Duration::from_secs(2 * 3600);
        let without = fairness_experiment(1, 20, lasting, Speech::Declines, never_aside)
            .expect("ids are valid");
        let with = two_hours(Speech::Declines);
        let share = |report: &FairnessReport| {
            let mut fared = report.fared.iter();
            let large = fared.find(|fared| fared.name == "greedy-2");
            large.map_or(0.0, |fared| fared.share_mean)
        };
        let (with, without) = (share(&with), share(&without));
        assert!(with > 0.8 * without, "{with} with, {without} without");
    }

    #[test]
    fn the_same_seed_gives_the_same_report() {
        assert_eq!(two_hours(Speech::Demands), two_hours(Speech::Demands));
    }
}
