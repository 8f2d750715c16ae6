//! Which submit commands are known, and what becomes of those that are not.
//!
//! A command that would change what runs, when or where, and that this version does not do, is
//! refused: a job that silently ran without its `requirements` would be worse than none.

/// A command that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are HTCondor's")]
pub enum Command {
    Arguments,
    BatchName,
    Environment,
    Error,
    Executable,
    Getenv,
    Hold,
    InitialDir,
    Input,
    Log,
    MaxRetries,
    Notification,
    Output,
    Priority,
    RequestCpus,
    RequestDisk,
    RequestMemory,
    RetryUntil,
    ShouldTransferFiles,
    SuccessExitCode,
    TransferExecutable,
    TransferInput,
    TransferOutput,
    Universe,
    WhenToTransferOutput,
}

impl Command {
    /// HTCondor's name and its other spellings, all in lower case; the first that is set counts.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Arguments => &["arguments", "args"],
            Self::BatchName => &["batch_name", "jobbatchname"],
            Self::Environment => &["environment", "env"],
            Self::Error => &["error", "err", "stderr"],
            Self::Executable => &["executable", "cmd"],
            Self::Getenv => &["getenv", "get_env"],
            Self::Hold => &["hold"],
            Self::InitialDir => &["initialdir", "initial_dir", "iwd", "job_iwd"],
            Self::Input => &["input", "in", "stdin"],
            Self::Log => &["log", "userlog", "user_log"],
            Self::MaxRetries => &["max_retries", "jobmaxretries"],
            Self::Notification => &["notification", "jobnotification"],
            Self::Output => &["output", "out", "stdout"],
            Self::Priority => &["priority", "prio", "jobprio"],
            Self::RequestCpus => &["request_cpus", "requestcpus"],
            Self::RequestDisk => &["request_disk", "requestdisk"],
            Self::RequestMemory => &["request_memory", "requestmemory"],
            Self::RetryUntil => &["retry_until"],
            Self::ShouldTransferFiles => &["should_transfer_files", "shouldtransferfiles"],
            Self::SuccessExitCode => &["success_exit_code", "jobsuccessexitcode"],
            Self::TransferExecutable => &["transfer_executable", "transferexecutable"],
            Self::TransferInput => &[
                "transfer_input_files",
                "transferinputfiles",
                "transferinput",
            ],
            Self::TransferOutput => &[
                "transfer_output_files",
                "transferoutputfiles",
                "transferoutput",
            ],
            Self::Universe => &["universe", "jobuniverse"],
            Self::WhenToTransferOutput => &["when_to_transfer_output", "whentotransferoutput"],
        }
    }

    const ALL: [Self; 25] = [
        Self::Arguments,
        Self::BatchName,
        Self::Environment,
        Self::Error,
        Self::Executable,
        Self::Getenv,
        Self::Hold,
        Self::InitialDir,
        Self::Input,
        Self::Log,
        Self::MaxRetries,
        Self::Notification,
        Self::Output,
        Self::Priority,
        Self::RequestCpus,
        Self::RequestDisk,
        Self::RequestMemory,
        Self::RetryUntil,
        Self::ShouldTransferFiles,
        Self::SuccessExitCode,
        Self::TransferExecutable,
        Self::TransferInput,
        Self::TransferOutput,
        Self::Universe,
        Self::WhenToTransferOutput,
    ];
}

