//! `allot run`: one task, its output streamed, its exit code returned.
//!
//! - [`once`]: which offer to use and how far the task is, without sockets.
//! - [`streams`]: the task's output as it grows.
//! - [`waiting`]: why it does not run yet.

mod once;
mod streams;
mod waiting;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use allotment_framework_sdk::api::TaskState;
use allotment_framework_sdk::{Command, Config, Event, Scheduler, Task, TerminalSize, Update};
use allotment_proto::allot::{ListAgentsRequest, WhyRequest};
use allotment_types::{Fixed, Resources, Role, TaskId};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::context::Context;
use crate::exit::{self, Failure};
use crate::output;
use once::{Once, Stage};
use streams::Streams;

/// What a shell reports after Ctrl-C and SIGTERM.
const INTERRUPTED: u8 = 128 + 2;
const TERMINATED: u8 = 128 + 15;

/// Nobody wants to read why a task waited for half a second.
const FIRST_NOTICE: Duration = Duration::from_secs(1);
const NEXT_NOTICE: Duration = Duration::from_secs(5);
/// Between SIGTERM and SIGKILL after Ctrl-C; a second Ctrl-C ends the wait.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// A master may restart under a running task; a killed `allot run` must not leave one behind.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(10);
const TEARDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `allot run`.
///
/// Exits with the command's exit code, or 128 + N when signal N ended it. When `allot run` itself
/// fails it exits with 200 + N, where N is what any other command would have exited with: 201 the
/// task ended without an exit code (never started, lost), 202 wrong usage, 204 the master cannot
/// be reached. Ctrl-C kills the task and exits with 130.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit codes:
  N        the command's own exit code
  128 + N  signal N ended the command (130 after Ctrl-C)
  201      the task ended without an exit code: it never started, or was lost
  202      wrong usage (2 when a flag is unknown or malformed)
  204      the master cannot be reached

The command's standard input is empty, also with --tty until somebody attaches. Its output is copied as it is written.")]
pub(crate) struct Args {
    /// Cores
    #[arg(long, default_value = "1", value_name = "CORES", value_parser = amount, allow_negative_numbers = true)]
    cpus: Fixed,

    /// Memory in MiB
    #[arg(long, default_value = "128", value_name = "MIB", value_parser = amount, allow_negative_numbers = true)]
    mem: Fixed,

    /// The role to take offers in
    #[arg(long, default_value = "*")]
    role: Role,

    /// An environment variable; K alone takes its value from here (repeatable)
    #[arg(long, short, value_name = "K=V")]
    env: Vec<String>,

    /// Start the command at a terminal; `allot task attach` then types to it
    #[arg(long, short)]
    tty: bool,

    /// What to call the task [default: the command]
    #[arg(long)]
    name: Option<String>,

    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

fn amount(text: &str) -> Result<Fixed, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let amount = Fixed::from_f64(number).map_err(|error| error.to_string())?;
    if amount.is_zero() {
        return Err("must be at least 0.001".to_owned());
    }
    Ok(amount)
}

/// Runs the command.
pub(crate) async fn run(ctx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    Ok(exit::of_command(try_run(ctx, args).await))
}

async fn try_run(ctx: &Context, args: Args) -> anyhow::Result<u8> {
    let role = args.role.clone();
    let task = task(args)?;
    let config = Config {
        user: crate::roles::user(),
        roles: vec![role],
        failover_timeout: FAILOVER_TIMEOUT,
        masters: ctx.masters.clone(),
        ..Config::new(&ctx.master, format!("run {}", task.name))
    };
    let mut signals = Signals::listen()?;
    let scheduler =
        Scheduler::connect(config).map_err(|error| Failure::Usage(error.to_string()))?;
    let mut job = Job {
        ctx,
        scheduler,
        once: Once::new(task),
        streams: None,
        signalled: None,
        n_signals: 0,
        told: String::new(),
    };
    let ended = job.until_ended(&mut signals).await;
    let code = match ended {
        Ok(()) => job.finish().await,
        Err(error) => Err(error),
    };
    // Whatever happened: nothing of this run stays in the cluster.
    if job.scheduler.framework().is_some() {
        let teardown = tokio::time::timeout(TEARDOWN_TIMEOUT, job.scheduler.teardown());
        if teardown.await.is_err() {
            output::complain(&format!(
                "the master did not confirm the end of this framework; it removes it, with its \
                 task, within {} s",
                FAILOVER_TIMEOUT.as_secs()
            ));
        }
    }
    code
}

