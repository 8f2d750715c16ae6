//! `allot task exec` and `allot task attach`, with and without a terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::common::{Cluster, DEADLINE, Process, command, eventually, folder, processes_in, text};

/// A cluster with one running task; its id.
fn with_task(line: &str) -> (Cluster, Process, String) {
    let cluster = Cluster::start(&["cpus:2;mem:512"]);
    let mut run = command(&["run", "--mem=64", "--", "sh", "-c", line]);
    run.env("ALLOT_MASTER", &cluster.url);
    let run = Process::start_command(run);
    let id = eventually("the task runs", || {
        let tasks = cluster.list("task");
        let running = tasks.iter().find(|task| task["state"] == "TASK_RUNNING")?;
        Some(running["id"].as_str()?.to_owned())
    });
    (cluster, run, id)
}

/// A terminal and a command in it.
struct Terminal {
    keyboard: File,
    device: OwnedFd,
    child: Child,
    seen: String,
}

impl Terminal {
    fn start(cluster: &Cluster, args: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).unwrap();
        unlockpt(&ours).unwrap();
        let device = ioctl_tiocgptpeer(&ours, flags).unwrap();
        let stdio = || Stdio::from(device.try_clone().unwrap());
        let allot = command(args);
        let mut setsid = Command::new("setsid");
        setsid
            .args(["--ctty", "--wait"])
            .arg(allot.get_program())
            .args(allot.get_args())
            .env("ALLOT_MASTER", &cluster.url)
            .env("TERM", "vt100")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio());
        let mut terminal = Self {
            keyboard: File::from(ours),
            device,
            child: setsid.spawn().unwrap(),
            seen: String::new(),
        };
        terminal.resize(33, 111);
        terminal
    }

    fn resize(&mut self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.keyboard, size).unwrap();
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads what is shown until it holds this, which is then forgotten with all before.
    #[track_caller]
    fn shows(&mut self, text: &str) {
        let mut screen = self.keyboard.try_clone().unwrap();
        while !self.seen.contains(text) {
            let patience = PollTimeout::try_from(DEADLINE).unwrap();
            let mut waiting = [PollFd::new(screen.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut waiting, patience).unwrap();
            assert!(ready > 0, "{text:?} does not come: {:?}", self.seen);
            let mut bytes = [0; 1024];
            let n = screen.read(&mut bytes).unwrap();
            assert!(n > 0, "{text:?} never came: {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
        let at = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..at);
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.device).unwrap()
    }

    #[track_caller]
    fn exit_code(&mut self) -> i32 {
        eventually("the command ends", || self.child.try_wait().unwrap())
            .code()
            .unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_shell_in_a_task_has_this_terminal_with_its_size_and_keys() {
    let (cluster, _run, id) = with_task("sleep 1000");
    let mut t = Terminal::start(&cluster, &["task", "exec", "-it", &id, "--", "sh"]);
    let before = t.modes();
    t.types("PS1='at'; PS1=\"${PS1}your-service: \"\n");
    t.shows("atyour-service: ");
    assert!(!t.modes().local_modes.contains(LocalModes::ICANON), "raw");
    t.types("stty size; echo $TERM $MESOS_TASK_ID\n");
    t.shows("33 111");
    t.shows(&format!("vt100 {id}"));
    t.resize(44, 66);
    t.types("while [ \"$(stty size)\" != '44 66' ]; do sleep 0.01; done; echo re''sized\n");
    t.shows("resized");
    // Ctrl-C ends what the shell runs and not the shell, nor us. It is typed only once the
    // program speaks: dash loses one that comes between its fork and the terminal's handing over.
    t.types("sh -c 'echo wai''ting; exec sleep 1000'\n");
    t.shows("waiting");
    t.types("\x03");
    t.shows("your-service: ");
    t.types("exit 42\n");
    assert_eq!(t.exit_code(), 42);
    let after = t.modes();
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!(after.input_modes, before.input_modes);
    assert_eq!(after.output_modes, before.output_modes);
}

#[test]
fn the_terminal_is_as_before_also_when_the_command_is_terminated() {
    let (cluster, _run, id) = with_task("sleep 1000");
    // The shell is running before it has become what it runs.
    let alone = eventually("the task's program is there", || {
        let alone = processes_in(cluster.folder.path());
        alone.contains(&"sleep 1000 ".to_owned()).then_some(alone)
    });
    let mut t = Terminal::start(&cluster, &["task", "exec", "-i", "-t", &id, "--", "cat"]);
    let before = t.modes();
    eventually("it is raw", || {
        (t.modes().local_modes != before.local_modes).then_some(())
    });
    let wrapper = t.child.id();
    let children = format!("/proc/{wrapper}/task/{wrapper}/children");
    let allot = eventually("it runs", || {
        let pids = std::fs::read_to_string(&children).ok()?;
        // `setsid` forks only when it has to.
        Some(pids.split_whitespace().next().map_or_else(
            || i32::try_from(wrapper).unwrap(),
            |pid| pid.parse().unwrap(),
        ))
    });
    let allot = nix::unistd::Pid::from_raw(allot);
    nix::sys::signal::kill(allot, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(t.exit_code(), 128 + 15);
    assert_eq!(t.modes().local_modes, before.local_modes);
    eventually("nothing but the task is left", || {
        (processes_in(cluster.folder.path()) == alone).then_some(())
    });
}

#[test]
fn a_command_in_a_pipe_reads_what_it_is_given_and_its_code_is_ours() {
    let (cluster, _run, id) = with_task("sleep 1000");
    let exec = |args: &[&str]| {
        let mut command = command(&[&["task", "exec"], args].concat());
        command.env("ALLOT_MASTER", &cluster.url);
        command
    };
    let mut child = exec(&[
        "-i",
        &id,
        "-e",
        "A=b c",
        "--",
        "sh",
        "-c",
        "echo \"$A\" >&2; wc -c; exit 9",
    ])
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&vec![b'x'; 3_000_000]).unwrap();
    drop(stdin);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(9));
    assert_eq!(ended.stdout.trim_ascii(), b"3000000");
    assert_eq!(ended.stderr, b"b c\n");

    let large = cluster.allot(&[
        "task",
        "exec",
        &id,
        "--",
        "sh",
        "-c",
        "yes 123456789 | head -c 5000000",
    ]);
    assert_eq!((large.code, large.stdout.len()), (0, 5_000_000));
    let killed = cluster.allot(&["task", "exec", &id, "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.code, 128 + 9);

    let missing = cluster.allot(&["task", "exec", &id, "--", "/no/such/program"]);
    assert_eq!(missing.code, 201, "{}", missing.stderr);
    assert!(
        missing.stderr.contains("/no/such/program"),
        "{}",
        missing.stderr
    );
    let nobody = cluster.allot(&["task", "exec", "no-such-task", "--", "true"]);
    assert_eq!(nobody.code, 203, "{}", nobody.stderr);
    cluster.allot(&["task", "kill", &id]).ok();
    eventually("the task has ended", || {
        let ended = cluster.allot(&["task", "exec", &id, "--", "true"]);
        (ended.code == 203).then_some(())
    });
}

#[test]
fn attached_one_sees_what_comes_next_and_how_the_task_ends() {
    let files = folder();
    let go = files.path().join("go");
    let line = format!(
        "echo before; while [ ! -e {} ]; do echo now; sleep 0.01; done; echo after; \
         echo oops >&2; exit 6",
        text(&go)
    );
    let (cluster, _run, id) = with_task(&line);
    eventually("it wrote its first line", || {
        let logs = cluster.allot(&["task", "logs", &id]);
        logs.ok().starts_with("before\nnow\n").then_some(())
    });
    let mut attach = command(&["task", "attach", &id]);
    attach.env("ALLOT_MASTER", &cluster.url);
    let mut child = attach
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 4];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    assert_eq!(&first, b"now\n");
    std::fs::write(&go, "").unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(6));
    assert!(ended.stdout.ends_with(b"now\nafter\n") || ended.stdout == b"after\n");
    assert_eq!(ended.stderr, b"oops\n");
}

#[test]
fn who_attaches_to_a_task_at_a_terminal_types_to_it_and_may_leave_it_alone() {
    let line = "stty size; read a; echo told $a; stty size; trap 'echo interrupted; exit 4' INT; \
                echo ready; while :; do sleep 0.01; done";
    let cluster = Cluster::start(&["cpus:2;mem:512"]);
    let mut run = command(&["run", "--tty", "--mem=64", "--", "sh", "-c", line]);
    run.env("ALLOT_MASTER", &cluster.url);
    let mut run = Process::start_command(run);
    let id = eventually("the task runs", || {
        let tasks = cluster.list("task");
        let running = tasks.iter().find(|task| task["state"] == "TASK_RUNNING")?;
        Some(running["id"].as_str()?.to_owned())
    });
    // Whatever size there is where this test runs.
    run.line(" ");
    let mut terminal = Terminal::start(&cluster, &["task", "attach", &id]);
    eventually("every key is passed on", || {
        let modes = terminal.modes().local_modes;
        (!modes.contains(LocalModes::ISIG)).then_some(())
    });
    terminal.types("hello\r");
    terminal.shows("told hello");
    terminal.shows("33 111");
    terminal.types("\x10\x11");
    terminal.shows("goes on");
    assert_eq!(terminal.exit_code(), 0);
    assert!(terminal.modes().local_modes.contains(LocalModes::ISIG));
    let mut terminal = Terminal::start(&cluster, &["task", "attach", &id]);
    eventually("every key is passed on", || {
        let modes = terminal.modes().local_modes;
        (!modes.contains(LocalModes::ISIG)).then_some(())
    });
    terminal.types("\x03");
    terminal.shows("interrupted");
    assert_eq!(terminal.exit_code(), 4);
    assert_eq!(run.wait(), 4);
}
