//! HTCondor's event log ("user log") as text: what `condor_wait`, DAGMan and the `JobEventLog`
//! reader parse. Times are local, as HTCondor writes them by default.

use allotment_types::Timestamp;
use jiff::tz::TimeZone;

use super::job::{Exit, JobKey};

/// One event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event<'a> {
    /// 000.
    Submitted {
        /// The submitting host.
        host: &'a str,
    },
    /// 001.
    Executing {
        /// The agent's host.
        host: &'a str,
        /// Where it serves.
        url: &'a str,
    },
    /// 004: a run that was lost.
    Evicted {
        /// In words.
        reason: &'a str,
    },
    /// 004: a run that ended and is tried again.
    Requeued {
        /// How it ended.
        exit: Exit,
        /// In words.
        reason: &'a str,
        /// Bytes brought home.
        sent: u64,
    },
    /// 005.
    Terminated {
        /// How.
        exit: Exit,
        /// Bytes brought home.
        sent: u64,
    },
    /// 009.
    Aborted {
        /// In words.
        reason: &'a str,
    },
    /// 012.
    Held {
        /// In words.
        reason: &'a str,
        /// HTCondor's code.
        code: u32,
        /// HTCondor's subcode.
        subcode: u32,
    },
    /// 013.
    Released {
        /// In words.
        reason: &'a str,
    },
}

/// Appends the text of `event`, `...` included.
pub fn write(out: &mut String, at: Timestamp, zone: &TimeZone, job: JobKey, event: Event<'_>) {
    use std::fmt::Write as _;
    let number = match event {
        Event::Submitted { .. } => 0,
        Event::Executing { .. } => 1,
        Event::Evicted { .. } | Event::Requeued { .. } => 4,
        Event::Terminated { .. } => 5,
        Event::Aborted { .. } => 9,
        Event::Held { .. } => 12,
        Event::Released { .. } => 13,
    };
    // Writing to a string does not fail.
    let _infallible = write!(
        out,
        "{number:03} ({}.{:03}.000) {} ",
        job.cluster,
        job.proc,
        clock(at, zone)
    );
    match event {
        Event::Submitted { host } => {
            let _infallible = writeln!(out, "Job submitted from host: <{}>", line(host));
        }
        Event::Executing { host, url } => {
            let address = url.strip_prefix("http://").unwrap_or(url);
            let _infallible = writeln!(out, "Job executing on host: <{}>", line(address));
            let _infallible = writeln!(out, "\tSlotName: slot1@{}", line(host));
        }
        Event::Evicted { reason } => {
            out.push_str("Job was evicted.\n\t(0) Job was not checkpointed.\n");
            usage(
                out,
                Exit::default(),
                &["Run Remote Usage", "Run Local Usage"],
            );
            bytes(
                out,
                0,
                &["Run Bytes Sent By Job", "Run Bytes Received By Job"],
            );
            let _infallible = writeln!(out, "\t{}", line(reason));
        }
        Event::Requeued { exit, reason, sent } => {
            out.push_str("Job was evicted.\n\t(0) Job terminated and was requeued\n");
            usage(out, exit, &["Run Remote Usage", "Run Local Usage"]);
            bytes(
                out,
                sent,
                &["Run Bytes Sent By Job", "Run Bytes Received By Job"],
            );
            ending(out, exit);
            let _infallible = writeln!(out, "\t{}", line(reason));
        }
        Event::Terminated { exit, sent } => {
            out.push_str("Job terminated.\n");
            ending(out, exit);
            usage(
                out,
                exit,
                &[
                    "Run Remote Usage",
                    "Run Local Usage",
                    "Total Remote Usage",
                    "Total Local Usage",
                ],
            );
            bytes(
                out,
                sent,
                &[
                    "Run Bytes Sent By Job",
                    "Run Bytes Received By Job",
                    "Total Bytes Sent By Job",
                    "Total Bytes Received By Job",
                ],
            );
        }
        Event::Aborted { reason } => {
            let _infallible = writeln!(out, "Job was aborted.\n\t{}", line(reason));
        }
        Event::Held {
            reason,
            code,
            subcode,
        } => {
            let _infallible = writeln!(
                out,
                "Job was held.\n\t{}\n\tCode {code} Subcode {subcode}",
                line(reason)
            );
        }
        Event::Released { reason } => {
            let _infallible = writeln!(out, "Job was released.\n\t{}", line(reason));
        }
    }
    out.push_str("...\n");
}

fn clock(at: Timestamp, zone: &TimeZone) -> impl std::fmt::Display + use<> {
    let seconds = i64::try_from(at.as_millis() / 1000).unwrap_or(0);
    let stamp = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    let local = zone.to_datetime(stamp);
    jiff::fmt::strtime::BrokenDownTime::from(local)
        .to_string("%Y-%m-%d %H:%M:%S")
        .unwrap_or_default()
}

/// Text that stays on its line.
fn line(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(clean).collect()
}

fn ending(out: &mut String, exit: Exit) {
    use std::fmt::Write as _;
    let _infallible = match (exit.code, exit.signal) {
        (_, Some(signal)) => write!(
            out,
            "\t(0) Abnormal termination (signal {signal})\n\t(0) No core file\n"
        ),
        (code, None) => writeln!(
            out,
            "\t(1) Normal termination (return value {})",
            code.unwrap_or(0)
        ),
    };
}

/// CPU time on the first line that says "Remote", nothing on the local ones.
fn usage(out: &mut String, exit: Exit, names: &[&str]) {
    use std::fmt::Write as _;
    let shown = |ns: u64| {
        let seconds = ns / 1_000_000_000;
        format!(
            "{} {:02}:{:02}:{:02}",
            seconds / 86_400,
            seconds / 3600 % 24,
            seconds / 60 % 60,
            seconds % 60
        )
    };
    for name in names {
        let (user, system) = if name.contains("Remote") {
            (exit.user_cpu_ns, exit.system_cpu_ns)
        } else {
            (0, 0)
        };
        let _infallible = writeln!(
            out,
            "\t\tUsr {}, Sys {}  -  {name}",
            shown(user),
            shown(system)
        );
    }
}

fn bytes(out: &mut String, sent: u64, names: &[&str]) {
    use std::fmt::Write as _;
    for name in names {
        let count = if name.contains("Sent") { sent } else { 0 };
        let _infallible = writeln!(out, "\t{count}  -  {name}");
    }
}
