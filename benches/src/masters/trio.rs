//! Three masters as processes, on ports and folders that they keep.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::cluster::{Role, output};
use crate::cpu;
use crate::report::clock;

/// How long masters may take to agree, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Trio {
    allot: PathBuf,
    folder: tempfile::TempDir,
    ports: [u16; 3],
    running: [Option<Role>; 3],
}

impl Trio {
    /// Starts them in a folder of their own below `folder`, and waits until all three vote.
    pub(super) fn start(allot: &Path, folder: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("masters-")
            .tempdir_in(folder)?;
        // All three before any is closed: else one port could be given twice.
        let sockets = [bind()?, bind()?, bind()?];
        let mut ports = [0; 3];
        for (port, socket) in ports.iter_mut().zip(&sockets) {
            *port = socket.local_addr()?.port();
        }
        drop(sockets);
        let mut trio = Self {
            allot: allot.to_owned(),
            folder,
            ports,
            running: [None, None, None],
        };
        trio.begin(0, &["--bootstrap"])?;
        let first = format!("127.0.0.1:{}", ports[0]);
        let secret = trio.folder.path().join("0/secret").display().to_string();
        for i in [1, 2] {
            trio.begin(i, &["--join", &first, "--secret-file", &secret])?;
        }
        trio.healthy()?;
        Ok(trio)
    }

    fn begin(&mut self, i: usize, flags: &[&str]) -> anyhow::Result<()> {
        let data = self.folder.path().join(i.to_string());
        let port = self.ports.get(i).context("a master of three")?;
        let (port, data) = (port.to_string(), data.display().to_string());
        let mut args = vec!["master", "--port", &port, "--data", &data];
        args.extend(flags);
        let role = Role::start(&self.allot, &args, 1)?;
        *self.running.get_mut(i).context("a master of three")? = Some(role);
        Ok(())
    }

    /// `host:port` of each.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.ports.map(|port| format!("127.0.0.1:{port}")).into()
    }

    fn ask(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.allot);
        command
            .args(args)
            .env("ALLOT_MASTER", self.addresses().join(","));
        output(command)
    }

    /// Waits until all three vote, answer and agree on a leader.
    pub(super) fn healthy(&self) -> anyhow::Result<()> {
        until("three masters vote", || {
            let said = self.ask(&["master", "check"]).ok()?;
            said.contains("3 voters").then_some(())
        })
    }

    /// Which one leads.
    pub(super) fn leader(&self) -> anyhow::Result<usize> {
        until("a master leads", || {
            let listed = self.ask(&["master", "list", "--output=json"]).ok()?;
            let listed: Vec<Value> = serde_json::from_str(&listed).ok()?;
            let leads = listed.iter().find(|master| master["leader"] == true)?;
            let address = leads["address"].as_str()?;
            let of = |port: &u16| address.ends_with(&format!(":{port}"));
            self.ports.iter().position(of)
        })
    }

    /// The leader's process.
    pub(super) fn leader_pid(&self) -> anyhow::Result<u32> {
        let leader = self.running.get(self.leader()?).and_then(Option::as_ref);
        Ok(leader.context("the leader runs")?.pid())
    }

    /// What each running one has used of the CPU so far, by its process.
    pub(super) fn cpu(&self) -> anyhow::Result<BTreeMap<u32, Duration>> {
        let pids = self.running.iter().flatten().map(Role::pid);
        pids.map(|pid| Ok((pid, cpu::times(pid)?.own))).collect()
    }

    /// SIGKILL for one of them.
    pub(super) fn kill(&mut self, i: usize) -> anyhow::Result<()> {
        let role = self.running.get_mut(i).and_then(Option::take);
        role.context("a master that runs")?.kill_9()
    }

    /// Starts it again.
    pub(super) fn restart(&mut self, i: usize) -> anyhow::Result<()> {
        self.begin(i, &[])
    }
}

fn bind() -> anyhow::Result<TcpListener> {
    Ok(TcpListener::bind("127.0.0.1:0")?)
}

/// Waits until `look` finds something.
pub(super) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let begun = clock();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if begun.elapsed() > PATIENCE {
            bail!("it did not come true within {PATIENCE:?} that {what}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
