//! Process trees without a namespace around them: found through `/proc`, signalled as a whole.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Every descendant of `root`, itself excluded, except `spared` ones and what is below them.
pub(super) fn descendants(root: Pid, spared: &BTreeSet<i32>) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut open = vec![root.as_raw()];
    while let Some(parent) = open.pop() {
        for child in children(parent) {
            if !spared.contains(&child) && found.insert(child) {
                open.push(child);
            }
        }
    }
    found
}

/// The children of one process, of all of its threads.
fn children(parent: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(list) => all.extend(
                list.split_ascii_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            ),
            // The thread ended meanwhile, or this kernel was built without that file.
            Err(_) => all.extend(children_by_scan(parent)),
        }
    }
    all
}

/// The same by looking at every process.
fn children_by_scan(parent: i32) -> Vec<i32> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let parent_of = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; the state and the parent follow the last one.
        let (_, rest) = stat.rsplit_once(')')?;
        rest.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

/// Sends `signal` to every descendant of `root` but the `spared`.
pub(super) fn signal_tree(root: Pid, signal: Signal, spared: &BTreeSet<i32>) {
    for pid in descendants(root, spared) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Kills every descendant of `root` but the `spared`. Those that were forked meanwhile have
/// `root` as their nearest subreaper and are met by the next call.
pub(super) fn kill_tree(root: Pid, spared: &BTreeSet<i32>) {
    // Stopped first, so that nothing forks away between being listed and being killed.
    let mut stopped = BTreeSet::new();
    for _ in 0..100 {
        let alive = descendants(root, spared);
        let fresh: Vec<i32> = alive.difference(&stopped).copied().collect();
        if fresh.is_empty() {
            break;
        }
        for pid in fresh {
            let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
            stopped.insert(pid);
        }
    }
    signal_tree(root, Signal::SIGKILL, spared);
}
