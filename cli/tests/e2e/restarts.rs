//! What survives the death of which process.

use std::time::Duration;

use allotment_framework_sdk::api::TaskState;

use crate::common::{Cluster, Process, eventually, processes_in, text};
use crate::framework::{Framework, endless};

#[test]
fn tasks_go_on_when_the_master_is_killed_and_comes_back() {
    let mut cluster = Cluster::start(&["cpus:1;mem:512"]);
    let mut framework = Framework::subscribe(&cluster.url, "web");
    let offer = framework.offer();
    framework.accept(&offer, vec![endless("t", "cpus:1;mem:64")], Duration::ZERO);
    framework.update("t", TaskState::TaskRunning);
    let agent = cluster.list("node")[0]["id"].clone();
    cluster.master.take().unwrap().kill_9();
    cluster.start_master();
    cluster.wait_for_agents();
    assert_eq!(cluster.list("node")[0]["id"], agent, "a new agent appeared");
    let task = eventually("the master knows the task again", || {
        let tasks = cluster.list("task");
        tasks.first().cloned()
    });
    assert_eq!(task["state"], "TASK_RUNNING");
    eventually("the framework is back", || {
        let frameworks = cluster.list("framework");
        (frameworks.first()?["state"] == "connected").then_some(())
    });
    // The old framework still owns it, through the new master.
    cluster.allot(&["task", "kill", "t"]).ok();
    framework.update("t", TaskState::TaskKilled);
}

#[test]
fn tasks_go_on_when_their_agent_is_killed_upgraded_or_stopped_and_end_when_it_is_removed() {
    let mut cluster = Cluster::start(&[]);
    let work_dir = cluster.folder.path().join("agent");
    let start = |url: &str| {
        let mut agent = Process::start(&[
            "agent",
            "--port=0",
            "--hostname=localhost",
            "--master",
            url,
            "--work-dir",
            text(&work_dir),
            "--resources=cpus:1;mem:512",
        ]);
        agent.ready("agent");
        agent
    };
    cluster.agents.push(start(&cluster.url));
    cluster.wait_for_agents();
    let mut framework = Framework::subscribe(&cluster.url, "web");
    let offer = framework.offer();
    framework.accept(&offer, vec![endless("t", "cpus:1;mem:64")], Duration::ZERO);
    framework.update("t", TaskState::TaskRunning);
    // The shell is running before it has become what it runs.
    let tasks = eventually("the task's shell is replaced", || {
        let tasks = processes_in(&work_dir);
        (tasks == ["sleep 3600 "]).then_some(tasks)
    });
    let node = cluster.list("node")[0]["id"].clone();
    for killed in [true, false] {
        let agent = cluster.agents.pop().unwrap();
        if killed {
            agent.kill_9();
        } else {
            assert_eq!(agent.terminate(), 0);
        }
        assert_eq!(processes_in(&work_dir), tasks, "killed: {killed}");
        cluster.agents.push(start(&cluster.url));
        cluster.wait_for_agents();
        assert_eq!(cluster.list("node")[0]["id"], node, "a new agent appeared");
        assert_eq!(cluster.list("task")[0]["state"], "TASK_RUNNING");
    }
    let mut agent = cluster.agents.pop().unwrap();
    agent.signal("USR1");
    assert_eq!(agent.wait(), 0);
    framework.update("t", TaskState::TaskGone);
    assert!(processes_in(&work_dir).is_empty());
}
