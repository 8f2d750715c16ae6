//! An agent in a process of its own, to be killed and started again; whatever it leaves is ended
//! with the test.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{AGENT, FRAMEWORK, Master, Mode};

/// A master in this process and an agent beside it.
pub struct Apart {
    pub master: Master,
    pub folder: tempfile::TempDir,
    mode: Mode,
    agent: Option<Child>,
    launcher: Option<PathBuf>,
    /// Where the agent serves, once it was somewhere.
    address: Option<String>,
}

impl Apart {
    /// An agent that is registered.
    pub async fn start(mode: Mode) -> Self {
        Self::with_launcher(mode, None).await
    }

    /// The same, with a launcher program of its own.
    pub async fn with_launcher(mode: Mode, launcher: Option<PathBuf>) -> Self {
        let mut apart = Self {
            master: Master::start().await,
            folder: tempfile::tempdir().unwrap(),
            mode,
            agent: None,
            launcher,
            address: None,
        };
        apart.starts();
        let first = apart.master.registration().await;
        assert_eq!(first.agent.id, None);
        let address = first.url.strip_prefix("http://").unwrap();
        apart.address = Some(address.to_owned());
        apart
    }

    pub fn work_dir(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    /// Where the agent serves.
    pub fn address(&self) -> &str {
        self.address.as_deref().unwrap()
    }

    /// The agent's process begins.
    pub fn starts(&mut self) {
        assert!(self.agent.is_none());
        let isolation = match self.mode {
            Mode::Plain => "none",
            Mode::Isolated => "cgroups,namespaces",
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_allotment-launcher"));
        command
            .args(["agent", &self.master.url])
            .arg(self.work_dir())
            .arg(isolation);
        if let Some(address) = &self.address {
            command.env("ALLOT_TEST_LISTEN", address);
        }
        if let Some(launcher) = &self.launcher {
            command.env("ALLOT_TEST_LAUNCHER", launcher);
        }
        self.agent = Some(command.spawn().unwrap());
    }

    /// Another launcher program from now on.
    pub fn launch_with(&mut self, launcher: Option<PathBuf>) {
        self.launcher = launcher;
    }

    pub fn pid(&self) -> Pid {
        let agent = self.agent.as_ref().unwrap();
        Pid::from_raw(agent.id().try_into().unwrap())
    }

    /// The agent's launcher process.
    pub fn launcher_pid(&self) -> Pid {
        let agent = self.pid();
        let path = format!("/proc/{agent}/task");
        let threads = fs::read_dir(path).unwrap().flatten();
        let children = threads.filter_map(|t| fs::read_to_string(t.path().join("children")).ok());
        let children: String = children.collect();
        Pid::from_raw(children.split_whitespace().next().unwrap().parse().unwrap())
    }

    /// `kill -9` of the agent.
    pub fn dies(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// Tells the agent to end, and waits for that; whether it ended well.
    pub fn ends_on(&mut self, signal: Signal) -> bool {
        kill(self.pid(), signal).unwrap();
        self.agent.take().unwrap().wait().unwrap().success()
    }

    /// The agent begins again and registers.
    pub async fn returns(&mut self) -> allotment_proto::allot::Register {
        self.starts();
        let back = self.master.registration().await;
        assert_eq!(back.agent.id.as_ref().unwrap().value, AGENT);
        back
    }

    pub fn sandbox(&self, task: &str) -> PathBuf {
        self.work_dir().join(format!(
            "slaves/{AGENT}/frameworks/{FRAMEWORK}/executors/{task}/runs/latest"
        ))
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        // Inits end by themselves once their tasks have.
        for pid in processes_in(self.folder.path()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Processes that work below a folder, as tasks do.
pub fn processes_in(folder: &Path) -> Vec<i32> {
    let folder = folder.canonicalize().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&folder))
        })
        .collect()
}
