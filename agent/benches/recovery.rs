//! What a thousand idle tasks cost, how fast they come and go, and how soon a killed agent knows
//! them again; then the promise itself: 200 random `kill -9` during 5,000 short tasks.
//!
//! `cargo bench -p allotment-agent --bench recovery [-- tasks|kills]`. A master stands in (see
//! `tests/support`); the agent is a process of its own. Needs root for the walls, and wants an
//! otherwise idle machine; prints the load it found and each target beside what it measured.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a measurement reads the clock and prints"
)]

#[path = "../tests/support/apart.rs"]
mod apart;
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use allotment_proto::convert::is_terminal;
use apart::Apart;
use support::{Mode, modes, program, shell};

/// As in `allot`, so that what is measured is what ships.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const N_TASKS: usize = 1000;
const REST: Duration = Duration::from_secs(10);
const N_SHORT: usize = 5000;
const N_KILLS: usize = 200;
const WINDOW: usize = 64;

#[tokio::main]
async fn main() {
    let wish = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    println!("load {}", load.trim());
    let mode = *modes().last().unwrap();
    if wish.as_deref() != Some("kills") {
        thousand(mode).await;
    }
    if wish.as_deref() != Some("tasks") {
        kills(mode).await;
    }
}

fn line(what: &str, measured: &str, target: &str) {
    println!("{what:<52} {measured:>22}   target {target}");
}

async fn thousand(mode: Mode) {
    let mut c = Apart::start(mode).await;
    let ids: Vec<String> = (0..N_TASKS).map(|i| format!("t{i}")).collect();
    let before = private_kib(c.pid().as_raw()) + private_kib(c.launcher_pid().as_raw());
    let begun = Instant::now();
    c.master
        .launch(
            ids.iter()
                .map(|id| program(id, &["sleep", "100000"]))
                .collect(),
        )
        .await;
    let mut inits = Vec::new();
    while inits.len() < N_TASKS {
        for status in c.master.updates().await {
            assert!(!is_terminal(status.state()), "{status:?}");
            inits.push(status.container_status.unwrap().executor_pid.unwrap());
        }
    }
    let took = begun.elapsed().as_secs_f64();
    line(
        &format!("{mode:?}: {N_TASKS} sleeping containers up"),
        &format!("{took:.2} s"),
        "2 s",
    );
    let of_inits: usize = inits
        .iter()
        .map(|pid| private_kib(i32::try_from(*pid).unwrap()))
        .sum();
    let ours = private_kib(c.pid().as_raw()) + private_kib(c.launcher_pid().as_raw()) - before;
    line(
        "private memory per idle task, init + agent + launcher",
        &format!("{} + {} KiB", of_inits / N_TASKS, ours / N_TASKS),
        "400 KiB",
    );
    let ticks = || -> u64 {
        let own = [c.pid().as_raw(), c.launcher_pid().as_raw()];
        let inits = inits.iter().map(|pid| i32::try_from(*pid).unwrap());
        own.into_iter().chain(inits).map(cpu_ticks).sum()
    };
    let (ticks_before, resting) = (ticks(), Instant::now());
    tokio::time::sleep(REST).await;
    let used = (ticks() - ticks_before) as f64 / 100.0 / resting.elapsed().as_secs_f64();
    line(
        &format!("CPU at rest with {N_TASKS} tasks, inits included"),
        &format!("{:.2} % of a core", used * 100.0),
        "1 %",
    );
    c.dies();
    let begun = Instant::now();
    let back = c.returns().await;
    let registered = begun.elapsed();
    assert_eq!(back.tasks.len(), N_TASKS);
    while recovering(&back.url) > 0.0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = begun.elapsed();
    line(
        &format!("{N_TASKS} live containers known again after kill -9"),
        &format!("{:.3} s", took.as_secs_f64()),
        "0.5 s",
    );
    println!("  of which registered: {:.3} s", registered.as_secs_f64());
    let begun = Instant::now();
    for id in &ids {
        c.master.kill(id, None).await;
    }
    let mut n_ended = 0;
    while n_ended < N_TASKS {
        let statuses = c.master.updates().await;
        n_ended += statuses.iter().filter(|s| is_terminal(s.state())).count();
    }
    let took = begun.elapsed().as_secs_f64();
    line(
        &format!("{N_TASKS} containers down"),
        &format!("{took:.2} s"),
        "2 s",
    );
}

