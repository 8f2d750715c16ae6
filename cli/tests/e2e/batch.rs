//! The batch queue over real processes: submit files run, and `kill -9` of the queue in the
//! middle of two hundred jobs loses and repeats nothing.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{self, Ended, Process, allot, eventually, finish, text};

/// A master, an agent of plain processes and a batch queue.
pub(crate) struct Cluster {
    pub(crate) folder: tempfile::TempDir,
    master: String,
    pub(crate) batch: String,
    pub(crate) queue: Option<Process>,
    _processes: Vec<Process>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("master");
        let mut process = Process::start(&["master", "--port", "0", "--data", text(&data)]);
        let master = process.ready("master");
        let work = folder.path().join("agent");
        let mut agent = Process::start(&[
            "agent",
            "--port",
            "0",
            "--master",
            &master,
            "--work-dir",
            text(&work),
            "--isolation",
            "none",
            "--resources",
            "cpus:4;mem:4096",
            "--tasks-end-with-agent",
        ]);
        agent.ready("agent");
        let mut cluster = Self {
            folder,
            master,
            batch: String::new(),
            queue: None,
            _processes: vec![process, agent],
        };
        cluster.start_queue();
        cluster
    }

    fn start_queue(&mut self) {
        let (queue, url) = self.another_queue();
        self.batch = url;
        self.queue = Some(queue);
    }

    /// A process for the same queue.
    pub(crate) fn another_queue(&self) -> (Process, String) {
        let data = self.path("batch");
        let args = ["batch", "--port=0", "--leader-lease=2s", "--master"];
        let mut queue = Process::start(&[&args[..], &[&self.master, "--data", &data]].concat());
        let url = queue.ready("batch");
        (queue, url)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        text(&self.folder.path().join(name)).to_owned()
    }

    pub(crate) fn job(&self, args: &[&str]) -> Ended {
        allot(&[&["--batch", &self.batch, "job"][..], args].concat())
    }

    /// Submits a file from within the cluster's folder.
    pub(crate) fn submit(&self, submit_file: &str) -> Ended {
        std::fs::write(self.folder.path().join("job.sub"), submit_file).unwrap();
        let mut command = common::command(&["--batch", &self.batch, "job", "submit", "job.sub"]);
        finish(command.current_dir(self.folder.path()))
    }
}

