//! What the end of a container means for its task: a state, a reason and a sentence, worded as
//! Mesos' executors word them where they do.

use allotment_proto::allot;
use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::Reason;

use super::Why;
use crate::core::Outcome;

const NEVER_BEGUN: &str =
    "The launcher ended several times before it began this task; the agent's log says why";

/// What the end of a container means for its task.
#[derive(Debug)]
pub(in crate::core) struct Verdict {
    pub(in crate::core) state: TaskState,
    pub(in crate::core) reason: Option<Reason>,
    pub(in crate::core) message: String,
}

impl Verdict {
    pub(in crate::core) fn of(
        why: Option<(Why, bool)>,
        outcome: &Outcome,
        gone: TaskState,
    ) -> Self {
        let verdict = |state, reason, message: String| Self {
            state,
            reason,
            message,
        };
        match (why, outcome) {
            // Too much memory is the truth even when a kill was under way.
            (
                _,
                Outcome::Exited {
                    memory: Some((limit, peak)),
                    ..
                },
            ) => verdict(
                TaskState::TaskFailed,
                Some(Reason::ContainerLimitationMemory),
                memory_message(*limit, *peak),
            ),
            (
                _,
                Outcome::Exited {
                    disk: Some((limit, used)),
                    ..
                },
            ) => verdict(
                TaskState::TaskFailed,
                Some(Reason::ContainerLimitationDisk),
                format!(
                    "Disk limit exceeded: the task asked {} and its sandbox holds {}; ask for \
                     more `disk`",
                    mib(*limit),
                    mib(*used)
                ),
            ),
            (Some((Why::Asked, true)), _) => verdict(
                TaskState::TaskKilled,
                Some(Reason::TaskKilledDuringLaunch),
                "Killed before it ran".to_owned(),
            ),
            (Some((Why::AgentStops, _)), _) => verdict(
                gone,
                Some(Reason::AgentRemoved),
                "The agent was stopped, and its tasks with it".to_owned(),
            ),
            (Some((Why::MaxCompletionTime, _)), _) => verdict(
                TaskState::TaskFailed,
                Some(Reason::MaxCompletionTimeReached),
                "Killed because it ran longer than its max_completion_time".to_owned(),
            ),
            (Some((Why::Unhealthy, _)), _) => verdict(
                TaskState::TaskKilled,
                Some(Reason::TaskHealthCheckStatusUpdated),
                "Killed because its health check failed too often".to_owned(),
            ),
            (Some((Why::Group, _)), _) => verdict(
                TaskState::TaskKilled,
                None,
                "Killed because another task of its group failed or was killed".to_owned(),
            ),
            (Some((Why::ExecutorShutdown, _)), _) => verdict(
                TaskState::TaskKilled,
                None,
                "Killed because its framework ended the executor".to_owned(),
            ),
            (Some((Why::Asked, false)), Outcome::Exited { exit, .. }) => {
                verdict(TaskState::TaskKilled, None, exit_message(exit))
            }
            (
                Some((Why::Asked, false)),
                Outcome::NotStarted { message }
                | Outcome::Lost { message }
                | Outcome::Restarted { message },
            ) => verdict(TaskState::TaskKilled, None, message.clone()),
            (Some((Why::Asked, false)), Outcome::NeverBegun) => {
                verdict(TaskState::TaskKilled, None, NEVER_BEGUN.to_owned())
            }
            (None, Outcome::Exited { exit, .. }) if exit.code == Some(0) => {
                verdict(TaskState::TaskFinished, None, exit_message(exit))
            }
            (
                None,
                Outcome::Exited {
                    exit, disk_full, ..
                },
            ) => {
                let mut message = exit_message(exit);
                if *disk_full {
                    message.push_str(
                        "; the disk of its sandbox is full, which may be why: free space on the \
                         agent",
                    );
                }
                verdict(TaskState::TaskFailed, None, message)
            }
            (None, Outcome::NotStarted { message }) => verdict(
                TaskState::TaskFailed,
                Some(Reason::ContainerLaunchFailed),
                message.clone(),
            ),
            (None, Outcome::NeverBegun) => verdict(
                TaskState::TaskFailed,
                Some(Reason::ContainerLaunchFailed),
                NEVER_BEGUN.to_owned(),
            ),
            (None, Outcome::Lost { message }) => {
                verdict(gone, Some(Reason::ExecutorTerminated), message.clone())
            }
            (None, Outcome::Restarted { message }) => {
                verdict(gone, Some(Reason::AgentRestarted), message.clone())
            }
        }
    }
}

/// As Mesos' command executor words it.
fn exit_message(exit: &allot::TaskExit) -> String {
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("Command exited with status {code}"),
        (None, Some(signal)) => format!("Command terminated with signal {}", signal_name(signal)),
        (None, None) => "Command ended in an unknown way".to_owned(),
    }
}

/// `SIGKILL` for 9; real-time signals by number.
fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal)
        .map_or_else(|_| format!("{signal}"), |name| name.as_str().to_owned())
}

fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn memory_message(limit: u64, peak: Option<u64>) -> String {
    let used = peak.map_or_else(String::new, |peak| format!(" and used up to {}", mib(peak)));
    format!(
        "Memory limit exceeded: the task asked {}{used}; ask for more `mem`",
        mib(limit)
    )
}
