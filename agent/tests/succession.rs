//! Short tasks one after another: what they share to be cheap, and what they must not share.
//! Needs root; without it there is nothing to check here.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use allotment_proto::mesos::TaskInfo;
use allotment_proto::mesos::TaskState;
use support::{Cluster, Mode, cgroups_of, root, shell, until};

/// Says when the init began, in ticks, and where the task is; then waits for `go`.
const SPEAKS: &str = "cut -d' ' -f22 /proc/1/stat; grep -m1 allotment/ /proc/self/cgroup; \
                      while [ ! -e go ]; do sleep 0.01; done";

/// What one task was given: its init, by the moment that this began at, and its memory group, by
/// the number of its folder.
#[derive(Debug, PartialEq)]
struct Given {
    init: String,
    group: Option<u64>,
}

struct Tasks {
    c: Cluster,
}

impl Tasks {
    /// Runs a task that speaks, does something, and ends when it has been looked at.
    async fn run(&mut self, id: &str, does: &str) -> Given {
        self.run_as(id, does, |_| {}).await
    }

    async fn run_as(&mut self, id: &str, does: &str, change: impl Fn(&mut TaskInfo)) -> Given {
        let mut info = shell(id, &format!("{does}\n{SPEAKS}"));
        change(&mut info);
        self.c.master.launch(vec![info]).await;
        self.c.master.running(id).await;
        until("it has spoken", || self.c.stdout(id).contains("allotment/")).await;
        let stdout = self.c.stdout(id);
        let lines: Vec<&str> = stdout.lines().collect();
        let at = lines.iter().position(|line| line.contains("allotment/"));
        let at = at.expect("a group");
        let name = lines[at].rsplit('/').next().expect("a name");
        let groups = cgroups_of(&self.c.work_dir());
        let memory = groups.iter().map(|group| group.join(name)).find(|group| {
            group.join("memory.limit_in_bytes").exists() || group.join("memory.max").exists()
        });
        let given = Given {
            init: lines[at - 1].to_owned(),
            group: memory.map(|group| fs::metadata(group).expect("a group").ino()),
        };
        fs::write(self.c.sandbox(id).join("go"), "").expect("go");
        let end = self.c.master.end(id).await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        given
    }
}

/// Whether this machine has a memory controller that can rename groups.
fn renames_groups() -> bool {
    PathBuf::from("/sys/fs/cgroup/memory").exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_task_has_the_init_and_the_groups_of_the_last_and_nothing_of_what_it_left() {
    if !root() {
        return;
    }
    let c = Cluster::with(Mode::Isolated, |config| config.isolators.own_tmp = true).await;
    let mut tasks = Tasks { c };
    // A daemon, a file, a shared memory segment, a full /tmp, and 40 MiB at the most.
    let leaves = "setsid sleep 1000 & echo x > /tmp/left; ipcmk -M 100 >/dev/null; \
                  head -c 40000000 /dev/zero | sort -S 60M >/dev/null";
    let first = tasks.run("first", leaves).await;
    let sees = "set -- /proc/[0-9]*; echo $#; ls /tmp/left 2>/dev/null | wc -l; \
                wc -l < /proc/sysvipc/shm; mkdir /tmp/own && echo new; \
                (echo 1 > /proc/sys/vm/drop_caches) 2>/dev/null || echo sealed; \
                mkdir /sys/fs/cgroup/memory/x 2>/dev/null || echo fenced";
    let second = tasks.run("second", sees).await;
    assert_eq!(first.init, second.init, "one init for both");
    if renames_groups() {
        assert_eq!(first.group, second.group, "the same groups");
    }
    let said = tasks.c.stdout("second");
    let said: Vec<&str> = said.lines().map(str::trim).take(6).collect();
    // Its init and its shell.
    assert_eq!(said, ["2", "0", "1", "new", "sealed", "fenced"]);
    tasks.c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_pages_are_still_charged_to_is_not_passed_on() {
    if !root() || !renames_groups() {
        return;
    }
    let c = Cluster::start(Mode::Isolated).await;
    let mut tasks = Tasks { c };
    let first = tasks
        .run("first", "head -c 20000000 /dev/zero > file")
        .await;
    let second = tasks.run("second", "true").await;
    assert_eq!(first.init, second.init);
    assert_ne!(first.group, second.group);
    // Nor one of other limits.
    let third = tasks
        .run_as("third", "true", |task| {
            for resource in &mut task.resources {
                if resource.name == "mem" {
                    resource.scalar.as_mut().expect("a scalar").value += 1.0;
                }
            }
        })
        .await;
    assert_ne!(second.group, third.group);
    tasks.c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_and_who_follows_a_kill_get_an_init_of_their_own() {
    if !root() {
        return;
    }
    let c = Cluster::start(Mode::Isolated).await;
    let mut tasks = Tasks { c };
    let first = tasks.run("first", "sleep 0.1").await;
    let other = tasks
        .run_as("other", "sleep 0.1", |task| {
            task.command.as_mut().expect("a command").user = Some("nobody".to_owned());
        })
        .await;
    assert_ne!(first.init, other.init, "root's init for nobody");
    let second = tasks.run("second", "true").await;
    assert_eq!(first.init, second.init, "root's again");
    let killed = shell("killed", "sleep 1000");
    tasks.c.master.launch(vec![killed]).await;
    tasks.c.master.running("killed").await;
    tasks.c.master.kill("killed", None).await;
    let end = tasks.c.master.end("killed").await;
    assert_eq!(end.state(), TaskState::TaskKilled);
    let after = tasks.run("after", "true").await;
    assert_ne!(first.init, after.init, "one that was signalled");
    tasks.c.agent.stop().await;
}
