//! Fine-grained sharing for real: two elastic frameworks with complementary load on one shared
//! cluster, against the same machines split in halves.
//!
//! *steady* is a service whose demand swings between a trough and a peak; *bursty* is batch work
//! that arrives in bursts while *steady* is in its trough (Mesos, NSDI 2011, section 6.1, in
//! miniature). Tasks sleep: what is measured is how the declared slots are shared, not how fast
//! the machine computes. The shared cluster has two agents and both frameworks; the split is two
//! clusters of one agent and one framework each, run at the same time with the same load.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use allotment_framework_sdk::api::TaskState;
use allotment_framework_sdk::{Call, Command, Config, Event, Offer, Scheduler, Task};
use allotment_types::{Fixed, OfferId, Resources, TaskId};
use anyhow::bail;

use crate::cluster::Role;
use crate::report::clock;
use crate::svg;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Slots of one CPU on each of the two agents
    #[arg(long, default_value_t = Self::default().slots)]
    slots: usize,
    /// How many swings of the load
    #[arg(long, default_value_t = Self::default().periods)]
    periods: u32,
    /// Seconds of one swing
    #[arg(long, default_value_t = Self::default().period)]
    period: u32,
    /// Write the plot here
    #[arg(long, default_value = "target/sharing.svg", value_name = "FILE")]
    svg: std::path::PathBuf,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            slots: 8,
            periods: 4,
            period: 8,
            svg: "target/sharing.svg".into(),
        }
    }
}

/// What one slot holds.
fn slot() -> Resources {
    Resources::cpus_mem(Fixed::units(1), Fixed::units(32))
}

/// One unit of work: arrives, waits for a slot, holds it for a while.
#[derive(Debug, Clone, Copy)]
struct Unit {
    at: Duration,
    lasts: Duration,
}

/// When a unit arrived, ran and ended, since the start of the experiment.
#[derive(Debug, Clone, Copy)]
struct Record {
    arrived: Duration,
    started: Duration,
    ended: Duration,
}

/// The two loads. Together they ask for 85 % of all slots; each alone asks at its peak for 1.4
/// times one half of them, and in its trough for a third of that.
fn loads(args: &Args) -> (Vec<Unit>, Vec<Unit>) {
    let period = Duration::from_secs(args.period.into());
    let lasts = Duration::from_millis(500);
    let (mut steady, mut bursty) = (Vec::new(), Vec::new());
    // Peak and trough demand in slots, out of 2 x `slots`.
    let (peak, trough) = (args.slots * 14 / 10, args.slots * 5 / 10);
    for n in 0..args.periods {
        let start = period * n;
        let beats = u32::try_from(period.as_millis() / lasts.as_millis()).unwrap_or(1);
        for beat in 0..beats {
            let demand = if beat < beats / 2 { peak } else { trough };
            let at = start + lasts * beat;
            steady.extend(std::iter::repeat_n(Unit { at, lasts }, demand));
        }
        let burst = (peak * (beats / 2) as usize) + trough * (beats / 2) as usize / 2;
        bursty.extend(std::iter::repeat_n(
            Unit {
                at: start + period / 2,
                lasts,
            },
            burst,
        ));
    }
    (steady, bursty)
}

/// Measures.
pub(crate) fn measure(allot: &Path, args: &Args) -> anyhow::Result<()> {
    let (steady, bursty) = loads(args);
    println!(
        "2 agents x {} slots; steady: {} units, bursty: {} units in {} bursts; 0.5 s each\n",
        args.slots,
        steady.len(),
        bursty.len(),
        args.periods
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let shared = {
        let cluster = Half::start(allot, args.slots, 2)?;
        let url = cluster.url()?;
        runtime.block_on(Outcome::of([&url, &url], [&steady, &bursty]))?
    };
    let split = {
        let (one, two) = (
            Half::start(allot, args.slots, 1)?,
            Half::start(allot, args.slots, 1)?,
        );
        let (first, second) = (one.url()?, two.url()?);
        runtime.block_on(Outcome::of([&first, &second], [&steady, &bursty]))?
    };
    compare(&shared, &split, 2 * args.slots);
    let panels = [
        shared.panel("shared: both on 2 agents"),
        split.panel("split: one agent each"),
    ];
    if let Some(folder) = args.svg.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&args.svg, svg::plot(&panels, 2 * args.slots))?;
    println!("plot: {}\n", args.svg.display());
    Ok(())
}

