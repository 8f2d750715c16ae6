//! What survives the death of which process.

use std::time::Duration;

use allotment_framework_sdk::api::TaskState;

use crate::common::{Cluster, eventually};
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
