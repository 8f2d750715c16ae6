//! What the end-to-end tests share: real processes of the real binary, and waiting on states.
//!
//! Every process is killed when its handle is dropped, also by a failing test.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test file compiles its own copy and uses a part"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "deadlines of end-to-end tests are real time"
)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Generous: the machine may be busy with other tests. Only a failing test waits this long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The binary under test, with nothing of the developer's environment that could change it.
pub fn command(args: &[&str]) -> Command {
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
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The output of a command that succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// The output of a command that succeeded, as JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let stdout = self.ok();
        serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}"))
    }
}

/// Runs a command to its end.
#[track_caller]
pub fn allot(args: &[&str]) -> Ended {
    finish(&mut command(args))
}

/// Runs a prepared command to its end, which must come within [`DEADLINE`].
#[track_caller]
pub fn finish(command: &mut Command) -> Ended {
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
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    stderr: Option<tempfile::NamedTempFile>,
}

impl Process {
    /// Starts it; the lines it prints are read on the side.
    pub fn start(args: &[&str]) -> Self {
        Self::start_command(command(args))
    }

    /// The same with a prepared command.
    pub fn start_command(mut command: Command) -> Self {
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
    pub fn ready(&mut self, role: &str) -> String {
        let prefix = format!("ready {role} ");
        self.line(&prefix).trim_start_matches(&prefix).to_owned()
    }

    /// Waits for a line that holds `part`; lines before it are skipped.
    #[track_caller]
    pub fn line(&mut self, part: &str) -> String {
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

    /// What it wrote on stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr
            .as_ref()
            .map(|file| std::fs::read_to_string(file.path()).unwrap())
            .unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and returns the exit code.
    #[track_caller]
    pub fn terminate(mut self) -> i32 {
        self.signal("TERM");
        self.wait()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for its end and returns the exit code.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
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
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
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
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
