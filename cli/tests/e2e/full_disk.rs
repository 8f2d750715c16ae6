//! A sandbox whose disk is full: the task fails, who started it hears why, the agent goes on.
//!
//! As root alone, which a small disk takes.

use std::path::Path;
use std::process::Command;

use crate::common::{Process, command, finish, folder, text};

/// A small disk, unmounted when it is dropped.
pub(crate) struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    pub(crate) fn mount(at: &'a Path) -> Self {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(at)
            .status();
        assert!(mounted.unwrap().success());
        Self(at)
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // Lazily: a failing test's agent may still be there.
        let _gone = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn who_started_a_task_hears_that_its_disk_was_full() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = folder();
    let work = folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let disk = Disk::mount(&work);
    let data = folder.path().join("master");
    let mut master = Process::start(&["master", "--port=0", "--data", text(&data)]);
    let url = master.ready("master");
    let at = ["--port=0", "--master", &url];
    let resources = ["--resources", "cpus:1;mem:256", "--work-dir", text(&work)];
    let mut agent = Process::start(&[&["agent"], &at[..], &resources[..]].concat());
    agent.ready("agent");
    let queue = folder.path().join("batch");
    let mut batch = Process::start(&[&["batch"], &at[..], &["--data", text(&queue)]].concat());
    let batch_url = batch.ready("batch");
    let allot = |args: &[&str]| {
        let mut command = command(args);
        let command = command
            .env("ALLOT_MASTER", &url)
            .env("ALLOT_BATCH", &batch_url);
        finish(command.current_dir(folder.path()))
    };
    let fill = "head -c 4000000 /dev/zero > big";
    let ran = allot(&["run", "--mem=32", "--", "sh", "-c", fill]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("the disk of its sandbox is full"),
        "{}",
        ran.stderr
    );

    let submit_file = "executable = /bin/sh\ntransfer_executable = false\n\
                       arguments = \"-c 'echo more > more'\"\nrequest_memory = 32\nqueue\n";
    std::fs::write(folder.path().join("job.sub"), submit_file).unwrap();
    allot(&["job", "submit", "job.sub"]).ok();
    allot(&["job", "wait", "1"]);
    let why = allot(&["why", "1.0"]).ok();
    assert!(why.contains("the disk of its sandbox is full"), "{why}");

    // With room again, so is everything.
    for big in walk(&work).filter(|file| file.ends_with("big")) {
        std::fs::remove_file(big).unwrap();
    }
    let ran = allot(&["run", "--mem=32", "--", "echo", "room"]);
    assert_eq!(ran.ok(), "room\n");
    for mut role in [batch, agent, master] {
        role.signal("TERM");
        assert_eq!(role.wait(), 0);
    }
    drop(disk);
}

/// Every file below a folder.
fn walk(folder: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    let mut todo = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => todo.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.into_iter()
}