/// How often each job has an event of this number.
pub(crate) fn events(log: &Path, number: &str) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    let text = std::fs::read_to_string(log).unwrap();
    for line in text.lines().filter(|line| line.starts_with(number)) {
        let job = line.split(['(', ')']).nth(1).unwrap();
        *counts.entry(job.to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn two_hundred_jobs_survive_kill_9_of_the_queue_each_complete_exactly_once() {
    const JOBS: usize = 200;
    let mut cluster = Cluster::start();
    let submitted = cluster
        .submit(
            "executable = /bin/sh\ntransfer_executable = false\n\
             arguments = \"-c 'sleep 0.05; echo $(Process)'\"\n\
             output = out.$(Process)\nlog = jobs.log\nrequest_cpus = 0.25\n\
             request_memory = 16 MB\nqueue 200\n",
        )
        .ok();
    assert_eq!(submitted, "200 job(s) submitted to cluster 1.\n");
    let log = cluster.folder.path().join("jobs.log");
    // Twice, at different points of the work.
    for enough in [20, 90] {
        eventually("enough jobs have ended", || {
            (events(&log, "005 ").len() >= enough).then_some(())
        });
        cluster.queue.take().unwrap().kill_9();
        cluster.start_queue();
    }
    let waited = cluster.job(&["wait", "1"]).ok();
    assert!(
        waited.contains("200 of 200 job(s) ended, 0 without success"),
        "{waited}"
    );
    for number in ["000 ", "005 "] {
        let counts = events(&log, number);
        assert_eq!(counts.len(), JOBS, "{number}");
        assert!(counts.values().all(|n| *n == 1), "{number} {counts:?}");
    }
    let history = cluster.job(&["history", "-n", "1000", "-o", "json"]).json();
    assert_eq!(history.as_array().unwrap().len(), JOBS);
    for proc in 0..JOBS {
        let output = std::fs::read_to_string(cluster.path(&format!("out.{proc}"))).unwrap();
        assert_eq!(output, format!("{proc}\n"));
    }
}

#[test]
fn jobs_are_submitted_held_released_read_and_removed() {
    let cluster = Cluster::start();
    std::fs::write(cluster.folder.path().join("in.txt"), "hello\n").unwrap();
    cluster
        .submit(
            "executable = /bin/sh\ntransfer_executable = false\n\
             arguments = \"-c 'cat; cat in.txt > copy.txt; echo oops >&2; exit 3'\"\n\
             input = in.txt\ntransfer_input_files = in.txt\noutput = o\nerror = e\nhold = true\n\
             request_cpus = 0.1\nrequest_memory = 16\nqueue\n",
        )
        .ok();
    let shown = cluster.job(&["show", "1.0", "-o", "json"]).json();
    assert_eq!(
        (shown["state"].as_str(), shown["hold_code"].as_u64()),
        (Some("held"), Some(15))
    );
    assert_eq!(cluster.job(&["release", "1"]).ok(), "1 job(s) released\n");
    let waited = cluster.job(&["wait", "1.0"]);
    assert_eq!(waited.code, 1, "a job that fails makes the wait fail");
    assert!(
        waited.stdout.contains("job 1.0: exit 3"),
        "{}",
        waited.stdout
    );
    let read = |name: &str| std::fs::read_to_string(cluster.path(name)).unwrap();
    assert_eq!(
        (read("o"), read("e"), read("copy.txt")),
        ("hello\n".into(), "oops\n".into(), "hello\n".into())
    );
    assert_eq!(cluster.job(&["logs", "1.0"]).ok(), "hello\n");
    assert_eq!(cluster.job(&["logs", "1.0", "--stderr"]).ok(), "oops\n");

    cluster
        .submit("executable = /bin/sleep\narguments = 1000\nrequest_memory = 16\nqueue 2\n")
        .ok();
    eventually("both run", || {
        let jobs = cluster
            .job(&["list", "2", "--state", "running", "-o", "json"])
            .json();
        (jobs.as_array().unwrap().len() == 2).then_some(())
    });
    assert_eq!(cluster.job(&["hold", "2.0"]).ok(), "1 job(s) held\n");
    assert_eq!(cluster.job(&["rm", "2"]).ok(), "2 job(s) removed\n");
    let gone = cluster.job(&["rm", "2"]);
    assert_eq!(gone.code, 3);
    assert!(
        gone.stderr.contains("no unfinished job 2"),
        "{}",
        gone.stderr
    );
}

#[test]
fn bad_submit_files_are_refused_with_file_line_and_sentence() {
    let cluster = Cluster::start();
    for (file, parts) in [
        (
            "executable = /nowhere/x\nqueue",
            &["line 1", "no file /nowhere/x"][..],
        ),
        (
            "executable = /bin/true\nrequirements = Memory > 1\nqueue",
            &["line 2", "requirements"],
        ),
        ("executable = /bin/true", &["no `queue`"]),
        (
            "executable = /bin/true\nlog = /nowhere/log\nqueue",
            &["event log /nowhere/log"],
        ),
        (
            "executable = /bin/true\nrequest_cpus = -1\nqueue",
            &["line 2", "request_cpus"],
        ),
        ("\u{1}\u{2}", &["line 1"]),
    ] {
        let ended = cluster.submit(file);
        assert_ne!(ended.code, 0, "{file}");
        for part in parts {
            assert!(ended.stderr.contains(part), "{file}: {}", ended.stderr);
        }
    }
    assert_eq!(cluster.job(&["list", "-o", "json"]).ok(), "[]\n");
}

#[test]
fn output_that_cannot_be_written_holds_the_job_and_says_where() {
    let cluster = Cluster::start();
    cluster
        .submit("executable = /bin/echo\narguments = x\noutput = missing/o\nrequest_memory = 16\nqueue\n")
        .ok();
    let held = eventually("the job is held", || {
        let job = cluster.job(&["show", "1.0", "-o", "json"]).json();
        (job["state"] == "held").then_some(job)
    });
    assert_eq!(held["hold_code"], 7);
    assert!(
        held["reason"].as_str().unwrap().contains("/missing"),
        "{held}"
    );
    std::fs::create_dir(cluster.path("missing")).unwrap();
    cluster.job(&["release", "1"]).ok();
    cluster.job(&["wait", "1"]).ok();
    assert_eq!(
        std::fs::read_to_string(cluster.path("missing/o")).unwrap(),
        "x\n"
    );
}

#[test]
fn a_queue_that_moved_is_found_and_one_that_is_gone_is_named_with_its_old_address() {
    let mut cluster = Cluster::start();
    let list = |cluster: &Cluster| allot(&["--master", &cluster.master, "job", "list"]);
    list(&cluster).ok();
    let old = cluster.batch.clone();
    cluster.queue.take().unwrap().kill_9();
    let refused = list(&cluster);
    assert_eq!(refused.code, 4, "{refused:?}");
    for told in [old.as_str(), "start it with `allot local` or `allot batch`"] {
        assert!(refused.stderr.contains(told), "{refused:?}");
    }
    // It says that it is ready before the master knows where it is now.
    cluster.start_queue();
    list(&cluster).ok();
}
