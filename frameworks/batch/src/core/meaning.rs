//! What a status update means for a job.

use allotment_framework_sdk::Update;
use allotment_framework_sdk::api::{Reason, TaskState};

use super::job::Exit;

/// HTCondor's HoldReasonCode and HoldReasonSubCode.
pub(super) mod codes {
    pub(in crate::core) const USER: u32 = 1;
    pub(in crate::core) const CANNOT_START: u32 = 6;
    pub(in crate::core) const OUTPUT: u32 = 7;
    pub(in crate::core) const TRANSFER_OUTPUT: u32 = 12;
    pub(in crate::core) const TRANSFER_INPUT: u32 = 13;
    pub(in crate::core) const INITIAL_DIR: u32 = 14;
    pub(in crate::core) const LIMIT: u32 = 34;
    pub(in crate::core) const LIMIT_MEMORY: u32 = 102;
    pub(in crate::core) const LIMIT_DISK: u32 = 104;
}

/// What an update means for the current run.
pub(super) enum Meaning {
    /// It goes on.
    Alive,
    /// It runs.
    Started,
    /// It ended by itself; and what the agent adds.
    Exited(Exit, Option<String>),
    /// It will not get better by running again.
    Hold(u32, u32, String),
    /// It is gone through no fault of its own.
    Lost(String),
}

/// Reads an update of a job's current run.
pub(super) fn meaning(update: &Update) -> Meaning {
    let message = || {
        let text = update.message.clone().filter(|text| !text.is_empty());
        text.unwrap_or_else(|| update.state.as_str_name().to_owned())
    };
    let exit = update.exit.as_ref().map(|exit| Exit {
        code: exit.code,
        signal: exit.signal,
        user_cpu_ns: exit.user_cpu_ns,
        system_cpu_ns: exit.system_cpu_ns,
        max_rss_bytes: exit.max_rss_bytes,
    });
    match update.state {
        TaskState::TaskStaging
        | TaskState::TaskStarting
        | TaskState::TaskKilling
        | TaskState::TaskUnknown => Meaning::Alive,
        TaskState::TaskRunning => Meaning::Started,
        TaskState::TaskFinished => {
            let exit = exit.unwrap_or_else(|| Exit {
                code: Some(0),
                ..Exit::default()
            });
            Meaning::Exited(exit, None)
        }
        TaskState::TaskFailed => match (update.reason, exit) {
            (Some(Reason::ContainerLimitationMemory), _) => {
                Meaning::Hold(codes::LIMIT, codes::LIMIT_MEMORY, message())
            }
            (Some(Reason::ContainerLimitationDisk), _) => {
                Meaning::Hold(codes::LIMIT, codes::LIMIT_DISK, message())
            }
            (Some(Reason::ContainerLimitation | Reason::MaxCompletionTimeReached), _) => {
                Meaning::Hold(codes::LIMIT, 0, message())
            }
            (Some(Reason::ContainerLaunchFailed), _) => {
                let text = message();
                // Mesos has one reason for both; the fetcher says what it could not fetch.
                let code = if text.to_ascii_lowercase().contains("fetch") {
                    codes::TRANSFER_INPUT
                } else {
                    codes::CANNOT_START
                };
                Meaning::Hold(code, 0, text)
            }
            (_, Some(exit)) => {
                // "Command exited with status 1; the disk of its sandbox is full, ..."
                let message = update.message.as_deref().and_then(|m| m.split_once("; "));
                Meaning::Exited(exit, message.map(|(_, remark)| remark.to_owned()))
            }
            (_, None) => Meaning::Lost(message()),
        },
        TaskState::TaskError => Meaning::Hold(codes::CANNOT_START, 0, message()),
        // Not by us: a run that we kill is no longer current.
        TaskState::TaskKilled => {
            let text = format!(
                "its task was killed from outside ({}); release the job to run it again",
                message()
            );
            Meaning::Hold(codes::USER, 0, text)
        }
        TaskState::TaskLost
        | TaskState::TaskDropped
        | TaskState::TaskUnreachable
        | TaskState::TaskGone
        | TaskState::TaskGoneByOperator => Meaning::Lost(message()),
    }
}
