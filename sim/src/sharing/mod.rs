//! The fine-grained sharing experiment: two elastic frameworks with complementary load on one
//! cluster, against the same machines split in half.
//!
//! After the macrobenchmark of the Mesos paper (NSDI 2011, section 6.1), with the job shapes of
//! the Omega simulator's default generator: exponential gaps, exponential numbers of tasks, tasks
//! of 100 s mean on ⟨1 CPU, 2 GB⟩, machines of ⟨4 CPU, 16 GB⟩. Batch comes in bursts of ten
//! minutes; the service follows a compressed day. Each fits into its half on average, so that the
//! split is a fair opponent.

mod plot;
mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use allotment_types::{Fixed, Resources, Timestamp};

use crate::brain::Brain;
use crate::elastic::{Demand, Elastic};
use crate::module::Module;
use crate::plant::Plant;
use crate::rng;
use crate::trace::TraceDepth;
use crate::world::{Seat, Setup, World};

/// Load arrives during this time: six bursts.
const LOAD: Duration = Duration::from_secs(2 * 3600);
/// A burst, and the pause after it.
const BURST: Duration = Duration::from_secs(600);
/// Between two jobs in a burst, on average.
const GAP: Duration = Duration::from_millis(3500);
/// Of a job at 1,000 machines; proportional to the cluster.
const TASKS_MEAN: f64 = 100.0;
/// Of a task.
const TASK_MEAN: Duration = Duration::from_secs(100);
/// Of the service at 1,000 machines: the middle of its day and how far it swings.
const INSTANCES: (f64, f64) = (1150.0, 650.0);
/// A day, compressed.
const DAY: Duration = Duration::from_secs(4800);
/// How often the service follows its load.
const SCALING: Duration = Duration::from_secs(60);
/// How often the cluster is looked at.
const SAMPLE: Duration = Duration::from_secs(10);
/// After this time the experiment ends even if jobs are left.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);
const MACHINE_CPUS: u64 = 4;
const MACHINE_MEM: u64 = 16 * 1024;

/// How both frameworks fared on one way of using the machines.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// When, and which part of all cores was in use.
    pub utilisation: Vec<(Timestamp, f64)>,
    /// The mean of it while load arrived.
    pub utilisation_mean: f64,
    /// The mean of it over the moments when tasks waited for room.
    pub utilisation_when_short: f64,
    /// From submission to the end of the last task, per job, ascending.
    pub job_seconds: Vec<f64>,
    /// Jobs that were not done at the end.
    pub jobs_unfinished: usize,
    /// When the last job was done.
    pub makespan: Timestamp,
    /// From wanting an instance to its running, per instance, ascending.
    pub scale_up_seconds: Vec<f64>,
    /// Which part of the wanted instances did not run, over the time that load arrived.
    pub instances_missing: f64,
    /// Events that were simulated.
    pub steps: u64,
}

/// Both ways, on the same load.
#[derive(Debug, Clone, PartialEq)]
pub struct SharingReport {
    /// The root seed.
    pub seed: u64,
    /// Machines in all.
    pub agents: usize,
    /// Batch jobs submitted.
    pub jobs: usize,
    /// Their tasks.
    pub tasks: usize,
    /// Both frameworks on all machines.
    pub shared: Outcome,
    /// Each framework on its own half.
    pub split: Outcome,
}

impl SharingReport {
    /// The numbers side by side, as plain text.
    pub fn table(&self) -> String {
        table::table(self)
    }

    /// Utilisation over time and the distribution of job times, as an SVG document.
    pub fn svg(&self) -> String {
        plot::svg(self)
    }
}

