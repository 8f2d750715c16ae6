//! `allot local` on its folder, again and again; the batch queue through `kill -9`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::common::{
    Cluster, Ended, Process, command, eventually, finish, folder, processes_in, text,
};

/// A whole cluster in one process, on free ports.
struct Local {
    process: Process,
    master: String,
    services: String,
    batch: String,
    /// Where commands run, and relative paths of submit files lead.
    files: PathBuf,
}

impl Local {
    #[track_caller]
    fn start(data: &Path, files: &Path) -> Self {
        let mut process = Process::start(&[
            "local",
            "--port=0",
            "--data",
            text(data),
            "--resources",
            "cpus:2;mem:1024;disk:1024",
        ]);
        let master = process.ready("master");
        process.ready("agent");
        let services = process.ready("services");
        let batch = process.ready("batch");
        Self {
            process,
            master,
            services,
            batch,
            files: files.to_owned(),
        }
    }

    #[track_caller]
    fn allot(&self, args: &[&str]) -> Ended {
        let mut command = command(args);
        command.current_dir(&self.files);
        command.env("ALLOT_MASTER", &self.master);
        command.env("ALLOT_SERVICES", &self.services);
        command.env("ALLOT_BATCH", &self.batch);
        finish(&mut command)
    }

    /// Waits until `n` instances of the app run; returns their task ids.
    #[track_caller]
    fn instances(&self, n: usize) -> Vec<String> {
        eventually("the app runs", || {
            let tasks = self.allot(&["task", "list", "--framework=services", "-o", "json"]);
            let tasks = tasks.json();
            let running = tasks.as_array().unwrap().iter();
            let running = running.filter(|task| task["state"] == "TASK_RUNNING");
            let ids: Vec<_> = running
                .map(|t| t["id"].as_str().unwrap().to_owned())
                .collect();
            (ids.len() == n).then_some(ids)
        })
    }
}

/// How often the job event log tells the end (005) of each job.
fn ends(log: &Path) -> BTreeMap<String, usize> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let ends = text.lines().filter_map(|line| line.strip_prefix("005 ("));
    ends.fold(BTreeMap::new(), |mut ends, rest| {
        let job = rest.split(')').next().unwrap().to_owned();
        *ends.entry(job).or_default() += 1;
        ends
    })
}

fn submit_file(folder: &Path, n: usize) -> std::path::PathBuf {
    let submit = folder.join("jobs.sub");
    let text = format!(
        "executable = /bin/sh\n\
         arguments = \"-c 'sleep 0.1'\"\n\
         transfer_executable = false\n\
         log = jobs.log\n\
         request_cpus = 1\n\
         request_memory = 32\n\
         queue {n}\n"
    );
    std::fs::write(&submit, text).unwrap();
    submit
}

#[test]
fn apps_run_again_and_the_queue_goes_on_after_a_restart_on_the_same_folder() {
    const JOBS: usize = 20;
    let data = folder();
    let files = folder();
    let app = files.path().join("app.json");
    let json = r#"{"id": "/sleeper", "cmd": "sleep 3600", "instances": 2, "cpus": 0.1, "mem": 32}"#;
    std::fs::write(&app, json).unwrap();
    let submit = submit_file(files.path(), JOBS);
    let log = files.path().join("jobs.log");

    let local = Local::start(data.path(), files.path());
    local.allot(&["app", "add", text(&app)]).ok();
    local.instances(2);
    local.allot(&["job", "submit", text(&submit)]).ok();
    eventually("some jobs have ended", || {
        (ends(&log).len() >= 3).then_some(())
    });
    local.process.kill_9();
    eventually("no task outlives its killed agent", || {
        processes_in(data.path()).is_empty().then_some(())
    });
    let ended_before = ends(&log).len();
    assert!(
        ended_before < JOBS,
        "the queue was empty before the restart"
    );

    let local = Local::start(data.path(), files.path());
    local.instances(2);
    local.allot(&["job", "wait", "1"]).ok();
    let ends_now = ends(&log);
    assert_eq!(ends_now.len(), JOBS, "{ends_now:?}");
    assert!(ends_now.values().all(|times| *times == 1), "{ends_now:?}");

    assert_eq!(local.process.terminate(), 0);
    let local = Local::start(data.path(), files.path());
    local.instances(2);
    assert_eq!(local.process.terminate(), 0);
    let left = processes_in(data.path());
    assert!(left.is_empty(), "processes are left: {left:?}");
}

#[test]
fn the_queue_survives_a_killed_batch_process_and_no_job_ends_twice() {
    const JOBS: usize = 30;
    let cluster = Cluster::start(&["cpus:4;mem:1024"]);
    let files = folder();
    let submit = submit_file(files.path(), JOBS);
    let log = files.path().join("jobs.log");
    let data = files.path().join("batch");
    let start = || {
        let args = ["batch", "--port=0", "--master", &cluster.url, "--data"];
        let mut batch = Process::start(&[&args[..], &[text(&data)]].concat());
        let url = batch.ready("batch");
        (batch, url)
    };
    let (batch, url) = start();
    let mut submission = command(&["job", "submit", text(&submit), "--batch", &url]);
    finish(submission.current_dir(files.path())).ok();
    eventually("some jobs have ended", || {
        (ends(&log).len() >= 4).then_some(())
    });
    batch.kill_9();
    assert!(
        ends(&log).len() < JOBS,
        "the queue was empty before the kill"
    );
    let (_batch, url) = start();
    cluster.allot(&["job", "wait", "1", "--batch", &url]).ok();
    let ends = ends(&log);
    assert_eq!(ends.len(), JOBS, "{ends:?}");
    assert!(ends.values().all(|times| *times == 1), "{ends:?}");
}
