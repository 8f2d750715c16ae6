//! Two processes of one framework: one leads, and when it dies or stands still the other goes on.

use serde_json::Value;

use crate::batch;
use crate::common::{Cluster, Process, command, eventually, finish, get, text};

fn json(url: &str, path: &str) -> Option<Value> {
    let (status, body) = get(&format!("{url}{path}"))?;
    let wanted = status == 200;
    wanted.then(|| serde_json::from_str(&body).ok()).flatten()
}

fn services(cluster: &Cluster) -> (Process, String) {
    let args = ["services", "--port=0", "--leader-lease=2s", "--master"];
    let mut process = Process::start(&[&args[..], &[&cluster.url]].concat());
    let url = process.ready("services");
    (process, url)
}

#[track_caller]
fn leads(url: &str) {
    eventually("it leads", || {
        let connected = json(url, "/v2/info")?["frameworkId"].is_string();
        (json(url, "/v2/info")?["elected"] == true && connected).then_some(())
    });
}

/// The tasks of an app, once there are so many running.
#[track_caller]
fn running(url: &str, app: &str, n: usize) -> Vec<String> {
    eventually("the app runs", || {
        let tasks = json(url, &format!("/v2/apps/{app}/tasks"))?["tasks"].clone();
        let running = tasks.as_array()?.iter();
        let running = running.filter(|task| task["state"] == "TASK_RUNNING");
        let mut ids: Vec<String> = running
            .map(|task| task["id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        (ids.len() == n).then_some(ids)
    })
}

#[test]
fn apps_and_deployments_go_on_when_the_leading_services_process_dies_or_stands_still() {
    let mut cluster = Cluster::start(&["cpus:1;mem:1024"]);
    let (first, first_url) = services(&cluster);
    let (second, second_url) = services(&cluster);
    leads(&first_url);
    let add = |url: &str, file: &str| {
        let path = cluster.folder.path().join("app.json");
        std::fs::write(&path, file).unwrap();
        finish(&mut command(&[
            "--services",
            url,
            "app",
            "add",
            text(&path),
        ]))
        .ok();
    };
    // By way of the standby. The second app finds no agent, so its deployment stays under way.
    let web = r#"{"id":"/web","cmd":"sleep 1000","cpus":0.1,"mem":16,"instances":3,"portDefinitions":[]}"#;
    add(&second_url, web);
    let tasks = running(&second_url, "web", 3);
    let big = r#"{"id":"/big","cmd":"sleep 1000","cpus":2,"mem":16,"portDefinitions":[]}"#;
    add(&second_url, big);
    let under_way = json(&first_url, "/v2/deployments").unwrap();
    assert_eq!(under_way.as_array().unwrap().len(), 1);

    first.kill_9();
    leads(&second_url);
    assert_eq!(
        running(&second_url, "web", 3),
        tasks,
        "the same tasks run on"
    );
    let after = json(&second_url, "/v2/deployments").unwrap();
    assert_eq!(after[0]["id"], under_way[0]["id"]);
    let work_dir = cluster.folder.path().join("larger");
    let mut larger = Process::start(&[
        "agent",
        "--port=0",
        "--hostname=localhost",
        "--master",
        &cluster.url,
        "--work-dir",
        text(&work_dir),
        "--resources=cpus:2;mem:1024",
        "--tasks-end-with-agent",
    ]);
    larger.ready("agent");
    running(&second_url, "big", 1);
    eventually("the deployment is over", || {
        (json(&second_url, "/v2/deployments")?.as_array()?.is_empty()).then_some(())
    });

    // One that stands still is replaced when its lease is over, and does no harm when it wakes.
    let (_third, third_url) = services(&cluster);
    second.signal("STOP");
    leads(&third_url);
    assert_eq!(
        running(&third_url, "web", 3),
        tasks,
        "the same tasks run on"
    );
    finish(&mut command(&[
        "--services",
        &third_url,
        "app",
        "scale",
        "/web",
        "4",
    ]))
    .ok();
    let tasks = running(&third_url, "web", 4);
    second.signal("CONT");
    eventually("the old leader stands by", || {
        let follows = json(&second_url, "/v2/info")?["elected"] == false;
        let leader = json(&second_url, "/v2/leader")?["leader"].clone();
        (follows && third_url.ends_with(leader.as_str()?)).then_some(())
    });
    for url in [&second_url, &third_url] {
        assert_eq!(running(url, "web", 4), tasks);
    }
    let all = cluster.list("task");
    assert_eq!(all.len(), 5, "{all:?}");
    cluster.agents.push(larger);
}

#[test]
fn the_queue_goes_on_in_another_process_and_each_job_is_complete_once() {
    let mut cluster = batch::Cluster::start();
    let (second, second_url) = cluster.another_queue();
    let health = json(&second_url, "/health").unwrap();
    assert_eq!(health["leader"], cluster.batch.as_str());
    let jobs = "executable = /bin/sh\ntransfer_executable = false\n\
                arguments = \"-c 'sleep 0.05; echo $(Process)'\"\n\
                log = jobs.log\nrequest_cpus = 0.25\nrequest_memory = 16 MB\nqueue 60\n";
    let log = cluster.folder.path().join("jobs.log");
    let ended = || batch::events(&log, "005 ");
    // By way of the standby.
    let first_url = std::mem::replace(&mut cluster.batch, second_url.clone());
    cluster.submit(jobs).ok();
    eventually("some jobs have ended", || {
        (ended().len() >= 10).then_some(())
    });
    cluster.queue.take().unwrap().kill_9();
    cluster.job(&["wait", "1"]).ok();
    let (_third, third_url) = cluster.another_queue();
    assert_ne!(third_url, first_url);

    // One that stands still keeps the queue's lock: nobody else can damage what it holds.
    cluster.batch = third_url.clone();
    cluster.submit(jobs).ok();
    eventually("more jobs have ended", || {
        (ended().len() >= 70).then_some(())
    });
    second.signal("STOP");
    eventually("the standby waits for the lock", || {
        let waiting = json(&third_url, "/health")?["waiting"].clone();
        waiting.as_str()?.contains("keeps the lock").then_some(())
    });
    second.signal("CONT");
    eventually("the standby has the queue", || {
        (json(&third_url, "/health")? == serde_json::json!({"healthy": true})).then_some(())
    });
    cluster.batch = second_url;
    cluster.job(&["wait", "2"]).ok();
    let ended = ended();
    assert_eq!(ended.len(), 120);
    assert!(ended.values().all(|n| *n == 1), "{ended:?}");
}
