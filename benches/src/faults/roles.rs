//! The roles of a cluster as real processes, each on a host of its own.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::disk::Disk;
use super::net::{Host, Net};
use super::rules::HostId;
use crate::clock;

pub(super) const N_MASTERS: usize = 3;
pub(super) const N_AGENTS: usize = 5;
/// Hosts in their order in the network: masters, agents, then these.
pub(super) const SERVICES: HostId = N_MASTERS + N_AGENTS;
pub(super) const BATCH: HostId = SERVICES + 1;
pub(super) const LOAD: HostId = BATCH + 1;
/// Where the operator sits. Never cut off.
pub(super) const DESK: HostId = LOAD + 1;
pub(super) const N_HOSTS: u8 = 12;

/// A disk that fills when it is told to: large enough for all that a night writes.
const DISK_MIB: u32 = 192;
/// An orderly end takes no longer, even on a busy machine.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// Which hosts have which part.
pub(super) fn masters() -> std::ops::Range<HostId> {
    0..N_MASTERS
}

pub(super) fn agents() -> std::ops::Range<HostId> {
    N_MASTERS..SERVICES
}

/// One role.
#[derive(Debug)]
pub(super) struct Role {
    /// Such as `master-1`.
    pub(super) name: String,
    /// `allot` and these.
    arguments: Vec<String>,
    child: Option<Child>,
    /// Where its stderr goes, all runs one after the other.
    pub(super) log: PathBuf,
}

/// All of them, on their hosts and disks.
#[derive(Debug)]
pub(super) struct Roles {
    // Dropped in this order: processes before the network before the disks.
    pub(super) roles: Vec<Role>,
    pub(super) net: Net,
    pub(super) disks: Vec<Disk>,
    allot: PathBuf,
    /// The masters' addresses, separated by commas.
    pub(super) all_masters: String,
}

impl Roles {
    /// Prepares everything in `folder`; nothing runs yet.
    pub(super) fn new(allot: &Path, folder: &Path, seed: u64) -> anyhow::Result<Self> {
        let net = Net::new(N_HOSTS, seed)?;
        let at = |host: HostId| net.hosts.get(host).map(|h| h.address.to_string());
        let addresses: Vec<String> = masters().filter_map(at).collect();
        let all_masters = addresses.iter().map(|a| format!("{a}:5050"));
        let all_masters = all_masters.collect::<Vec<_>>().join(",");
        let (mut roles, mut disks) = (Vec::new(), Vec::new());
        for host in 0..LOAD {
            let name = match host {
                SERVICES => "services".to_owned(),
                BATCH => "batch".to_owned(),
                host if host < N_MASTERS => format!("master-{host}"),
                host => format!("agent-{}", host - N_MASTERS),
            };
            let data = folder.join(&name);
            std::fs::create_dir(&data)?;
            disks.push(Disk::mount(&data, DISK_MIB)?);
            let ip = at(host).unwrap_or_default();
            let data = data.display().to_string();
            let kind = name.split('-').next().unwrap_or_default();
            let mut arguments: Vec<String> = ["--log-level=info", kind, "--ip", &ip]
                .map(str::to_owned)
                .into();
            let mut add = |more: &[&str]| arguments.extend(more.iter().map(|&s| s.to_owned()));
            match host {
                SERVICES => add(&["--master", &all_masters]),
                BATCH => add(&["--master", &all_masters, "--data", &data]),
                host if host < N_MASTERS => add(&[
                    "--data",
                    &data,
                    // A night has less patience than Mesos' 75 s.
                    "--agent-ping-interval=2s",
                    "--agent-timeout=20s",
                ]),
                _ => add(&[
                    "--master",
                    &all_masters,
                    "--work-dir",
                    &data,
                    "--hostname",
                    &name,
                    "--resources=cpus:4;mem:1024;disk:1000;ports:[31000-31099]",
                ]),
            }
            roles.push(Role {
                log: folder.join(format!("{name}.log")),
                name,
                arguments,
                child: None,
            });
        }
        Ok(Self {
            roles,
            net,
            disks,
            allot: allot.to_owned(),
            all_masters,
        })
    }

    fn host(&self, host: HostId) -> anyhow::Result<&Host> {
        self.net.hosts.get(host).context("a host of the network")
    }

    pub(super) fn role(&self, host: HostId) -> anyhow::Result<&Role> {
        self.roles.get(host).context("a host with a role")
    }