/// Prints both settings side by side.
fn compare(shared: &Outcome, split: &Outcome, slots: usize) {
    let line = |what: &str, shared: f64, split: f64, unit: &str| {
        let change = (shared / split - 1.0) * 100.0;
        println!("{what:44}  {shared:>8.2} {unit:2}  {split:>8.2} {unit:2}  {change:>+6.1} %");
    };
    println!(
        "{:44}  {:>11}  {:>11}  {:>8}",
        "what", "shared", "split", "change"
    );
    let utilisation = |outcome: &Outcome| outcome.utilisation(slots);
    line(
        "slots used until all is done",
        utilisation(shared),
        utilisation(split),
        "%",
    );
    for (name, pick) in [
        ("bursty", (|o| &o.bursty) as fn(&Outcome) -> &[Record]),
        ("steady", |o| &o.steady),
    ] {
        let (shared, split) = (pick(shared), pick(split));
        line(
            &format!("{name}: all done after"),
            completion(shared),
            completion(split),
            "s",
        );
        line(
            &format!("{name}: mean time of a burst, first to last"),
            burst(shared),
            burst(split),
            "s",
        );
        line(
            &format!("{name}: mean time of a unit, arrival to end"),
            response(shared),
            response(split),
            "s",
        );
    }
    println!("(Mesos, NSDI 2011: sharing gained 10 % CPU and 17 % memory utilisation)");
}

/// What became of the two loads in one setting.
struct Outcome {
    steady: Vec<Record>,
    bursty: Vec<Record>,
}

impl Outcome {
    /// Runs both loads at the same time, each against its master.
    async fn of(masters: [&str; 2], loads: [&[Unit]; 2]) -> anyhow::Result<Self> {
        let start = clock();
        let (steady, bursty) = tokio::join!(
            drive("steady", masters[0], loads[0], start),
            drive("bursty", masters[1], loads[1], start)
        );
        Ok(Self {
            steady: steady?,
            bursty: bursty?,
        })
    }

    /// The slots in use over time, for the plot.
    fn panel(&self, title: &str) -> svg::Panel {
        let spans = |records: &[Record]| {
            let span = |r: &Record| (r.started.as_secs_f64(), r.ended.as_secs_f64());
            records.iter().map(span).collect()
        };
        svg::Panel {
            title: title.to_owned(),
            series: vec![
                ("steady".to_owned(), spans(&self.steady)),
                ("bursty".to_owned(), spans(&self.bursty)),
            ],
        }
    }

    /// Percent of all slot seconds that were used until the last unit ended.
    fn utilisation(&self, slots: usize) -> f64 {
        let all = || self.steady.iter().chain(&self.bursty);
        let busy: f64 = all()
            .map(|r| r.ended.saturating_sub(r.started).as_secs_f64())
            .sum();
        let end = completion(&self.steady).max(completion(&self.bursty));
        busy / (slots as f64 * end) * 100.0
    }
}

/// Seconds until the last unit ended.
fn completion(records: &[Record]) -> f64 {
    records
        .iter()
        .map(|r| r.ended)
        .max()
        .unwrap_or_default()
        .as_secs_f64()
}

/// Mean seconds from the arrival of the units that came together to the end of their last one.
fn burst(records: &[Record]) -> f64 {
    let mut bursts: BTreeMap<Duration, Duration> = BTreeMap::new();
    for record in records {
        let end = bursts.entry(record.arrived).or_default();
        *end = record.ended.max(*end);
    }
    let sum: f64 = bursts
        .iter()
        .map(|(arrived, end)| end.saturating_sub(*arrived).as_secs_f64())
        .sum();
    sum / bursts.len().max(1) as f64
}

/// Mean seconds from arrival to end.
fn response(records: &[Record]) -> f64 {
    let sum: f64 = records
        .iter()
        .map(|r| r.ended.saturating_sub(r.arrived).as_secs_f64())
        .sum();
    sum / records.len().max(1) as f64
}

/// A master with `n` agents.
struct Half {
    _agents: Vec<Role>,
    master: Role,
    _folder: tempfile::TempDir,
}

