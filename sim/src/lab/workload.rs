//! Where jobs come from: distributions, loads known by name, or a file of recorded jobs.

use std::time::Duration;

use allotment_types::{Fixed, Resources, Timestamp};
use fastrand::Rng;
use serde::Deserialize;

use super::amount::{Distribution, Number, Span};
use super::file::{FrameworkGroup, Policy};
use crate::rng;

/// No job is larger; a draw above it is cut.
const TASKS_MAX: f64 = 100_000.0;

/// The first line of a trace file.
const COLUMNS: &str = "submit_s,tasks,duration_s,cpus,mem_mib";

/// A load known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Batch jobs of the Omega simulator's default generator: every 10 s a job of 100 tasks of
    /// 100 s on ⟨1 CPU, 2 GB⟩, all exponential.
    OmegaBatch,
    /// Service jobs of the same: every 20 s a job of 10 tasks of 500 s.
    OmegaService,
    /// A day at Facebook in 2009 (SWIM): gaps and job sizes by their measured quantiles, most jobs
    /// of a single task and the largest of 58,995. Durations are not in the trace: exponential
    /// with a mean of 30 s here.
    #[serde(rename = "facebook-2009")]
    Facebook2009,
}

impl Preset {
    /// What each task needs.
    pub(super) fn needs(self) -> Resources {
        Resources::cpus_mem(Fixed::units(1), Fixed::units(2048))
    }

    fn load(self) -> Load {
        let seconds = |s| Span(Duration::from_secs(s));
        let exponential = |gap, tasks, lasts| Load::Drawn {
            gap: Distribution::Exponential(seconds(gap)),
            tasks: Distribution::Exponential(Number(tasks)),
            lasts: Distribution::Exponential(seconds(lasts)),
            needs: self.needs(),
        };
        match self {
            Self::OmegaBatch => exponential(10, 100.0, 100),
            Self::OmegaService => exponential(20, 10.0, 500),
            Self::Facebook2009 => Load::Drawn {
                gap: Distribution::Quantiles(vec![
                    (0.0, seconds(0)),
                    (0.5, seconds(7)),
                    (0.9, seconds(34)),
                    (0.99, seconds(101)),
                    (1.0, seconds(300)),
                ]),
                tasks: Distribution::Quantiles(vec![
                    (0.876, Number(1.0)),
                    (0.95, Number(61.0)),
                    (0.99, Number(646.0)),
                    (1.0, Number(58_995.0)),
                ]),
                lasts: Distribution::Exponential(seconds(30)),
                needs: self.needs(),
            },
        }
    }
}

/// One job of a trace file.
#[derive(Debug, Clone, PartialEq)]
pub struct TracedJob {
    /// When it is submitted, from the beginning.
    pub at: Duration,
    /// How many tasks it has.
    pub tasks: usize,
    /// How long each runs.
    pub lasts: Duration,
    /// What each needs.
    pub needs: Resources,
}

/// Reads a trace file.
///
/// # Errors
/// With the line, what stands there and what should.
pub(super) fn parse_trace(text: &str) -> Result<Vec<TracedJob>, String> {
    let mut lines = text.lines().enumerate();
    match lines.next() {
        Some((_, header)) if header.trim() == COLUMNS => {}
        other => {
            let found = other.map_or("nothing", |(_, header)| header);
            return Err(format!(
                "line 1 must name the columns {COLUMNS:?}, but it is {found:?}"
            ));
        }
    }
    let mut jobs: Vec<TracedJob> = Vec::new();
    for (i, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let job = parse_job(line).map_err(|error| format!("line {}: {error}", i + 1))?;
        if let Some(before) = jobs.last()
            && job.at < before.at
        {
            return Err(format!(
                "line {}: submit_s {} comes after {}; sort the jobs by submit_s",
                i + 1,
                job.at.as_secs_f64(),
                before.at.as_secs_f64()
            ));
        }
        jobs.push(job);
    }
    if jobs.is_empty() {
        return Err("holds no job".to_owned());
    }
    Ok(jobs)
}

fn parse_job(line: &str) -> Result<TracedJob, String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [at, tasks, lasts, cpus, mem] = fields.as_slice() else {
        return Err(format!(
            "{} fields where {COLUMNS:?} are 5: {line:?}",
            fields.len()
        ));
    };
    let number = |name: &str, text: &str| match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err(format!("{name} {text:?} is no number from 0 up")),
    };
    let time = |name: &str, text: &str| {
        let value = number(name, text)?;
        Duration::try_from_secs_f64(value).map_err(|_| format!("{name} {text} is too long"))
    };
    let amount = |name: &str, text: &str| {
        Fixed::from_f64(number(name, text)?).map_err(|error| format!("{name} {text}: {error}"))
    };
    let count = tasks.parse::<usize>();
    let Some(count) = count.ok().filter(|n| (1..=100_000).contains(n)) else {
        return Err(format!("tasks {tasks:?} is no count from 1 to 100000"));
    };
    let needs = Resources::cpus_mem(amount("cpus", cpus)?, amount("mem_mib", mem)?);
    if needs.is_empty() {
        return Err("a task needs neither cpus nor mem_mib".to_owned());
    }
    Ok(TracedJob {
        at: time("submit_s", at)?,
        tasks: count,
        lasts: time("duration_s", lasts)?,
        needs,
    })
}

