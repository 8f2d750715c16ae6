//! Three masters as processes: the leader is killed, stopped, and all are killed at once, with an
//! agent, tasks and both frameworks around them.

use serde_json::{Value, json};

use crate::common::{Process, allot, eventually, folder, free_port, text};

/// Three masters that found each other, on ports that they keep.
struct Masters {
    folder: tempfile::TempDir,
    ports: [u16; 3],
    running: [Option<Process>; 3],
    all: String,
}

impl Masters {
    fn start() -> Self {
        let mut masters = Self {
            folder: folder(),
            ports: [free_port(), free_port(), free_port()],
            running: [None, None, None],
            all: String::new(),
        };
        masters.all = masters.ports.map(|p| format!("127.0.0.1:{p}")).join(",");
        masters.begin(0, &["--bootstrap"]);
        let first = format!("127.0.0.1:{}", masters.ports[0]);
        let secret = masters.data(0) + "/secret";
        for i in [1, 2] {
            masters.begin(i, &["--join", &first, "--secret-file", &secret]);
        }
        masters.healthy();
        masters
    }

    fn data(&self, i: usize) -> String {
        text(&self.folder.path().join(format!("master-{i}"))).to_owned()
    }

    fn begin(&mut self, i: usize, flags: &[&str]) {
        let (port, data) = (self.ports[i].to_string(), self.data(i));
        let mut args = vec![
            "--log-level=info",
            "master",
            "--port",
            &port,
            "--data",
            &data,
        ];
        args.extend(flags);
        let mut master = Process::start(&args);
        master.ready("master");
        self.running[i] = Some(master);
    }

    fn ask(&self, args: &[&str]) -> crate::common::Ended {
        let mut all = vec!["--master", &self.all];
        all.extend(args);
        allot(&all)
    }

    fn list(&self, what: &str) -> Vec<Value> {
        let listed = self.ask(&[what, "list", "--output=json"]);
        if listed.code != 0 {
            // In the middle of an election.
            return Vec::new();
        }
        serde_json::from_str(&listed.stdout).unwrap()
    }

    /// Waits until all three vote, answer and agree on a leader.
    fn healthy(&self) {
        eventually("the masters are healthy", || {
            let check = self.ask(&["master", "check"]);
            (check.code == 0 && check.stdout.contains("3 voters")).then_some(())
        });
    }

    /// Which one leads, other than `not`.
    fn leader(&self, not: Option<usize>) -> usize {
        eventually("another master leads", || {
            let masters = self.list("master");
            let leads = masters
                .iter()
                .find(|master| master["leader"] == json!(true))?;
            let address = leads["address"].as_str()?;
            let found = self
                .ports
                .iter()
                .position(|p| address.ends_with(&p.to_string()))?;
            (Some(found) != not).then_some(found)
        })
    }

    /// Waits until agent, frameworks and tasks are known and as they were.
    fn unchanged(&self, before: &[Value]) {
        eventually("everything is as it was", || {
            let now = self.picture();
            (now == before).then_some(())
        });
    }

    /// The ids and states of everything that must survive.
    fn picture(&self) -> Vec<Value> {
        let mut picture = Vec::new();
        for what in ["node", "framework", "task"] {
            let mut all: Vec<Value> = self
                .list(what)
                .into_iter()
                .map(|thing| json!([what, thing["id"], thing["state"]]))
                .collect();
            all.sort_by_key(ToString::to_string);
            picture.extend(all);
        }
        picture
    }
}

#[test]
fn nothing_is_lost_when_leaders_are_killed_stopped_or_all_die_at_once() {
    let mut masters = Masters::start();
    let work_dir = masters.folder.path().join("agent");
    let queue = masters.folder.path().join("batch");
    let mut agent = Process::start(&[
        "agent",
        "--port=0",
        "--hostname=localhost",
        "--master",
        &masters.all,
        "--work-dir",
        text(&work_dir),
        "--resources=cpus:4;mem:1024;ports:[31000-31099]",
    ]);
    agent.ready("agent");
    let mut services = Process::start(&["services", "--port=0", "--master", &masters.all]);
    let services_url = services.ready("services");
    let mut batch = Process::start(&[
        "batch",
        "--port=0",
        "--data",
        text(&queue),
        "--master",
        &masters.all,
    ]);
    batch.ready("batch");
    let app = masters.folder.path().join("app.json");
    let sleep =
        json!({"id": "/sleep", "cmd": "sleep 1000", "cpus": 0.1, "mem": 16, "instances": 2});
    std::fs::write(&app, sleep.to_string()).unwrap();
    masters.ask(&["app", "add", text(&app)]).ok();
    let before = eventually("the cluster is complete", || {
        let picture = masters.picture();
        let n = |state: &str| picture.iter().filter(|thing| thing[2] == state).count();
        let complete = (n("registered"), n("connected"), n("TASK_RUNNING")) == (1, 2, 2);
        complete.then_some(picture)
    });

    // A follower sends a browser to the leader.
    let first = masters.leader(None);
    let follower = (first + 1) % 3;
    let page = format!("http://127.0.0.1:{}/state", masters.ports[follower]);
    assert_eq!(crate::common::get(&page).unwrap().0, 307);

    // Killed.
    masters.running[first].take().unwrap().kill_9();
    let second = masters.leader(Some(first));
    masters.unchanged(&before);
    masters.begin(first, &[]);
    masters.healthy();

    // Stopped, and woken when another leads: it finds its lease over and says nothing more.
    masters.running[second].as_ref().unwrap().signal("STOP");
    let third = masters.leader(Some(second));
    masters.running[second].as_ref().unwrap().signal("CONT");
    eventually("the old leader knows that it was replaced", || {
        let log = masters.running[second].as_ref().unwrap().stderr();
        log.contains("does not lead any more").then_some(())
    });
    masters.unchanged(&before);
    assert_ne!(second, third);
    masters.healthy();

    // All at once.
    for master in &mut masters.running {
        master.take().unwrap().kill_9();
    }
    for i in 0..3 {
        masters.begin(i, &[]);
    }
    masters.unchanged(&before);

    // And the app goes on under the same framework.
    allot(&[
        "app",
        "scale",
        "/sleep",
        "3",
        "--services",
        &services_url,
        "--master",
        &masters.all,
    ])
    .ok();
    eventually("the app has three instances", || {
        let tasks = masters.list("task");
        let running = tasks.iter().filter(|task| task["state"] == "TASK_RUNNING");
        (running.count() == 3).then_some(())
    });
}
