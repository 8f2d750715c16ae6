//! Which process a candidate is, and whether it is dead.
//!
//! A process of this machine that has ended will never do anything again, so nobody has to wait
//! for its lease. A stopped one is not dead.

use std::fs;

use allotment_proto::allot;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// This process as a candidate who serves at `url`.
pub(super) fn own(url: String) -> allot::Candidate {
    let pid = std::process::id();
    allot::Candidate {
        process: uuid::Uuid::new_v4().to_string(),
        url,
        boot_id: boot_id(),
        pid_namespace: pid_namespace(),
        pid: Some(pid),
        started: stat(pid).map(|stat| stat.started),
    }
}

/// Whether `other` ran in this run of this machine, where its number means the same as here.
pub(super) fn is_neighbour(own: &allot::Candidate, other: &allot::Candidate) -> bool {
    let known = own.boot_id.is_some() && own.pid_namespace.is_some();
    known && own.boot_id == other.boot_id && own.pid_namespace == other.pid_namespace
}

/// Whether `other` is certainly dead. In doubt it is not.
pub(super) fn is_dead(own: &allot::Candidate, other: &allot::Candidate) -> bool {
    let (Some(pid), Some(started)) = (other.pid, other.started) else {
        return false;
    };
    let Some(number) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else {
        return false;
    };
    if !is_neighbour(own, other) {
        return false;
    }
    // No signal, only the question. A number that nobody has; `/proc` may hide those of others.
    if kill(Pid::from_raw(number), None) == Err(Errno::ESRCH) {
        return true;
    }
    // The number may have been given to another process since.
    stat(pid).is_some_and(|stat| stat.started != started || stat.ended)
}

struct Stat {
    started: u64,
    ended: bool,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold anything, brackets too.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    // The third field: a zombie has ended and waits to be counted.
    let ended = matches!(fields.next()?, "Z" | "X" | "x");
    let started = fields.nth(18)?.parse().ok()?;
    Some(Stat { started, ended })
}

fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

fn pid_namespace() -> Option<String> {
    let link = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(link.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_not_dead() {
        let me = own("http://a:1".to_owned());
        assert!(is_neighbour(&me, &me));
        assert!(!is_dead(&me, &me));
    }

    #[test]
    fn a_process_that_was_killed_is_dead_even_before_it_is_reaped() {
        let me = own("http://a:1".to_owned());
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let other = allot::Candidate {
            pid: Some(child.id()),
            started: stat(child.id()).map(|stat| stat.started),
            ..me.clone()
        };
        assert!(!is_dead(&me, &other));
        child.kill().unwrap();
        while !is_dead(&me, &other) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(is_dead(&me, &other));
    }

    #[test]
    fn a_number_that_another_process_has_now_tells_that_the_first_is_dead() {
        let me = own("http://a:1".to_owned());
        let other = allot::Candidate {
            started: me.started.map(|ticks| ticks + 1),
            ..me.clone()
        };
        assert!(is_dead(&me, &other));
    }

    #[test]
    fn nothing_is_known_of_processes_elsewhere() {
        let me = own("http://a:1".to_owned());
        let gone = allot::Candidate {
            started: me.started.map(|ticks| ticks + 1),
            ..me.clone()
        };
        let elsewhere = [
            allot::Candidate {
                boot_id: Some("another".to_owned()),
                ..gone.clone()
            },
            allot::Candidate {
                pid_namespace: None,
                ..gone.clone()
            },
            allot::Candidate {
                pid: Some(u32::MAX),
                ..gone
            },
        ];
        for other in elsewhere {
            assert!(!is_dead(&me, &other), "{other:?}");
        }
    }
}