impl Half {
    fn start(allot: &Path, slots: usize, n_agents: usize) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = |name: String| folder.path().join(name).display().to_string();
        let data = path("master".to_owned());
        let master = Role::start(allot, &["master", "--port", "0", "--data", &data], 1)?;
        let url = master.url("master")?.to_owned();
        let resources = format!("cpus:{slots};mem:{}", slots * 32);
        let agents = (0..n_agents).map(|i| {
            let work = path(format!("agent{i}"));
            let args = [
                "agent",
                "--master",
                &url,
                "--port",
                "0",
                "--work-dir",
                &work,
                "--resources",
                &resources,
                "--isolation",
                "none",
            ];
            Role::start(allot, &args, 1)
        });
        let agents = agents.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self {
            _agents: agents,
            master,
            _folder: folder,
        })
    }

    fn url(&self) -> anyhow::Result<String> {
        Ok(self.master.url("master")?.to_owned())
    }
}

/// An elastic framework: runs every unit as soon as it has arrived and a slot is offered.
/// Its role is its name, so that fair sharing is between the two.
async fn drive(
    name: &str,
    master: &str,
    units: &[Unit],
    start: Instant,
) -> anyhow::Result<Vec<Record>> {
    let config = Config {
        masters: vec![master.to_owned()],
        name: name.to_owned(),
        roles: vec![name.parse()?],
        ..Config::default()
    };
    let mut scheduler = Scheduler::connect(config)?;
    let mut records = vec![
        Record {
            arrived: Duration::ZERO,
            started: Duration::ZERO,
            ended: Duration::ZERO
        };
        units.len()
    ];
    // Units wait in order of arrival; those before `next` were launched.
    let (mut next, mut ended) = (0, 0);
    let mut suppressed = false;
    while ended < units.len() {
        let arrives = units.get(next).map_or(Duration::MAX, |unit| unit.at);
        let pause = arrives.saturating_sub(start.elapsed());
        let event = tokio::select! {
            event = scheduler.next() => event,
            () = tokio::time::sleep(pause), if next < units.len() && suppressed => {
                suppressed = false;
                scheduler.call(Call::Revive).await?;
                continue;
            }
        };
        let now = start.elapsed();
        match event {
            Some(Event::Offers(offers)) => {
                let arrived = units.iter().take_while(|unit| unit.at <= now).count();
                for (agent, (ids, resources)) in pooled(offers) {
                    let mut left = resources;
                    let mut tasks = Vec::new();
                    while next < arrived && left.contains(&slot()) {
                        left.subtract(&slot());
                        let seconds = units[next].lasts.as_secs_f64().to_string();
                        let command = Command::Exec {
                            program: "sleep".to_owned(),
                            arguments: vec![seconds],
                        };
                        tasks.push(Task::new(
                            TaskId::parse(&format!("{name}-{next}"))?,
                            slot(),
                            command,
                        ));
                        next += 1;
                    }
                    let refuse_for = Some(Duration::ZERO);
                    scheduler
                        .call(Call::Accept {
                            agent,
                            offers: ids,
                            tasks,
                            refuse_for,
                        })
                        .await?;
                }
                if next == arrived && !suppressed {
                    suppressed = true;
                    scheduler.call(Call::Suppress).await?;
                }
            }
            Some(Event::Update(update)) => {
                if let Some(call) = update.acknowledgement() {
                    scheduler.call(call).await?;
                }
                let index: usize = update
                    .task
                    .as_str()
                    .rsplit('-')
                    .next()
                    .unwrap_or("")
                    .parse()?;
                let record = &mut records[index];
                record.arrived = units[index].at;
                if update.state == TaskState::TaskRunning {
                    record.started = now;
                } else if update.state == TaskState::TaskFinished {
                    record.ended = now;
                    ended += 1;
                } else if update.is_terminal() {
                    bail!(
                        "{name}: task {} ended {:?}: {:?}",
                        update.task,
                        update.state,
                        update.message
                    );
                }
            }
            Some(Event::Error(message)) => bail!("{name}: {message}"),
            Some(_) => {}
            None => bail!("{name}: the subscription ended"),
        }
    }
    scheduler.call(Call::Teardown).await?;
    Ok(records)
}

/// Offers of one agent as one bundle.
fn pooled(offers: Vec<Offer>) -> BTreeMap<allotment_types::AgentId, (Vec<OfferId>, Resources)> {
    let mut pools = BTreeMap::new();
    for offer in offers {
        let (ids, resources) = pools
            .entry(offer.agent)
            .or_insert_with(|| (Vec::new(), Resources::EMPTY));
        ids.push(offer.id);
        resources.add(&offer.resources);
    }
    pools
}
