//! What the end-to-end tests share: real processes of the real binary, and waiting on states.
//!
//! Every process is killed when its handle is dropped, also by a failing test.

#![expect(
    clippy::disallowed_methods,
    reason = "deadlines of end-to-end tests are real time"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Generous: the machine may be busy with other tests. Only a failing test waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The binary under test, with nothing of the developer's environment that could change it.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_allot"));
    command.args(args);
    for variable in [
        "ALLOT_MASTER",
        "ALLOT_SERVICES",
        "ALLOT_BATCH",
        "ALLOT_LOG",
        "XDG_STATE_HOME",
    ] {
        command.env_remove(variable);
    }
    command
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The output of a command that succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// The output of a command that succeeded, as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> serde_json::Value {
        let stdout = self.ok();
        serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}"))
    }
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn allot(args: &[&str]) -> Ended {
    finish(&mut command(args))
}

/// Runs a prepared command to its end, which must come within [`DEADLINE`].
#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Ended {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let read_stdout = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    let read_stderr = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    });
    let mut process = Process {
        child,
        lines: channel().1,
        stderr: None,
    };
    let code = process.wait();
    Ended {
        code,
        stdout: read_stdout.join().unwrap(),
        stderr: read_stderr.join().unwrap(),
    }
}

/// A role that runs in a process of its own.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    stderr: Option<tempfile::NamedTempFile>,
}

impl Process {
    /// Starts it; the lines it prints are read on the side.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_command(command(args))
    }

    /// The same with a prepared command.
    pub(crate) fn start_command(mut command: Command) -> Self {
        let stderr = tempfile::NamedTempFile::new().unwrap();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr.reopen().unwrap())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            stderr: Some(stderr),
        }
    }

    /// Waits for `ready <role> <url>` and returns the URL.
    #[track_caller]
    pub(crate) fn ready(&mut self, role: &str) -> String {
        let prefix = format!("ready {role} ");
        self.line(&prefix).trim_start_matches(&prefix).to_owned()
    }

    /// Waits for a line that holds `part`; lines before it are skipped.
    #[track_caller]
    pub(crate) fn line(&mut self, part: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(part) => return line,
                Ok(_) => {}
                Err(error) => panic!("no line with {part:?}: {error}\n{}", self.stderr()),
            }
        }
    }

    /// The lines of its stdout that were not waited for yet.
    pub(crate) fn lines_so_far(&mut self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// What it wrote on stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr
            .as_ref()
            .map(|file| std::fs::read_to_string(file.path()).unwrap())
            .unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and returns the exit code.
    #[track_caller]
    pub(crate) fn terminate(mut self) -> i32 {
        self.signal("TERM");
        self.wait()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for its end and returns the exit code.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> i32 {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(
                Instant::now() < deadline,
                "process {} does not end\n{}",
                self.pid(),
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Waits until `look` finds something, and returns it.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The text of a path, for arguments.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder for one test, removed with everything in it at the end.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("allot-e2e-")
        .tempdir()
        .unwrap()
}

/// A port that nobody uses now, for a role that is to come back on the same one.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Processes whose working directory lies below `folder`, as tasks' do.
pub(crate) fn processes_in(folder: &Path) -> Vec<String> {
    let folder = folder.canonicalize().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| {
            let process = entry.ok()?.path();
            let cwd = std::fs::read_link(process.join("cwd")).ok()?;
            let command = std::fs::read_to_string(process.join("cmdline")).ok()?;
            cwd.starts_with(&folder).then(|| command.replace('\0', " "))
        })
        .collect()
}

/// Asks over HTTP and returns status and body.
pub(crate) fn get(url: &str) -> Option<(u16, String)> {
    let rest = url.strip_prefix("http://").unwrap();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(authority).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Master and agents as processes, in one folder.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) url: String,
    pub(crate) master: Option<Process>,
    pub(crate) agents: Vec<Process>,
    pub(crate) folder: tempfile::TempDir,
    port: u16,
}

impl Cluster {
    /// One master and one agent per `resources`, all registered.
    #[track_caller]
    pub(crate) fn start(resources: &[&str]) -> Self {
        let folder = folder();
        let mut cluster = Self {
            url: String::new(),
            master: None,
            agents: Vec::new(),
            folder,
            port: free_port(),
        };
        cluster.start_master();
        for (i, resources) in resources.iter().enumerate() {
            let work_dir = cluster.folder.path().join(format!("agent-{i}"));
            let mut agent = Process::start(&[
                "agent",
                "--port=0",
                "--hostname=localhost",
                "--master",
                &cluster.url,
                "--work-dir",
                text(&work_dir),
                "--resources",
                resources,
                // A test that fails must leave nothing behind.
                "--tasks-end-with-agent",
            ]);
            agent.ready("agent");
            cluster.agents.push(agent);
        }
        cluster.wait_for_agents();
        cluster
    }

    /// Starts the master, also again, on the same port and folder.
    #[track_caller]
    pub(crate) fn start_master(&mut self) {
        let data = self.folder.path().join("master");
        let port = format!("--port={}", self.port);
        let mut master = Process::start(&["master", &port, "--data", text(&data)]);
        self.url = master.ready("master");
        self.master = Some(master);
    }

    /// Waits until every agent is registered.
    #[track_caller]
    pub(crate) fn wait_for_agents(&self) {
        eventually("all agents are registered", || {
            let nodes = self.list("node");
            let registered = nodes.iter().filter(|node| node["state"] == "registered");
            (registered.count() == self.agents.len()).then_some(())
        });
    }

    /// `allot ARGS` on this cluster.
    #[track_caller]
    pub(crate) fn allot(&self, args: &[&str]) -> Ended {
        let mut command = command(args);
        command.env("ALLOT_MASTER", &self.url);
        finish(&mut command)
    }

    /// The rows of `allot KIND list`.
    #[track_caller]
    pub(crate) fn list(&self, kind: &str) -> Vec<serde_json::Value> {
        let listed = self.allot(&[kind, "list", "--output=json"]).json();
        listed.as_array().unwrap().clone()
    }
}