    /// Starts a role; it may take a while to be ready, and whoever needs that asks.
    pub(super) fn start(&mut self, host: HostId) -> anyhow::Result<()> {
        self.start_with(host, &[])
    }

    /// The same with more arguments.
    pub(super) fn start_with(&mut self, host: HostId, more: &[&str]) -> anyhow::Result<()> {
        let role = self.role(host)?;
        ensure!(role.child.is_none(), "{} runs already", role.name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&role.log)?;
        let mut command = Command::new(&self.allot);
        command
            .args(&role.arguments)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = self.host(host)?.run(|| command.spawn())?;
        let child = child.with_context(|| format!("cannot start {}", self.allot.display()))?;
        if let Some(role) = self.roles.get_mut(host) {
            role.child = Some(child);
        }
        Ok(())
    }

    /// Sends a signal to a role's process.
    pub(super) fn signal(&self, host: HostId, signal: Signal) -> anyhow::Result<()> {
        let role = self.role(host)?;
        let child = role.child.as_ref();
        let child = child.with_context(|| format!("{} does not run", role.name))?;
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        Ok(())
    }

    /// SIGKILL; tasks of an agent go on.
    pub(super) fn kill(&mut self, host: HostId) -> anyhow::Result<()> {
        let Some(mut child) = self.roles.get_mut(host).and_then(|role| role.child.take()) else {
            return Ok(());
        };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits; the exit code must be 0.
    pub(super) fn stop(&mut self, host: HostId) -> anyhow::Result<()> {
        self.signal(host, Signal::SIGTERM)?;
        let code = self.ended(host)?;
        let name = &self.role(host)?.name;
        ensure!(
            code == Some(0),
            "{name} was asked to end and ended with {code:?}"
        );
        Ok(())
    }

    /// The exit code of a role that is about to end.
    pub(super) fn ended(&mut self, host: HostId) -> anyhow::Result<Option<i32>> {
        let role = self.roles.get_mut(host).context("a host with a role")?;
        let mut child = role.child.take().context("a role that runs")?;
        let begun = clock();
        while begun.elapsed() < END_TIMEOUT {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill()?;
        child.wait()?;
        bail!("{} does not end", role.name)
    }

    /// Whether a role's process is there. One that ended by itself is told of by [`Self::ended`].
    pub(super) fn runs(&mut self, host: HostId) -> anyhow::Result<bool> {
        let role = self.roles.get_mut(host).context("a host with a role")?;
        match &mut role.child {
            Some(child) => Ok(child.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    /// `allot ARGS` at the operator's desk; stdout, or why there is none.
    pub(super) fn allot(&self, args: &[&str]) -> anyhow::Result<String> {
        let url = |host: HostId, port| -> anyhow::Result<String> {
            Ok(format!("http://{}:{port}", self.host(host)?.address))
        };
        let mut command = Command::new(&self.allot);
        command
            .args(args)
            .env("ALLOT_MASTER", &self.all_masters)
            .env("ALLOT_SERVICES", url(SERVICES, 8080)?)
            .env("ALLOT_BATCH", url(BATCH, 9618)?)
            .stdin(Stdio::null());
        let out = self.host(DESK)?.run(|| command.output())??;
        ensure!(
            out.status.success(),
            "`allot {}` ended with {}: {}{}",
            args.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// The rows of `allot KIND list`.
    pub(super) fn list(&self, kind: &str) -> anyhow::Result<Vec<serde_json::Value>> {
        let listed = self.allot(&[kind, "list", "--output=json"])?;
        Ok(serde_json::from_str(&listed)?)
    }

    /// Which master leads.
    pub(super) fn leader(&self) -> anyhow::Result<HostId> {
        let leads = |row: &serde_json::Value| row["leader"] == serde_json::json!(true);
        let all = self.list("master")?;
        let leader = all.iter().find(|row| leads(row)).context("nobody leads")?;
        let address = leader["address"].as_str().context("an address")?;
        let of = |host: &Host| address.starts_with(&format!("{}:", host.address));
        let found = self.net.hosts.iter().position(of);
        found.with_context(|| format!("{address} is no master of ours"))
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        for role in &mut self.roles {
            if let Some(child) = &mut role.child {
                let _gone = child.kill();
                let _gone = child.wait();
            }
        }
    }
}