/// What the agent's metrics say.
fn recovering(url: &str) -> f64 {
    let address = url.trim_start_matches("http://");
    let mut connection = std::net::TcpStream::connect(address).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let line = answer
        .lines()
        .find_map(|line| line.strip_prefix("slave_tasks_recovering "));
    line.unwrap().parse().unwrap()
}

async fn kills(mode: Mode) {
    let mut c = Apart::start(mode).await;
    let task = |i: usize| shell(&format!("t{i}"), &format!("exit {}", i % 100));
    let mut ends: BTreeMap<String, i32> = BTreeMap::new();
    let mut heard_of: BTreeSet<String> = BTreeSet::new();
    let (mut launched, mut n_kills, mut n_repeated, mut n_unheard) = (0, 0, 0, 0);
    // SplitMix64's constants are enough to scatter kills; the seed is fixed.
    let mut state = 7_u64;
    let mut random = move || {
        state = state
            .wrapping_mul(0xbf58_476d_1ce4_e5b9)
            .wrapping_add(0x9e37_79b9_7f4a_7c15);
        state >> 33
    };
    let begun = Instant::now();
    let mut kill_at = 0;
    while ends.len() < N_SHORT {
        // However fast tasks end, kills come among them all.
        let share = (n_kills + 1) * N_SHORT / N_KILLS;
        let until = (ends.len() + WINDOW).min(share).min(N_SHORT);
        if until > launched {
            c.master.launch((launched..until).map(task).collect()).await;
            launched = until;
        }
        if n_kills < N_KILLS && ends.len() >= kill_at {
            // At any instant of what this launch sets in motion.
            tokio::time::sleep(Duration::from_micros(random() % 60_000)).await;
            n_kills += 1;
            kill_at = n_kills * N_SHORT / (N_KILLS + 1);
            c.dies();
            let back = c.returns().await;
            let known: BTreeSet<String> = back
                .tasks
                .into_iter()
                .map(|t| t.task.task_id.value)
                .collect();
            let ids = (0..launched).map(|i| (i, format!("t{i}")));
            let missing = ids.filter(|(_, id)| !known.contains(id) && !ends.contains_key(id));
            let missing: Vec<(usize, String)> = missing.collect();
            for (_, id) in &missing {
                // What died on its way to the agent left no trace there.
                assert!(
                    !heard_of.contains(id) && !c.sandbox(id).exists(),
                    "{id} is forgotten"
                );
            }
            n_unheard += missing.len();
            let again = missing.into_iter().map(|(i, _)| task(i)).collect();
            c.master.launch(again).await;
        }
        for status in c.master.updates().await {
            let id = status.task_id.value.clone();
            heard_of.insert(id.clone());
            if is_terminal(status.state()) {
                let code = status.exit.and_then(|exit| exit.code);
                let code = code.unwrap_or_else(|| panic!("no exit code: {status:?}"));
                match ends.insert(id, code) {
                    None => {}
                    Some(before) if before == code => n_repeated += 1,
                    Some(before) => panic!("it ended with {before} before: {status:?}"),
                }
            }
        }
    }
    for (id, code) in &ends {
        let i: usize = id.trim_start_matches('t').parse().unwrap();
        assert_eq!(*code, i32::try_from(i % 100).unwrap(), "{id}");
    }
    line(
        &format!("{mode:?}: {N_SHORT} tasks under {n_kills} kill -9, true ends"),
        &format!("{} of {N_SHORT}", ends.len()),
        "all",
    );
    println!(
        "  in {:.1} s; {n_repeated} terminal updates were sent again before their acknowledgement, \
         {n_unheard} launches never reached the agent and were sent again",
        begun.elapsed().as_secs_f64()
    );
}

fn private_kib(pid: i32) -> usize {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    smaps
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok())
        .sum()
}

fn cpu_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields = rest.split_whitespace().skip(11).take(2);
    fields.map(|field| field.parse::<u64>().unwrap()).sum()
}