/// Runs the experiment on `n_agents` machines, rounded up to an even number. The same seed gives
/// the same report.
///
/// # Errors
/// A sentence when a simulated cluster came to a standstill, which would be a bug.
pub fn sharing_experiment(seed: u64, n_agents: usize) -> Result<SharingReport, String> {
    let agents = n_agents.max(2).next_multiple_of(2);
    let scale = size(agents) / 1000.0;
    let batch = batch_script(seed, scale);
    let service = service_script(scale);
    let jobs = batch.len();
    let tasks = batch
        .iter()
        .map(|(_, demand)| match demand {
            Demand::Job(tasks) => tasks.len(),
            Demand::Instances(_) => 0,
        })
        .sum();
    let batch = ("batch", Elastic::new("batch", needs(), batch));
    let service = ("web", Elastic::new("web", needs(), service));

    let both = run(seed, agents, vec![batch.clone(), service.clone()])?;
    let shared = Outcome::of(&[both], agents);
    let split = [
        run(seed, agents / 2, vec![batch])?,
        run(seed, agents / 2, vec![service])?,
    ];
    Ok(SharingReport {
        seed,
        agents,
        jobs,
        tasks,
        shared,
        split: Outcome::of(&split, agents),
    })
}

fn needs() -> Resources {
    Resources::cpus_mem(Fixed::units(1), Fixed::units(2048))
}

#[expect(clippy::cast_precision_loss, reason = "counts of machines and samples")]
fn size(n: usize) -> f64 {
    n as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small positive counts"
)]
fn count(n: f64) -> usize {
    n.round().max(0.0) as usize
}

fn batch_script(seed: u64, scale: f64) -> Vec<(Timestamp, Demand)> {
    let mut rng = rng::stream(seed, "sharing-batch");
    let mut script = Vec::new();
    let mut at = Duration::ZERO;
    // The clock of arrivals runs only during bursts.
    while at < LOAD / 2 {
        at += rng::exponential(&mut rng, GAP);
        let bursts = at.as_nanos() / BURST.as_nanos();
        let pauses = BURST * u32::try_from(bursts).unwrap_or(u32::MAX);
        let share = rng::exponential(&mut rng, Duration::from_secs(1)).as_secs_f64();
        let tasks = count(share * TASKS_MEAN * scale).max(1);
        let lengths = (0..tasks)
            .map(|_| rng::exponential(&mut rng, TASK_MEAN))
            .collect();
        script.push((Timestamp::ZERO + at + pauses, Demand::Job(lengths)));
    }
    script
}

fn service_script(scale: f64) -> Vec<(Timestamp, Demand)> {
    let steps = LOAD.as_secs() / SCALING.as_secs();
    (0..steps)
        .map(|step| {
            let at = Duration::from_secs(step * SCALING.as_secs());
            let angle = at.as_secs_f64() / DAY.as_secs_f64() * std::f64::consts::TAU;
            let wanted = (INSTANCES.0 + INSTANCES.1 * angle.sin()) * scale;
            (
                Timestamp::ZERO + at,
                Demand::Instances(count(wanted).max(1)),
            )
        })
        .collect()
}

fn run(seed: u64, agents: usize, frameworks: Vec<(&str, Elastic)>) -> Result<World, String> {
    let machine = Resources::cpus_mem(Fixed::units(MACHINE_CPUS), Fixed::units(MACHINE_MEM));
    let mut world = World::new(Setup {
        masters: 1,
        election_timeout: Duration::from_secs(12),
        seed,
        machines: vec![machine; agents],
        frameworks: frameworks
            .into_iter()
            .map(|(name, brain)| Seat::own_role(name, Brain::Elastic(Box::new(brain))))
            .collect::<Result<_, _>>()?,
        module: Module::default(),
        offer_timeout: None,
        delay: (Duration::from_micros(200), Duration::from_millis(2)),
        trace: TraceDepth::None,
        plant: Plant::None,
        checked: false,
        real_agents: false,
    })?;
    world.sample_every(SAMPLE);
    let mut end = Timestamp::ZERO + LOAD;
    world.run_until(end)?;
    while !world.batch_is_done() && end < Timestamp::ZERO + PATIENCE {
        end = end + SCALING;
        world.run_until(end)?;
    }
    Ok(world)
}

