//! What every benchmark prints alike: hardware, percentiles, numbers beside targets.

use std::time::Duration;

pub(crate) use allotment_benches::clock;

/// Prints the hardware and the command line that repeats this run.
pub(crate) fn heading() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown CPU", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse().ok())
        .unwrap_or(0);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!(
        "hardware: {cores} x {model}, {:.0} GiB, Linux {}",
        kib as f64 / 1024.0 / 1024.0,
        kernel.trim()
    );
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown").to_owned();
    println!("load:     {load} over the last minute, before this began");
    println!("seed:     none but where one is printed: real processes, fixed load");
    println!(
        "command:  cargo run --release -p allotment-benches -- {}\n",
        arguments.join(" ")
    );
}

/// Says on stderr how far it is.
#[expect(
    clippy::print_stderr,
    reason = "progress must not mix with the numbers"
)]
pub(crate) fn note(text: &str) {
    eprintln!("  {text}");
}

/// One measured number beside what it should be.
#[derive(Debug)]
pub(crate) struct Number {
    /// What was measured.
    pub(crate) what: String,
    /// The value with its unit.
    pub(crate) measured: String,
    /// The target with its unit; empty for baselines.
    pub(crate) target: String,
    /// The peer's value, with its name.
    pub(crate) peer: String,
}

impl Number {
    /// A number with target and peer.
    pub(crate) fn new(what: &str, measured: String, target: &str, peer: &str) -> Self {
        Self {
            what: what.to_owned(),
            measured,
            target: target.to_owned(),
            peer: peer.to_owned(),
        }
    }
}

/// Prints numbers as a table.
pub(crate) fn table(numbers: &[Number]) {
    let width = |f: fn(&Number) -> &str, head: &str| {
        numbers
            .iter()
            .map(|n| f(n).chars().count())
            .chain([head.len()])
            .max()
            .unwrap_or(0)
    };
    let what = width(|n| &n.what, "what");
    let measured = width(|n| &n.measured, "measured");
    let target = width(|n| &n.target, "target");
    println!(
        "{:what$}  {:>measured$}  {:>target$}  peer",
        "what", "measured", "target"
    );
    for n in numbers {
        println!(
            "{:what$}  {:>measured$}  {:>target$}  {}",
            n.what, n.measured, n.target, n.peer
        );
    }
    println!();
}

/// The `p`-th percentile (0 to 100) by nearest rank; zero of nothing.
pub(crate) fn percentile(samples: &mut [Duration], p: usize) -> Duration {
    samples.sort_unstable();
    let rank = (samples.len() * p).div_ceil(100).max(1) - 1;
    samples.get(rank).copied().unwrap_or_default()
}

/// Milliseconds with one decimal.
pub(crate) fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let mut samples: Vec<Duration> = (1..=10).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut samples, 50), Duration::from_millis(5));
        assert_eq!(percentile(&mut samples, 99), Duration::from_millis(10));
        assert_eq!(percentile(&mut [], 50), Duration::ZERO);
    }
}