/// One job, as a framework gets it.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) needs: Resources,
    /// How long each task runs.
    pub(super) lasts: Vec<Duration>,
}

#[derive(Debug, Clone)]
enum Load {
    None,
    Drawn {
        gap: Distribution<Span>,
        tasks: Distribution<Number>,
        lasts: Distribution<Span>,
        needs: Resources,
    },
    Traced(std::vec::IntoIter<TracedJob>),
}

/// The jobs of one framework, one after the other.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    load: Load,
    rng: Rng,
    /// Burst and pause; the clock of arrivals stands still during pauses.
    rhythm: Option<(Duration, Duration)>,
    /// What the clock of arrivals shows.
    clock: Duration,
    next: Option<(Timestamp, Job)>,
    /// From then on none.
    end: Timestamp,
}

impl Workload {
    /// The load of one framework of the group.
    pub(super) fn new(group: &FrameworkGroup, rng: Rng, end: Timestamp) -> Self {
        let drawn = (&group.arrivals, &group.tasks, &group.duration, &group.task);
        let load = if let Some(preset) = group.workload {
            preset.load()
        } else if let (Some(gap), Some(tasks), Some(lasts), Some(needs)) = drawn {
            Load::Drawn {
                gap: gap.clone(),
                tasks: tasks.clone(),
                lasts: lasts.clone(),
                needs: needs.clone(),
            }
        } else if group.traced.is_empty() {
            Load::None
        } else {
            Load::Traced(group.traced.clone().into_iter())
        };
        let rhythm = match (group.policy, group.burst, group.pause) {
            (Policy::Bursty, Some(burst), Some(pause)) => Some((burst.0, pause.0)),
            _ => None,
        };
        let mut workload = Self {
            load,
            rng,
            rhythm,
            clock: Duration::ZERO,
            next: None,
            end,
        };
        workload.prepare();
        workload
    }

    /// When the next job comes.
    pub(super) fn next_at(&self) -> Option<Timestamp> {
        self.next.as_ref().map(|(at, _)| *at)
    }

    /// The next job, when it is due.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Option<Job> {
        if self.next_at()? > now {
            return None;
        }
        let (_, job) = self.next.take()?;
        self.prepare();
        Some(job)
    }

    fn prepare(&mut self) {
        let rng = &mut self.rng;
        let job = match &mut self.load {
            Load::None => None,
            Load::Drawn {
                gap,
                tasks,
                lasts,
                needs,
            } => {
                self.clock += milliseconds(gap.draw(rng)).max(Duration::from_millis(1));
                let n_tasks = count(tasks.draw(rng));
                let lasts = (0..n_tasks)
                    .map(|_| milliseconds(lasts.draw(rng)))
                    .collect();
                let needs = needs.clone();
                Some(Job { needs, lasts })
            }
            Load::Traced(jobs) => jobs.next().map(|job| {
                self.clock = job.at;
                Job {
                    needs: job.needs,
                    lasts: vec![job.lasts; job.tasks],
                }
            }),
        };
        let at = Timestamp::ZERO + self.clock + self.pauses();
        self.next = job.map(|job| (at, job)).filter(|_| at < self.end);
    }

    fn pauses(&self) -> Duration {
        let Some((burst, pause)) = self.rhythm else {
            return Duration::ZERO;
        };
        let bursts = self.clock.as_nanos() / burst.as_nanos().max(1);
        pause.saturating_mul(u32::try_from(bursts).unwrap_or(u32::MAX))
    }
}

/// In whole milliseconds and below ten years, so that no tail overflows.
fn milliseconds(seconds: f64) -> Duration {
    let bounded = seconds.clamp(0.0, 3.2e8);
    Duration::from_secs_f64((bounded * 1000.0).round() / 1000.0)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to small positive numbers"
)]
fn count(drawn: f64) -> usize {
    drawn.round().clamp(1.0, TASKS_MAX) as usize
}

/// A generator of its own for each framework of a group.
pub(super) fn stream(seed: u64, group: &str, number: usize) -> Rng {
    rng::stream(seed, &format!("load-{group}-{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_with_all_its_columns() {
        let text = format!("{COLUMNS}\n0,2,30,0.5,512\n\n10.5,1,60,1,1024\n");
        let jobs = parse_trace(&text).unwrap();
        assert_eq!((jobs.len(), jobs[0].tasks), (2, 2));
        assert_eq!(jobs[1].at, Duration::from_millis(10_500));
        assert_eq!(jobs[0].needs.to_string(), "cpus:0.5; mem:512");
    }

    #[test]
    fn a_wrong_trace_names_the_line() {
        let wrong = |rows: &str| parse_trace(&format!("{COLUMNS}\n{rows}")).unwrap_err();
        assert!(parse_trace("at,n\n").unwrap_err().contains("at,n"));
        assert!(wrong("1,1,1,1\n").contains("line 2: 4 fields"));
        assert!(wrong("5,1,1,1,1\n4,1,1,1,1\n").contains("line 3: submit_s 4 comes after 5"));
        assert!(wrong("0,0,1,1,1\n").contains("tasks \"0\""));
        assert!(wrong("0,1,-1,1,1\n").contains("duration_s \"-1\""));
        assert!(wrong("0,1,1,nan,1\n").contains("cpus \"nan\""));
        assert!(wrong("0,1,1,0,0\n").contains("neither"));
        assert!(wrong("").contains("no job"));
    }
}
