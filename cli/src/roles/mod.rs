//! Roles as processes: flags to settings, one `ready` line, a clean end.
//!
//! What a role does is left to its crate.

pub(crate) mod agent;
pub(crate) mod allocator;
pub(crate) mod batch;
pub(crate) mod master;
pub(crate) mod services;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use crate::exit::Failure;
use crate::{output, signals};

/// Flags of every role.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// Print the effective settings and exit
    #[arg(long)]
    print_config: bool,
}

/// A role that serves.
#[derive(Debug)]
pub(crate) enum Role {
    Master(allotment_master::Running),
    Agent(allotment_agent::Running),
    Services(allotment_services::Running),
    Batch(allotment_batch::Running),
}

impl Role {
    /// Its name, as in `allot <name>`.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Master(_) => "master",
            Self::Agent(_) => "agent",
            Self::Services(_) => "services",
            Self::Batch(_) => "batch",
        }
    }

    /// Where it serves.
    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Master(running) => running.url(),
            Self::Agent(running) => running.url(),
            Self::Services(running) => running.url(),
            Self::Batch(running) => running.url(),
        }
    }

    /// Of an agent whose tasks do without some walls: which and why, and what to do.
    pub(crate) fn missing_walls(&self) -> Option<String> {
        let Self::Agent(agent) = self else {
            return None;
        };
        let missing: Vec<_> = agent
            .missing_walls()
            .into_iter()
            .map(|(wall, reason)| format!("{wall} ({reason})"))
            .collect();
        (!missing.is_empty()).then(|| {
            format!(
                "tasks run without {}; run as root on a machine that has them for these walls",
                missing.join(" and ")
            )
        })
    }

    /// Ends it cleanly; what it does for others goes on under the next process of its kind.
    pub(crate) async fn leave(self) {
        match self {
            Self::Agent(running) => running.leave().await,
            other => other.stop().await,
        }
    }

    /// Ends it cleanly, an agent for good: with its tasks.
    pub(crate) async fn stop(self) {
        match self {
            Self::Master(running) => running.stop().await,
            Self::Agent(running) => running.stop().await,
            Self::Services(running) => running.stop().await,
            Self::Batch(running) => running.stop().await,
        }
    }

    /// Waits until it dies by itself, and says why.
    pub(crate) async fn died(&mut self) -> anyhow::Error {
        match self {
            Self::Master(running) => running.wait().await.into(),
            Self::Agent(running) => running.wait().await.into(),
            Self::Services(running) => running.wait().await,
            Self::Batch(running) => running.wait().await.into(),
        }
    }

    /// Waits until it does what it is there for. That is the moment when it listens, except for
    /// services and batch, of which another process may lead; false when it died before.
    pub(crate) async fn serves(&mut self) -> bool {
        match self {
            Self::Services(running) => running.serves().await,
            Self::Batch(running) => running.serves().await,
            Self::Master(_) | Self::Agent(_) => true,
        }
    }

    /// `ready <name> <url>` on stdout.
    pub(crate) fn announce(&self) -> anyhow::Result<()> {
        output::line(&format!("ready {} {}", self.name(), self.url()))
    }
}

/// Says on stderr which walls the tasks of this agent do without, when there are any.
pub(crate) fn note_missing_walls(role: &Role) {
    if let Some(sentence) = role.missing_walls() {
        output::note(&sentence);
    }
}

/// Starts one role and serves until SIGINT, SIGTERM, SIGUSR1 or its death.
pub(crate) async fn serve<C: fmt::Debug, E: Into<anyhow::Error>>(
    common: &Common,
    config: C,
    start: impl AsyncFnOnce(C) -> Result<Role, E>,
) -> anyhow::Result<ExitCode> {
    if common.print_config {
        output::line(&format!("{config:#?}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    // Before the start, so that a signal during it is not lost.
    let mut ended = std::pin::pin!(signals::ended()?);
    let mut removed = std::pin::pin!(signals::removed()?);
    let mut role = tokio::select! {
        role = start(config) => role.map_err(Into::into)?,
        () = &mut ended => return Ok(ExitCode::SUCCESS),
    };
    note_missing_walls(&role);
    let life = async {
        if role.serves().await {
            role.announce()?;
        }
        anyhow::Ok(role.died().await)
    };
    let end = tokio::select! {
        died = life => End::Died(died?),
        () = &mut ended => End::Leaves,
        () = &mut removed => End::IsRemoved,
    };
    match end {
        End::Died(error) => return Err(error.context(format!("the {} died", role.name()))),
        End::Leaves => role.leave().await,
        End::IsRemoved => role.stop().await,
    }
    Ok(ExitCode::SUCCESS)
}

/// How the life of a role comes to its end.
enum End {
    Died(anyhow::Error),
    Leaves,
    IsRemoved,
}

/// Durations on the command line: `15s`, `1m 30s`, `500ms`, `168h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = "give a number with a unit, such as 500ms, 15s, 5m or 168h";
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| wrong.to_owned())?;
    Duration::try_from(parsed).map_err(|_| wrong.to_owned())
}

/// Takes over a flag that was given.
fn set<T>(setting: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *setting = value;
    }
}

/// Settings that contradict each other are wrong usage, not a failure.
pub(crate) fn usage(error: impl fmt::Display) -> anyhow::Error {
    Failure::Usage(error.to_string()).into()
}

/// Where programs keep what lasts and is no setting (XDG base directory specification).
pub(crate) fn state_folder(role: &str) -> anyhow::Result<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .ok_or_else(|| usage("HOME is not set; choose a folder with --data"))?;
    Ok(state.join("allot").join(role))
}

/// The name of the user who runs this process; the number when there is no name.
pub(crate) fn user() -> String {
    let uid = nix::unistd::geteuid();
    let known = nix::unistd::User::from_uid(uid).ok().flatten();
    known.map_or_else(|| uid.to_string(), |user| user.name)
}

/// Where others reach what listens on every interface: by this machine's name. `None`: at the
/// address that it listens on.
pub(crate) fn by_name(ip: IpAddr, port: u16) -> Option<String> {
    // The system picks a port only later.
    let named = ip.is_unspecified() && port != 0;
    named.then(|| format!("http://{}:{port}", hostname()))
}

/// The name of this machine.
pub(crate) fn hostname() -> String {
    let name = nix::unistd::gethostname().ok();
    name.and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// Makes a folder with its parents.
pub(crate) fn make_folder(folder: &std::path::Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| {
        format!(
            "cannot make the folder {}; choose one that you may write",
            folder.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_no_sign() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "15", "-1s", "1 year", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