/// What is to run, from the command line.
fn task(args: Args) -> Result<Task, Failure> {
    let mut command = args.command.into_iter();
    // clap demands at least one word.
    let program = command.next().unwrap_or_default();
    let base = program.rsplit('/').next().unwrap_or_default();
    let name = args.name.unwrap_or_else(|| base.to_owned());
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(Failure::Usage(format!(
            "{name:?} is no name for a task; give one with --name, without control characters"
        )));
    }
    let readable = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let stem: String = name.chars().filter(|c| readable(*c)).take(32).collect();
    let id = TaskId::parse(&format!("run-{stem}.{}", std::process::id()))
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let mut env = BTreeMap::new();
    for variable in args.env {
        let (key, value) = match variable.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => {
                let value = std::env::var(&variable).map_err(|error| {
                    Failure::Usage(format!(
                        "--env {variable} takes the value from here, but there is none ({error}); \
                         write --env {variable}=VALUE"
                    ))
                })?;
                (variable, value)
            }
        };
        if key.is_empty() || key.contains('\0') || value.contains('\0') {
            return Err(Failure::Usage(format!(
                "--env {key:?} is no variable; write --env NAME=VALUE"
            )));
        }
        env.insert(key, value);
    }
    let arguments = command.collect();
    let resources = Resources::cpus_mem(args.cpus, args.mem);
    let terminal = args.tty.then(|| {
        let size = crate::task::window();
        let side = |n: u32| u16::try_from(n).unwrap_or(0);
        TerminalSize {
            rows: side(size.rows),
            columns: side(size.columns),
        }
    });
    Ok(Task {
        name,
        env,
        terminal,
        ..Task::new(id, resources, Command::Exec { program, arguments })
    })
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The exit code that the next signal asks for.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => TERMINATED,
        }
    }
}

struct Job<'a> {
    ctx: &'a Context,
    scheduler: Scheduler,
    once: Once,
    streams: Option<Streams>,
    /// The exit code of the last signal that we got.
    signalled: Option<u8>,
    n_signals: u32,
    /// The last notice, so that the same is not said twice.
    told: String,
}

