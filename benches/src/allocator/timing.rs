//! Samples of wall and thread CPU time, and resident memory.

use std::time::Duration;

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};

use crate::report::{clock, percentile};

/// How long something took, several times.
#[derive(Debug, Default)]
pub(super) struct Samples {
    cpu: Vec<Duration>,
    wall: Vec<Duration>,
}

fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

impl Samples {
    /// Measures one run.
    pub(super) fn time<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let (wall, cpu) = (clock(), thread_cpu());
        let result = run();
        self.cpu.push(thread_cpu().saturating_sub(cpu));
        self.wall.push(wall.elapsed());
        result
    }

    /// `7.1 / 7.4 ms CPU, 7.5 ms wall`: the smallest and the median, and the median of the wall.
    pub(super) fn median(mut self) -> String {
        let least = self.cpu.iter().min().copied().unwrap_or_default();
        let cpu = percentile(&mut self.cpu, 50);
        let wall = percentile(&mut self.wall, 50);
        format!(
            "{} / {} CPU, {} wall",
            short(least),
            short(cpu),
            short(wall)
        )
    }

    /// `p50 12 µs, p99 40 µs CPU; p50 12 µs, p99 60 µs wall`.
    pub(super) fn tail(mut self) -> String {
        let of = |samples: &mut Vec<Duration>| {
            let p50 = short(percentile(samples, 50));
            format!("p50 {p50}, p99 {}", short(percentile(samples, 99)))
        };
        let cpu = of(&mut self.cpu);
        format!("{cpu} CPU; {} wall", of(&mut self.wall))
    }

    /// The median of the CPU time in milliseconds.
    pub(super) fn median_ms(mut self) -> f64 {
        percentile(&mut self.cpu, 50).as_secs_f64() * 1000.0
    }
}

/// Three digits that matter.
pub(super) fn short(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    match micros {
        ..10.0 => format!("{micros:.2} µs"),
        ..1000.0 => format!("{micros:.0} µs"),
        ..100_000.0 => format!("{:.1} ms", micros / 1000.0),
        ..10_000_000.0 => format!("{:.0} ms", micros / 1000.0),
        _ => format!("{:.1} s", micros / 1e6),
    }
}

/// Resident memory of this process now and at most so far, in bytes.
pub(super) fn resident() -> anyhow::Result<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| -> anyhow::Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib
            .with_context(|| format!("no {name} in /proc/self/status"))?
            .parse::<u64>()?
            * 1024)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

/// The most resident memory so far, for people.
pub(super) fn peak() -> anyhow::Result<String> {
    let (_, peak) = resident()?;
    Ok(format!("{} MB", peak / 1_000_000))
}