/// What becomes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Known(Command),
    /// It is accepted and changes nothing; why, in words.
    NoEffect(&'static str),
    /// It is refused unless it is empty or has a value that changes nothing; what to do instead.
    Refused(&'static str),
    /// A macro of the user's own.
    Custom,
}

const PLACEMENT: &str = "jobs go to any agent with enough cpus, memory and disk; leave it out";
const POLICY: &str = "hold, release or remove jobs with `allot job`, and use max_retries for \
                      jobs that fail";
const CONTAINER: &str = "jobs run as plain processes; make the executable bring what it needs";
const TRANSFER: &str = "every new or changed file at the top of the sandbox comes back, or what \
                        transfer_output_files names; leave it out";
const LIMITS: &str = "limits across jobs do not exist; submit fewer at a time";
const SCHEDULE: &str = "jobs run as soon as there is room; leave it out";
const MAIL: &str = "no mail is sent";
const ACCOUNT: &str = "all jobs share one account";
const STREAM: &str = "output comes home when the job ends; `allot job logs -f` shows it before";

/// Refused commands: all names in lower case; a `*` at the end stands for any rest.
const REFUSED: &[(&str, &str)] = &[
    ("allowed_execute_duration", POLICY),
    ("allowed_job_duration", POLICY),
    ("append_files", TRANSFER),
    ("checkpoint_*", POLICY),
    ("concurrency_limits*", LIMITS),
    ("container_*", CONTAINER),
    ("cron_*", SCHEDULE),
    ("deferral_*", SCHEDULE),
    ("docker_*", CONTAINER),
    ("encrypt_*", TRANSFER),
    ("grid_*", "only universe vanilla is done"),
    ("hold_kill_sig", POLICY),
    ("kill_sig*", POLICY),
    (
        "leave_in_queue",
        "ended jobs are found in `allot job history`; leave it out",
    ),
    (
        "leavejobinqueue",
        "ended jobs are found in `allot job history`; leave it out",
    ),
    ("machine_count", "a job runs on one agent; leave it out"),
    ("max_idle", LIMITS),
    ("max_materialize", LIMITS),
    ("max_transfer_*", TRANSFER),
    ("noop_job*", "remove the job instead"),
    ("on_exit_hold*", POLICY),
    ("on_exit_remove*", POLICY),
    ("onexithold*", POLICY),
    ("onexitremove*", POLICY),
    ("output_destination", TRANSFER),
    ("periodic_*", POLICY),
    ("periodichold*", POLICY),
    ("periodicrelease*", POLICY),
    ("periodicremove*", POLICY),
    ("preserve_relative_paths", TRANSFER),
    ("rank", PLACEMENT),
    ("remove_kill_sig", POLICY),
    ("request_*", "only cpus, memory and disk can be asked for"),
    ("requestgpus", "only cpus, memory and disk can be asked for"),
    ("requirements", PLACEMENT),
    ("retry_request_*", "ask for what the job needs at most"),
    ("root_dir", CONTAINER),
    ("success_checkpoint*", POLICY),
    ("transfer_checkpoint_files", TRANSFER),
    ("transfer_output_remaps", TRANSFER),
    ("transferoutputremaps", TRANSFER),
    ("transfer_plugins", TRANSFER),
    ("vm_*", "only universe vanilla is done"),
    ("x509*", "jobs have no grid identity"),
    ("use_x509*", "jobs have no grid identity"),
];

/// Commands that are accepted without an effect.
const NO_EFFECT: &[(&str, &str)] = &[
    ("accounting_group*", ACCOUNT),
    (
        "copy_to_spool",
        "the executable is read when the job starts",
    ),
    ("coresize", "core files are not brought back"),
    ("description", "it is not shown"),
    ("email_attributes", MAIL),
    (
        "job_lease_duration",
        "running jobs are kept for a week without the queue",
    ),
    ("job_max_vacate_time", "the agent's grace counts"),
    ("nice_user", ACCOUNT),
    ("notify_user", MAIL),
    ("run_as_owner", "jobs run as the queue's user"),
    ("stream_error", STREAM),
    ("stream_input", STREAM),
    ("stream_output", STREAM),
    (
        "want_graceful_removal",
        "removed jobs get SIGTERM first, always",
    ),
];

/// What becomes of the command `name`.
pub fn judge(name: &str) -> Verdict {
    let name = name.to_ascii_lowercase();
    for command in Command::ALL {
        if command.names().contains(&name.as_str()) {
            return Verdict::Known(command);
        }
    }
    let matches = |pattern: &str| match pattern.strip_suffix('*') {
        Some(head) => name.starts_with(head),
        None => name == pattern,
    };
    if let Some((_, instead)) = REFUSED.iter().find(|(pattern, _)| matches(pattern)) {
        return Verdict::Refused(instead);
    }
    if let Some((_, why)) = NO_EFFECT.iter().find(|(pattern, _)| matches(pattern)) {
        return Verdict::NoEffect(why);
    }
    Verdict::Custom
}

/// Whether `value` asks of a refused command only what happens anyway.
pub fn is_harmless(name: &str, value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    let name = name.to_ascii_lowercase();
    value.is_empty()
        || matches!(
            (name.as_str(), value.as_str()),
            ("requirements" | "on_exit_remove", "true")
                | (
                    "leave_in_queue"
                        | "periodic_hold"
                        | "periodic_remove"
                        | "periodic_release"
                        | "on_exit_hold"
                        | "noop_job",
                    "false"
                )
                | ("machine_count", "1")
                | ("rank" | "request_gpus", "0" | "0.0")
        )
}