impl Job<'_> {
    /// Runs until the task has ended, or was called off before it began.
    async fn until_ended(&mut self, signals: &mut Signals) -> anyhow::Result<()> {
        let mut notice = Instant::now() + FIRST_NOTICE;
        let mut events = Vec::new();
        loop {
            match self.once.stage() {
                Stage::Ended { .. } => return Ok(()),
                Stage::Waiting if self.signalled.is_some() => return Ok(()),
                // Neither asking nor force helped; the teardown tells the agent when it is back.
                _ if self.n_signals > 2 => return Ok(()),
                Stage::Running { agent_url } if self.streams.is_none() => {
                    let agent_url = agent_url.clone();
                    self.start_streams(agent_url);
                }
                Stage::Waiting | Stage::Launched { .. } | Stage::Running { .. } => {}
            }
            let waiting = *self.once.stage() == Stage::Waiting;
            tokio::select! {
                n = self.scheduler.next_batch(&mut events) => {
                    if n == 0 {
                        anyhow::bail!("the master ended the subscription");
                    }
                    for event in events.drain(..) {
                        self.on_event(event).await?;
                    }
                }
                code = signals.next() => self.on_signal(code).await?,
                () = tokio::time::sleep_until(notice), if waiting => {
                    self.explain().await;
                    notice = Instant::now() + NEXT_NOTICE;
                }
                failed = failed(self.streams.as_mut()) => {
                    // Our reader is gone: so is the reason to go on.
                    self.streams = None;
                    let calls = self.once.kill(Duration::ZERO);
                    self.scheduler.call_all(calls).await?;
                    return failed;
                }
            }
        }
    }

    async fn on_event(&mut self, event: Event) -> anyhow::Result<()> {
        match &event {
            Event::Disconnected { reason } if self.scheduler.framework().is_none() => {
                let advice = "or name another with --master or ALLOT_MASTER";
                return Err(Failure::Unreachable(format!("{reason}, {advice}")).into());
            }
            Event::Disconnected { reason } => {
                note(&format!("{reason}; trying again"));
            }
            Event::Error(message) => anyhow::bail!("the master ended this run: {message}"),
            Event::Rejected { call, message } if call == "ACCEPT" => {
                anyhow::bail!("the master refused the launch: {message}");
            }
            Event::Update(update) if update.state == TaskState::TaskUnreachable => {
                note("the task's agent is unreachable; waiting for it to come back");
            }
            Event::Subscribed { .. }
            | Event::Offers(_)
            | Event::Rescinded(_)
            | Event::InverseOffers(_)
            | Event::InverseRescinded(_)
            | Event::Update(_)
            | Event::AgentLost(_)
            | Event::Executor { .. }
            | Event::Rejected { .. } => {}
        }
        let calls = self.once.step(event);
        Ok(self.scheduler.call_all(calls).await?)
    }

    async fn on_signal(&mut self, code: u8) -> anyhow::Result<()> {
        let grace = match self.signalled {
            None => KILL_GRACE,
            Some(_) => Duration::ZERO,
        };
        self.signalled = Some(code);
        self.n_signals += 1;
        let calls = self.once.kill(grace);
        Ok(self.scheduler.call_all(calls).await?)
    }

    fn start_streams(&mut self, agent_url: String) {
        if let Some(framework) = self.scheduler.framework() {
            let task = self.once.task().id.clone();
            self.streams = Some(Streams::start(agent_url, framework.clone(), task));
        }
    }

    /// Says, once for each reason, what the task waits for.
    async fn explain(&mut self) {
        let text = match self.reasons().await {
            Ok(text) => text,
            // Nothing is worse than before: the task waits, and nobody knows why.
            Err(error) => format!("waiting for an offer; why is not known: {error:#}"),
        };
        if text != self.told {
            note(&text);
            self.told = text;
        }
    }

    async fn reasons(&self) -> anyhow::Result<String> {
        let asked = async {
            let mut operator = self.ctx.operator().await?;
            let agents = operator.list_agents(ListAgentsRequest {}).await;
            let agents = agents
                .map_err(|s| self.ctx.refused(&s))?
                .into_inner()
                .agents;
            let asked = &self.once.task().resources;
            let mut text = waiting::explain(asked, &agents);
            // Where there is room, only the allocator knows why it goes to others.
            if let Some(framework) = self.scheduler.framework()
                && waiting::has_room(asked, &agents)
                && let Ok(why) = operator
                    .why(WhyRequest {
                        subject: framework.to_string(),
                        kind: None,
                    })
                    .await
            {
                for line in &why.into_inner().lines {
                    text.push_str("\n  ");
                    text.push_str(&line.replace(char::is_control, " "));
                }
            }
            Ok(text)
        };
        tokio::time::timeout(NEXT_NOTICE, asked)
            .await
            .unwrap_or_else(|_| anyhow::bail!("the master does not answer"))
    }

    /// Copies what is left of the output and says with which code to exit.
    async fn finish(&mut self) -> anyhow::Result<u8> {
        let Stage::Ended { agent_url, update } = self.once.stage() else {
            return Ok(self.signalled.unwrap_or(INTERRUPTED));
        };
        let (agent_url, update) = (agent_url.clone(), update.clone());
        let summary = update.sandbox.as_ref();
        let silent = summary.is_some_and(|s| s.stdout_bytes == 0 && s.stderr_bytes == 0);
        let ran = update.exit.is_some() || summary.is_some();
        if let Some(agent_url) = agent_url
            && self.streams.is_none()
            && ran
            && !silent
        {
            self.start_streams(agent_url);
        }
        if let Some(streams) = self.streams.take()
            && !silent
        {
            streams.finish(summary).await?;
        }
        exit_code(&update, self.signalled)
    }
}

/// Waits until copying the output fails; for ever when nothing is copied.
async fn failed(streams: Option<&mut Streams>) -> anyhow::Result<()> {
    match streams {
        Some(streams) => streams.failed().await,
        None => std::future::pending().await,
    }
}

