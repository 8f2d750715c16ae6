//! A cluster of real processes on free ports, as a user starts it, in a folder of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::report::clock;

/// One role's process; ends with it.
#[derive(Debug)]
pub(crate) struct Role {
    child: Child,
    /// What it printed as ready, as (role, URL).
    pub(crate) ready: Vec<(String, String)>,
}

impl Role {
    /// Starts `allot ARGS…` and waits for `n_ready` ready lines.
    pub(crate) fn start(allot: &Path, args: &[&str], n_ready: usize) -> anyhow::Result<Self> {
        let mut child = Command::new(allot)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", allot.display()))?;
        let stdout = child.stdout.take().context("the role's stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let mut ready = Vec::new();
        while ready.len() < n_ready {
            let Some(line) = lines.next() else {
                let status = child.wait()?;
                bail!(
                    "`allot {}` ended before it was ready: {status}",
                    args.join(" ")
                );
            };
            let line = line?;
            if let Some((role, url)) = line
                .strip_prefix("ready ")
                .and_then(|rest| rest.split_once(' '))
            {
                ready.push((role.to_owned(), url.to_owned()));
            }
        }
        // Whatever else it prints is read so that it never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, ready })
    }

    /// The URL under which `role` of this process serves.
    pub(crate) fn url(&self, role: &str) -> anyhow::Result<&str> {
        self.ready
            .iter()
            .find(|(name, _)| name == role)
            .map(|(_, url)| url.as_str())
            .with_context(|| format!("no role {role} in this process"))
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill_9(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if let (Ok(None), Ok(pid)) = (self.child.try_wait(), i32::try_from(self.child.id())) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

/// Master, one agent and both frameworks as separate processes.
#[derive(Debug)]
pub(crate) struct Cluster {
    // Dropped in this order: frameworks before the agent before the master.
    services: Role,
    batch: Role,
    agent: Role,
    master: Role,
    folder: tempfile::TempDir,
    allot: PathBuf,
}

impl Cluster {
    /// Starts one; `resources` in Mesos' text form, `isolation` as `allot agent` takes it.
    pub(crate) fn start(allot: &Path, resources: &str, isolation: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (master_dir, agent_dir, batch_dir) = (path("master"), path("agent"), path("batch"));
        let master = Role::start(allot, &["master", "--port", "0", "--data", &master_dir], 1)?;
        let url = master.url("master")?.to_owned();
        let agent = Role::start(
            allot,
            &[
                "agent",
                "--master",
                &url,
                "--port",
                "0",
                "--work-dir",
                &agent_dir,
                "--resources",
                resources,
                "--isolation",
                isolation,
                // A benchmark that is interrupted must leave nothing behind.
                "--tasks-end-with-agent",
            ],
            1,
        )?;
        let batch = Role::start(
            allot,
            &[
                "batch", "--master", &url, "--port", "0", "--data", &batch_dir,
            ],
            1,
        )?;
        let services = Role::start(allot, &["services", "--master", &url, "--port", "0"], 1)?;
        Ok(Self {
            services,
            batch,
            agent,
            master,
            folder,
            allot: allot.to_owned(),
        })
    }

    /// A folder that lives as long as the cluster.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The services framework's URL.
    pub(crate) fn services_url(&self) -> anyhow::Result<&str> {
        self.services.url("services")
    }

    /// The roles' names and process ids.
    pub(crate) fn pids(&self) -> [(&'static str, u32); 4] {
        [
            ("master", self.master.pid()),
            ("agent", self.agent.pid()),
            ("batch", self.batch.pid()),
            ("services", self.services.pid()),
        ]
    }

    /// `allot ARGS…` against this cluster.
    pub(crate) fn allot(&self, args: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(&self.allot);
        command
            .args(args)
            .env("ALLOT_MASTER", self.master.url("master")?)
            .env("ALLOT_SERVICES", self.services.url("services")?)
            .env("ALLOT_BATCH", self.batch.url("batch")?)
            .stdin(Stdio::null());
        Ok(command)
    }
}

/// Runs a command to its end and returns its stdout, unless it takes longer than `patience`:
/// then it is killed, and the error says so.
pub(crate) fn output_within(mut command: Command, patience: Duration) -> anyhow::Result<String> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let start = clock();
    while child.try_wait()?.is_none() {
        if start.elapsed() > patience {
            child.kill()?;
            let said = child.wait_with_output()?;
            bail!(
                "{command:?} did not end within {patience:?}; it had said {:?}",
                String::from_utf8_lossy(&said.stdout)
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    ended(&command, child.wait_with_output()?)
}

/// Runs a command to its end and returns its stdout; its failure is an error with its stderr.
pub(crate) fn output(mut command: Command) -> anyhow::Result<String> {
    let out = command.output()?;
    ended(&command, out)
}

fn ended(command: &Command, out: Output) -> anyhow::Result<String> {
    if !out.status.success() {
        bail!(
            "{command:?} ended with {}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
