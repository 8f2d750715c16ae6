//! What an operator sees and does, with roles as separate processes.

use std::time::Duration;

use allotment_framework_sdk::api::TaskState;

use crate::common::{Cluster, Process, allot, eventually, folder, get, text};
use crate::framework::{Framework, endless, task};

#[test]
fn an_operator_sees_and_kills_what_runs() {
    let cluster = Cluster::start(&["cpus:2;mem:512"]);
    let mut framework = Framework::subscribe(&cluster.url, "web");
    let offer = framework.offer();
    let tasks = vec![
        endless("long-task", "cpus:1;mem:64"),
        task(
            "short-task",
            "cpus:0.5;mem:64",
            "echo out; echo err >&2; exit 3",
        ),
    ];
    framework.accept(&offer, tasks, Duration::ZERO);
    framework.update("short-task", TaskState::TaskFailed);
    framework.update("long-task", TaskState::TaskRunning);

    let node = &cluster.list("node")[0];
    assert_eq!(node["hostname"], "localhost");
    let id = node["id"].as_str().unwrap();
    let shown = cluster.allot(&["node", "show", &id[..id.len() - 1]]).ok();
    assert!(shown.contains(id) && shown.contains("cpus 2"), "{shown}");

    let listed = cluster.allot(&["framework", "list"]).ok();
    assert!(
        listed.contains("web") && listed.contains("connected"),
        "{listed}"
    );
    let role = &cluster.list("role")[0];
    assert_eq!(role["name"], "web");
    assert_eq!(role["allocated"]["scalars"][0]["name"], "cpus");
    assert_eq!(role["allocated"]["scalars"][0]["value"], 1.0);

    let live = cluster.list("task");
    assert_eq!(live.len(), 1, "{live:?}");
    let ended = cluster
        .allot(&["task", "show", "short", "-o", "json"])
        .json();
    assert_eq!(ended["state"], "TASK_FAILED");
    assert_eq!(ended["exit_code"], 3);

    let stdout = cluster.allot(&["task", "logs", "short-task"]).ok();
    assert_eq!(stdout, "out\n");
    let stderr = cluster.allot(&["task", "logs", "short-task", "--stderr"]);
    assert_eq!(stderr.ok(), "err\n");

    let mut follower = crate::common::command(&["task", "logs", "-f", "long-task"]);
    follower.env("ALLOT_MASTER", &cluster.url);
    let mut follower = Process::start_command(follower);
    follower.line("started");
    let why = cluster.allot(&["why", "long-task"]).ok();
    assert!(why.contains("long-task"), "{why}");
    cluster.allot(&["task", "kill", "long"]).ok();
    framework.update("long-task", TaskState::TaskKilled);
    assert_eq!(follower.wait(), 0);

    let events = cluster.allot(&["events", "--output=json"]).json();
    let kinds: Vec<_> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["kind"])
        .collect();
    for kind in [
        "agent-registered",
        "offer-sent",
        "offer-accepted",
        "task-running",
        "task-failed",
        "task-killed",
    ] {
        assert!(kinds.iter().any(|k| *k == kind), "no {kind} in {kinds:?}");
    }

    let missing = cluster.allot(&["task", "show", "nothing"]);
    assert_eq!(missing.code, 3);
    assert!(missing.stderr.contains("task list"), "{}", missing.stderr);

    cluster.allot(&["framework", "rm", "web"]).ok();
    eventually("the framework is gone", || {
        cluster.list("framework").is_empty().then_some(())
    });
}

#[test]
fn every_role_is_healthy_has_metrics_and_ends_cleanly_on_sigterm() {
    let cluster = Cluster::start(&["cpus:1;mem:128"]);
    let data = folder();
    let mut services = Process::start(&["services", "--port=0", "--master", &cluster.url]);
    let services_url = services.ready("services");
    let batch = ["batch", "--port=0", "--master", &cluster.url, "--data"];
    let mut batch = Process::start(&[&batch[..], &[text(data.path())]].concat());
    let batch_url = batch.ready("batch");
    eventually("both frameworks are connected", || {
        let frameworks = cluster.list("framework");
        let connected = frameworks.iter().filter(|f| f["state"] == "connected");
        (connected.count() == 2).then_some(())
    });
    let agent_url = cluster.list("node")[0]["url"].as_str().unwrap().to_owned();
    for url in [&cluster.url, &agent_url, &services_url, &batch_url] {
        let (status, _) = get(&format!("{url}/health")).unwrap();
        assert_eq!(status, 200, "{url}");
        let (status, metrics) = get(&format!("{url}/metrics")).unwrap();
        assert!(
            status == 200 && metrics.contains("# TYPE"),
            "{url}: {metrics}"
        );
        let (status, sentence) = get(&format!("{url}/nowhere")).unwrap();
        assert!(
            status == 404 && !sentence.is_empty(),
            "{url}: {status} {sentence}"
        );
    }
    let frameworks = [services, batch].into_iter();
    for mut role in frameworks.chain(cluster.agents).chain(cluster.master) {
        role.signal("TERM");
        assert_eq!(role.wait(), 0);
        let said = role.stderr();
        assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
    }
}

#[test]
fn services_are_ready_once_they_answer_for_apps() {
    let mut cluster = Cluster::start(&[]);
    cluster.master.take().unwrap().terminate();
    let mut services = Process::start(&["services", "--port=0", "--master", &cluster.url]);
    eventually("it says what it waits for", || {
        services
            .stderr()
            .contains("waiting for a master")
            .then_some(())
    });
    assert_eq!(services.lines_so_far(), Vec::<String>::new());
    cluster.start_master();
    let url = services.ready("services");
    let (status, apps) = get(&format!("{url}/v2/apps")).unwrap();
    assert_eq!((status, apps.as_str()), (200, r#"{"apps":[]}"#));
    assert_eq!(services.terminate(), 0);
}

#[test]
fn helpers_work_without_a_cluster() {
    let clean = allot(&["sim", "run", "--seeds", "0..2", "-o", "json"]).json();
    assert_eq!(clean.as_array().unwrap().len(), 2);
    let script = allot(&["completions", "bash"]).ok();
    assert!(script.contains("_allot"));

    let files = folder();
    std::fs::write(files.path().join("a.txt"), "content").unwrap();
    let mut server = Process::start(&["serve", "--port=0", "--dir", text(files.path())]);
    let url = server.ready("serve");
    assert_eq!(
        get(&format!("{url}/a.txt")).unwrap(),
        (200, "content".to_owned())
    );
    let (status, listing) = get(&format!("{url}/")).unwrap();
    assert!(status == 200 && listing.contains("a.txt"), "{listing}");
    assert_eq!(get(&format!("{url}/../a.txt")).unwrap().0, 404);
    assert_eq!(server.terminate(), 0);
}
