//! `allot run`, from its start to its exit code.

use std::io::Read as _;
use std::process::Stdio;

use crate::common::{Cluster, Process, command, eventually, folder, processes_in, text};

/// `allot run ARGS` in the background.
fn start(cluster: &Cluster, args: &[&str]) -> Process {
    let mut command = command(&[&["run"], args].concat());
    command.env("ALLOT_MASTER", &cluster.url);
    Process::start_command(command)
}

fn nothing_is_left(cluster: &Cluster) {
    eventually("the framework and its task are gone", || {
        let gone = cluster.list("framework").is_empty() && cluster.list("task").is_empty();
        (gone && processes_in(cluster.folder.path()).is_empty()).then_some(())
    });
}

#[test]
fn a_run_prints_what_the_command_prints_and_exits_with_its_code() {
    let cluster = Cluster::start(&["cpus:2;mem:512"]);
    let run = |args: &[&str]| cluster.allot(&[&["run", "--mem=64"], args].concat());

    let ended = run(&["--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(
        (ended.code, &*ended.stdout, &*ended.stderr),
        (3, "out\n", "err\n")
    );
    let quiet = run(&["--", "true"]);
    assert_eq!((quiet.code, &*quiet.stdout, &*quiet.stderr), (0, "", ""));

    let ended = run(&["-e", "A=b c", "--", "sh", "-c", "echo \"$A\""]);
    assert_eq!(ended.ok(), "b c\n");

    let killed = run(&["--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.code, 128 + 9, "{}", killed.stderr);

    let large = run(&["--", "sh", "-c", "yes 123456789 | head -c 5000000"]);
    assert_eq!(large.code, 0, "{}", large.stderr);
    assert_eq!(large.stdout.len(), 5_000_000);
    assert!(large.stdout.lines().all(|line| line == "123456789"));

    let missing = run(&["--", "/no/such/program"]);
    assert_ne!(missing.code, 0);
    assert!(
        missing.stderr.contains("/no/such/program"),
        "{}",
        missing.stderr
    );
    nothing_is_left(&cluster);
}

#[test]
fn output_arrives_while_the_command_runs() {
    let cluster = Cluster::start(&["cpus:2;mem:512"]);
    let folder = folder();
    let fifo = folder.path().join("fifo");
    let script = format!(
        "mkfifo {0} && chmod 666 {0}; echo first; cat {0}",
        text(&fifo)
    );
    let mut run = start(&cluster, &["--mem=64", "--", "sh", "-c", &script]);
    run.line("first");
    std::fs::write(&fifo, "second\n").unwrap();
    run.line("second");
    assert_eq!(run.wait(), 0);
}

#[test]
fn ctrl_c_kills_the_task_and_takes_the_framework_out() {
    let cluster = Cluster::start(&["cpus:2;mem:512"]);
    let mut run = start(
        &cluster,
        &["--mem=64", "--", "sh", "-c", "echo up; sleep 1000"],
    );
    run.line("up");
    run.signal("INT");
    assert_eq!(run.wait(), 130);
    nothing_is_left(&cluster);
}

#[test]
fn a_run_that_is_killed_leaves_no_task_behind() {
    let cluster = Cluster::start(&["cpus:2;mem:512"]);
    let mut run = start(
        &cluster,
        &["--mem=64", "--", "sh", "-c", "echo up; sleep 1000"],
    );
    run.line("up");
    run.kill_9();
    nothing_is_left(&cluster);
}

#[test]
fn a_reader_that_leaves_ends_the_run() {
    let cluster = Cluster::start(&["cpus:2;mem:512"]);
    let mut command = command(&["run", "--mem=64", "--", "yes"]);
    command.env("ALLOT_MASTER", &cluster.url);
    let mut run = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = run.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 2]).unwrap();
    drop(stdout);
    assert_eq!(run.wait().unwrap().code(), Some(128 + 13));
    nothing_is_left(&cluster);
}

#[test]
fn a_task_that_fits_nowhere_says_what_the_nearest_agent_lacks() {
    let cluster = Cluster::start(&["cpus:1;mem:512", "cpus:2;mem:512"]);
    let mut run = start(&cluster, &["--cpus=8", "--mem=64", "--", "true"]);
    let told = eventually("it says why it waits", || {
        Some(run.stderr()).filter(|text| !text.is_empty())
    });
    assert!(
        told.contains("never fit") && told.contains("lacks cpus 6 (free cpus 2 of cpus 2)"),
        "{told}"
    );
    run.signal("INT");
    assert_eq!(run.wait(), 130);
}

#[test]
fn failures_of_the_run_itself_have_codes_of_their_own() {
    let dead = crate::common::allot(&["run", "--master=127.0.0.1:1", "--", "true"]);
    assert_eq!(dead.code, 204);
    assert!(
        dead.stderr.contains("127.0.0.1:1") && dead.stderr.contains("--master"),
        "{}",
        dead.stderr
    );
    let wrong = crate::common::allot(&["run", "--master=:::", "--", "true"]);
    assert_eq!(wrong.code, 202, "{}", wrong.stderr);
    let flag = crate::common::allot(&["run", "--cpus=-1", "--", "true"]);
    assert_eq!(flag.code, 2, "{}", flag.stderr);
}