/// What an ended task means for our own exit code.
fn exit_code(update: &Update, signalled: Option<u8>) -> anyhow::Result<u8> {
    let exit = update.exit.as_ref();
    let code = exit.and_then(|exit| exit.code);
    let signal = exit.and_then(|exit| exit.signal);
    if let Some(signalled) = signalled {
        return Ok(signalled);
    }
    let state = update.state.as_str_name();
    let message = update.message.as_deref().unwrap_or(state);
    match (code, signal) {
        (Some(code), _) => {
            // The code speaks for itself, unless the agent adds something: a full disk.
            if message.contains("; ") {
                output::complain(message);
            }
            Ok(u8::try_from(code).unwrap_or(1))
        }
        (None, Some(signal)) => {
            output::complain(message);
            Ok(u8::try_from(signal).map_or(255, |signal| signal.saturating_add(128)))
        }
        (None, None) => anyhow::bail!("the task did not run to its end: {message} ({state})"),
    }
}

fn note(text: &str) {
    output::error_bytes(format!("{text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use allotment_framework_sdk::api::Source;
    use allotment_proto::allot::TaskExit;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(words: &[&str]) -> Result<Task, String> {
        let words = std::iter::once("run").chain(words.iter().copied());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        task(cli.args).map_err(|error| error.to_string())
    }

    fn ended(state: TaskState, code: Option<i32>, signal: Option<i32>) -> Update {
        Update {
            task: "t".parse().unwrap(),
            agent: None,
            state,
            message: None,
            reason: None,
            source: Source::Agent,
            exit: (code.is_some() || signal.is_some()).then(|| TaskExit {
                code,
                signal,
                ..TaskExit::default()
            }),
            sandbox: None,
            healthy: None,
            timestamp: 0.0,
            uuid: None,
        }
    }

    #[test]
    fn everything_after_the_dashes_is_the_command() {
        let task = parsed(&[
            "--cpus",
            "0.5",
            "--mem=64",
            "--",
            "/bin/echo",
            "--cpus",
            "9",
        ])
        .unwrap();
        assert_eq!(task.resources, "cpus:0.5; mem:64".parse().unwrap());
        assert_eq!(task.name, "echo");
        assert_eq!(
            task.command,
            Command::Exec {
                program: "/bin/echo".to_owned(),
                arguments: vec!["--cpus".to_owned(), "9".to_owned()],
            }
        );
    }

    #[test]
    fn absurd_amounts_are_refused_before_anything_starts() {
        for cpus in ["-1", "nan", "inf", "0", "1e300", "many"] {
            assert!(parsed(&["--cpus", cpus, "--", "true"]).is_err(), "{cpus}");
        }
        assert!(parsed(&["--cpus", "1"]).is_err());
        assert!(parsed(&["--", "bin/"]).unwrap_err().contains("--name"));
    }

    #[test]
    fn a_variable_may_hold_equal_signs_and_must_have_a_name() {
        let task = parsed(&["-e", "A=b=c", "--", "true"]).unwrap();
        assert_eq!(task.env["A"], "b=c");
        assert!(parsed(&["-e", "=x", "--", "true"]).is_err());
        let missing = parsed(&["-e", "NO_SUCH_VARIABLE", "--", "true"]).unwrap_err();
        assert!(missing.contains("NO_SUCH_VARIABLE=VALUE"), "{missing}");
    }

    #[test]
    fn the_exit_code_is_the_commands_or_tells_that_there_is_none() {
        let code = |update| exit_code(&update, None).ok();
        assert_eq!(code(ended(TaskState::TaskFinished, Some(0), None)), Some(0));
        assert_eq!(code(ended(TaskState::TaskFailed, Some(3), None)), Some(3));
        assert_eq!(code(ended(TaskState::TaskFailed, None, Some(9))), Some(137));
        assert_eq!(code(ended(TaskState::TaskGone, None, None)), None);
        let killed = ended(TaskState::TaskKilled, None, Some(15));
        assert_eq!(exit_code(&killed, Some(INTERRUPTED)).ok(), Some(130));
    }
}
