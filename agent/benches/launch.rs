//! How fast one agent starts and reaps `true` beside what the kernel alone takes for it, how soon
//! a task runs, and what an idle one costs in memory.
//!
//! `cargo bench -p allotment-agent --bench launch [-- rate|latency|idle]`. A master stands in (see `tests/support`), so
//! that the agent alone is measured: gRPC, sandbox, launcher, walls, two acknowledged updates for
//! each task. Wants an otherwise idle machine; prints the load it found.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement reads the clock and prints"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use allotment_proto::convert::is_terminal;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use support::{Cluster, Mode, modes, program, until};

/// As in `allot`, so that what is measured is what ships.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tasks measured, and how many of them are under way at a time.
const N_TASKS: usize = 3000;
const WINDOW: usize = 64;
const N_IDLE: usize = 100;
const N_LATENCY: usize = 300;
const N_FLOOR: usize = 750;

#[tokio::main]
async fn main() {
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    println!("load {}", load.trim());
    let wish = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let wanted = |part: &str| wish.as_deref().is_none_or(|wish| wish == part);
    for mode in modes() {
        if wanted("rate") {
            rate_beside_floor(mode).await;
        }
        if wanted("latency") {
            latency(mode).await;
        }
        if wanted("idle") {
            idle(mode).await;
        }
    }
}

/// The rate and, with walls, what the kernel alone does, measured before and after, as other work
/// on the machine comes and goes. The CPU that each takes for a task says more on a busy machine.
async fn rate_beside_floor(mode: Mode) {
    if mode == Mode::Plain {
        let Pace { per_second, cpu_ms } = rate(mode).await;
        println!(
            "{mode:?}: {N_TASKS} x true, {WINDOW} at a time: {per_second:.0}/s, {cpu_ms:.2} ms CPU \
             each"
        );
        return;
    }
    let before = floor();
    let own = rate(mode).await;
    let after = floor();
    let floor = Pace {
        per_second: f64::midpoint(before.per_second, after.per_second),
        cpu_ms: f64::midpoint(before.cpu_ms, after.cpu_ms),
    };
    println!(
        "{mode:?}: {N_TASKS} x true, {WINDOW} at a time: {:.0}/s, {:.2} ms CPU each\n  the bare \
         clone and cgroup loop on two cores: {:.0}/s, {:.2} ms CPU each\n  the agent reaches \
         {:.0} % of its rate, {:.0} % by CPU   target 75 %",
        own.per_second,
        own.cpu_ms,
        floor.per_second,
        floor.cpu_ms,
        own.per_second / floor.per_second * 100.0,
        floor.cpu_ms / own.cpu_ms * 100.0
    );
}

/// How fast something goes, and what each takes of all processors.
struct Pace {
    per_second: f64,
    cpu_ms: f64,
}

impl Pace {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn of(n: usize, begun: Instant, cpu_before: Duration) -> Self {
        Self {
            per_second: n as f64 / begun.elapsed().as_secs_f64(),
            cpu_ms: (cpu() - cpu_before).as_secs_f64() * 1e3 / n as f64,
        }
    }
}

/// CPU time of this process and of everything that it started and that has ended.
fn cpu() -> Duration {
    let times = [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN].map(|who| {
        let usage = getrusage(who).unwrap();
        let micros = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap();
        Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
    });
    times.into_iter().sum()
}

/// Children of all threads of a process.
fn children(process: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let lists = threads.filter_map(|t| fs::read_to_string(t.path().join("children")).ok());
    lists
        .flat_map(|list| {
            let pids = list.split_whitespace().map(str::to_owned);
            pids.collect::<Vec<_>>()
        })
        .collect()
}

/// How fast the kernel alone does it, with two processes at it.
fn floor() -> Pace {
    let (begun, cpu_before) = (Instant::now(), cpu());
    let loops: Vec<_> = (0..2)
        .map(|_| {
            Command::new(env!("CARGO_BIN_EXE_allotment-launcher"))
                .args(["floor", &N_FLOOR.to_string()])
                .spawn()
                .unwrap()
        })
        .collect();
    for mut each in loops {
        assert!(each.wait().unwrap().success());
    }
    Pace::of(2 * N_FLOOR, begun, cpu_before)
}

/// From the master's word to the update that says it runs, one task at a time.
async fn latency(mode: Mode) {
    let mut c = Cluster::start(mode).await;
    let mut took = Vec::new();
    for i in 0..N_LATENCY {
        let id = format!("t{i}");
        let begun = Instant::now();
        c.master.launch(vec![program(&id, &["/bin/true"])]).await;
        c.master.running(&id).await;
        took.push(begun.elapsed());
        c.master.end(&id).await;
    }
    took.sort_unstable();
    println!(
        "{mode:?}: launch to TASK_RUNNING, both ways over the wire: p50 {:.1} ms, p99 {:.1} ms   \
         target 3 / 10 ms",
        took[N_LATENCY / 2].as_secs_f64() * 1e3,
        took[N_LATENCY * 99 / 100].as_secs_f64() * 1e3
    );
    c.agent.stop().await;
}

async fn rate(mode: Mode) -> Pace {
    let mut c = Cluster::start(mode).await;
    let task = |i: usize| program(&format!("t{i}"), &["/bin/true"]);
    let (begun, cpu_before) = (Instant::now(), cpu());
    c.master.launch((0..WINDOW).map(task).collect()).await;
    let (mut launched, mut ended) = (WINDOW, 0);
    while ended < N_TASKS {
        let mut fresh = 0;
        for status in c.master.updates().await {
            if is_terminal(status.state()) {
                ended += 1;
                fresh += 1;
            }
        }
        let until = (launched + fresh).min(N_TASKS);
        if until > launched {
            c.master.launch((launched..until).map(task).collect()).await;
            launched = until;
        }
    }
    let per_second = Pace::of(N_TASKS, begun, cpu_before).per_second;
    // What a task used counts when its init is reaped, and that serves others for a moment; the
    // launcher's when that has ended.
    until("inits have gone", || {
        children("self")
            .iter()
            .all(|launcher| children(launcher).is_empty())
    })
    .await;
    c.agent.stop().await;
    Pace {
        per_second,
        ..Pace::of(N_TASKS, begun, cpu_before)
    }
}

async fn idle(mode: Mode) {
    let mut c = Cluster::start(mode).await;
    let tasks = (0..N_IDLE).map(|i| program(&format!("t{i}"), &["sleep", "1000"]));
    c.master.launch(tasks.collect()).await;
    let mut private = (0, 0);
    for i in 0..N_IDLE {
        let running = c.master.running(&format!("t{i}")).await;
        let init = running.container_status.unwrap().executor_pid.unwrap();
        let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
        private.0 += private_kib(init);
        for task in children.split_whitespace() {
            private.1 += private_kib(task.parse().unwrap());
        }
    }
    println!(
        "{mode:?}: an idle task holds {} KiB private: {} of its init, {} of `sleep`",
        (private.0 + private.1) / N_IDLE,
        private.0 / N_IDLE,
        private.1 / N_IDLE
    );
    c.agent.stop().await;
}

fn private_kib(pid: u32) -> usize {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    smaps
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok())
        .sum()
}