impl Outcome {
    /// What the parts of one way add up to.
    fn of(worlds: &[World], agents: usize) -> Self {
        let cores = size(agents) * size(usize::try_from(MACHINE_CPUS).unwrap_or(1));
        let mut outcome = Self {
            utilisation: Vec::new(),
            utilisation_mean: 0.0,
            utilisation_when_short: 0.0,
            job_seconds: Vec::new(),
            jobs_unfinished: 0,
            makespan: Timestamp::ZERO,
            scale_up_seconds: Vec::new(),
            instances_missing: 0.0,
            steps: worlds.iter().map(|w| w.trace.steps()).sum(),
        };
        let mut utilisation: BTreeMap<Timestamp, f64> = BTreeMap::new();
        let mut waiting: BTreeMap<Timestamp, usize> = BTreeMap::new();
        let (mut wanted, mut missing) = (0, 0);
        for world in worlds {
            for sample in &world.samples {
                *utilisation.entry(sample.at).or_default() += sample.in_use.cpus().as_f64() / cores;
                *waiting.entry(sample.at).or_default() += sample.waiting;
                if sample.at <= Timestamp::ZERO + LOAD {
                    for (should, does) in &sample.instances {
                        wanted += should;
                        missing += should.saturating_sub(*does);
                    }
                }
            }
            for brain in world.brains() {
                for job in brain.jobs() {
                    match job.done {
                        Some(done) => {
                            let took = done.since(job.submitted).as_secs_f64();
                            outcome.job_seconds.push(took);
                            outcome.makespan = outcome.makespan.max(done);
                        }
                        None => outcome.jobs_unfinished += 1,
                    }
                }
                let waits = brain.waits().iter().map(Duration::as_secs_f64);
                outcome.scale_up_seconds.extend(waits);
            }
        }
        outcome.job_seconds.sort_by(f64::total_cmp);
        outcome.scale_up_seconds.sort_by(f64::total_cmp);
        outcome.instances_missing = size(missing) / size(wanted).max(1.0);
        let loaded: Vec<f64> = utilisation
            .range(..=Timestamp::ZERO + LOAD)
            .map(|(_, part)| *part)
            .collect();
        outcome.utilisation_mean = mean(&loaded);
        let short: Vec<f64> = utilisation
            .range(..=Timestamp::ZERO + LOAD)
            .filter(|(at, _)| waiting.get(at).is_some_and(|n| *n > 0))
            .map(|(_, part)| *part)
            .collect();
        outcome.utilisation_when_short = mean(&short);
        // Two halves that end at different times: where only one was looked at, the sum lies.
        let ends = worlds.iter().filter_map(|w| Some(w.samples.last()?.at));
        let common = ends.min().unwrap_or(Timestamp::ZERO);
        utilisation.retain(|at, _| *at <= common);
        outcome.utilisation = utilisation.into_iter().collect();
        outcome
    }
}

/// The arithmetic mean; 0 of nothing.
fn mean(values: &[f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.iter().sum::<f64>() / size(values.len())
}

/// The value that this part of the ascending values does not exceed; 0 of nothing.
pub(crate) fn quantile(ascending: &[f64], part: f64) -> f64 {
    let last = ascending.len().saturating_sub(1);
    let place = count(size(last) * part).min(last);
    ascending.get(place).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_few_values_are_values() {
        assert!((quantile(&[1.0, 2.0, 3.0], 0.5) - 2.0).abs() < 1e-9);
        assert!((quantile(&[1.0, 2.0, 3.0], 1.0) - 3.0).abs() < 1e-9);
        assert!(quantile(&[], 0.5).abs() < 1e-9);
    }

    #[test]
    fn each_load_fits_its_half_on_average() {
        let half = 2000.0;
        let script = batch_script(1, 1.0);
        let work: f64 = script
            .iter()
            .map(|(_, demand)| match demand {
                Demand::Job(tasks) => tasks.iter().map(Duration::as_secs_f64).sum(),
                Demand::Instances(_) => 0.0,
            })
            .sum();
        let batch = work / LOAD.as_secs_f64();
        assert!(batch > 0.5 * half && batch < 0.9 * half, "{batch}");
        assert!(INSTANCES.0 + INSTANCES.1 < half);
    }
}
