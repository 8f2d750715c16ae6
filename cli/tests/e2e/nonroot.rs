//! Without root: plain processes, and everything else as ever.
//!
//! As root these tests become the user `nobody` with `setpriv`; otherwise they run as who they are.

use std::path::Path;
use std::process::Command;

use crate::common::{self, Process, finish, folder, processes_in, text};

/// The user and group that own nothing.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// `allot ARGS` as somebody without privileges, whose home is `home`.
fn unprivileged(home: &Path, args: &[&str]) -> Command {
    let plain = common::command(args);
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(home.join("allot"))
            .args(plain.get_args());
        for (name, _removed) in plain.get_envs() {
            command.env_remove(name);
        }
        command
    } else {
        plain
    };
    command.env("HOME", home).current_dir(home);
    command
}

/// A folder of that somebody, with a copy of the binary: `nobody` may not be let into the folder
/// where it was built.
fn home() -> tempfile::TempDir {
    let home = folder();
    if is_root() {
        let built = common::command(&[]).get_program().to_owned();
        std::fs::copy(built, home.path().join("allot")).unwrap();
        std::os::unix::fs::chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    home
}

#[test]
fn the_demo_holds_without_root_and_says_once_which_walls_are_missing() {
    let home = home();
    let data = home.path().join("demo");
    let ended = finish(&mut unprivileged(
        home.path(),
        &["demo", "--exit", "--data", text(&data)],
    ));
    let told = ended.stdout.clone();
    assert_eq!(ended.code, 0, "{told}{}", ended.stderr);
    assert!(told.contains("checks held, after"), "{told}");
    assert_eq!(told.matches("tasks run without").count(), 1, "{told}");
    let left = processes_in(home.path());
    assert!(left.is_empty(), "processes are left: {left:?}");
}

#[test]
fn a_job_runs_without_root_as_the_one_who_started_the_cluster() {
    let home = home();
    let data = home.path().join("cluster");
    let mut local = Process::start_command(unprivileged(
        home.path(),
        &["local", "--port=0", "--data", text(&data)],
    ));
    let batch = local.ready("batch");
    let missing = local.stderr();
    assert_eq!(missing.matches("tasks run without").count(), 1, "{missing}");
    std::fs::write(
        home.path().join("who.sub"),
        "executable = /usr/bin/id\ntransfer_executable = false\narguments = -u\n\
         output = who.$(Process)\nlog = who.log\nqueue 3\n",
    )
    .unwrap();
    let job = |args: &[&str]| {
        let args = [&["job", "--batch", &batch][..], args].concat();
        finish(&mut unprivileged(home.path(), &args)).ok()
    };
    let submitted = job(&["submit", "who.sub"]);
    assert_eq!(submitted, "3 job(s) submitted to cluster 1.\n");
    let waited = job(&["wait", "1"]);
    assert!(waited.contains("3 of 3"), "{waited}");
    let expected = if is_root() {
        NOBODY
    } else {
        nix::unistd::geteuid().as_raw()
    };
    for i in 0..3 {
        let who = std::fs::read_to_string(home.path().join(format!("who.{i}"))).unwrap();
        assert_eq!(who, format!("{expected}\n"));
    }
    assert_eq!(local.terminate(), 0);
    let left = processes_in(home.path());
    assert!(left.is_empty(), "processes are left: {left:?}");
}
