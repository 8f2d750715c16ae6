//! Weights, quotas, reservations, volumes and drains, as operators and frameworks meet them.

use std::time::Duration;

use allotment_framework_sdk::api::TaskState;
use allotment_framework_sdk::{Call, Operation};
use allotment_types::{Resources, Role};

use crate::common::{Cluster, Process, eventually, text};
use crate::framework::{Framework, endless, task};

fn scalar(view: &serde_json::Value, name: &str, lot: Option<&str>) -> f64 {
    let scalars = view["scalars"].as_array().unwrap().iter();
    let named = scalars.filter(|s| s["name"] == name && s["lot"].as_str() == lot);
    named.map(|s| s["value"].as_f64().unwrap()).sum()
}

#[test]
fn a_quota_holds_a_framework_back_and_why_says_so_with_numbers() {
    let mut cluster = Cluster::start(&["cpus:4;mem:1024"]);
    let limit = "--limit=cpus=1,mem=64";
    cluster.allot(&["role", "quota", "set", "web", limit]).ok();
    let mut framework = Framework::subscribe(&cluster.url, "web");
    let offer = framework.offer();
    assert_eq!(offer.resources, "cpus:1;mem:64".parse().unwrap());
    framework.accept(&offer, vec![endless("t", "cpus:1;mem:64")], Duration::ZERO);
    framework.update("t", TaskState::TaskRunning);
    let why = cluster.allot(&["why", framework.id.as_str()]).ok();
    assert!(why.contains("1 of 1 cpus consumed"), "{why}");
    let why = cluster.allot(&["-o", "json", "why", "web"]).json();
    assert_eq!(why["kind"], "framework");
    let why = cluster.allot(&["why", "role", "web"]).ok();
    assert!(
        why.contains("its quota limits cpus to 1, and 1 count against it"),
        "{why}"
    );
    // The registry keeps it.
    cluster.master.take().unwrap().kill_9();
    cluster.start_master();
    cluster.wait_for_agents();
    let shown = cluster.allot(&["role", "quota", "show"]).ok();
    assert!(shown.contains("cpus 1, mem 64 MiB"), "{shown}");
    let below = ["role", "quota", "set", "web", "--limit=cpus=0.5"];
    let refused = eventually("the task is known again", || {
        let refused = cluster.allot(&below);
        (refused.code == 1).then_some(refused.stderr)
    });
    assert!(
        refused.contains("limited to cpus 0.5 but uses 1"),
        "{refused}"
    );
    let warned = cluster.allot(&[
        "role",
        "quota",
        "set",
        "web",
        "--limit=cpus=1,mem=64",
        "--guarantee=cpus=1",
    ]);
    assert_eq!(warned.stderr, "");
    cluster.allot(&["role", "quota", "rm", "web"]).ok();
    let offer = framework.offer();
    assert_eq!(offer.resources, "cpus:3;mem:960".parse().unwrap());
    assert_eq!(cluster.allot(&["role", "quota", "rm", "web"]).code, 3);
}

#[test]
fn weights_change_at_run_time_and_nonsense_is_refused_in_words() {
    let mut cluster = Cluster::start(&[]);
    cluster.allot(&["role", "weight", "eng/web", "2.5"]).ok();
    cluster.master.take().unwrap().kill_9();
    cluster.start_master();
    let roles = cluster.list("role");
    assert_eq!(roles[0]["name"], "eng/web");
    assert_eq!(roles[0]["weight"], 2.5);
    for (args, code, words) in [
        (&["role", "weight", "web", "0"][..], 2, "from 0.001"),
        (&["role", "weight", "a//b", "1"], 2, "has an empty part"),
        (&["role", "quota", "set", "web"], 2, "would be empty"),
        (
            &["role", "quota", "set", "web", "--limit=cpus"],
            2,
            "name=amount",
        ),
        (
            &[
                "role",
                "quota",
                "set",
                "web",
                "--limit=cpus=1",
                "--guarantee=cpus=2",
            ],
            1,
            "promised cpus 2 but limited to 1",
        ),
        (&["role", "show", "nobody"], 3, "no role \"nobody\""),
        (&["node", "drain", "nobody"], 3, "no node \"nobody\""),
    ] {
        let refused = cluster.allot(args);
        assert_eq!(refused.code, code, "{args:?}: {}", refused.stderr);
        assert!(
            refused.stderr.contains(words),
            "{args:?}: {}",
            refused.stderr
        );
    }
}

fn start_agent(cluster: &Cluster) -> Process {
    let mut agent = Process::start(&[
        "agent",
        "--port=0",
        "--hostname=localhost",
        "--master",
        &cluster.url,
        "--work-dir",
        text(&cluster.folder.path().join("agent")),
        "--resources=cpus:4;mem:1024;disk:512",
        "--tasks-end-with-agent",
    ]);
    agent.ready("agent");
    agent
}

#[test]
fn a_reservation_survives_the_death_of_its_agent_and_of_the_master() {
    let mut cluster = Cluster::start(&[]);
    cluster.agents.push(start_agent(&cluster));
    cluster.wait_for_agents();
    let reserve = [
        "node",
        "reserve",
        "localhost",
        "cpus:3;mem:512",
        "--role=web",
    ];
    cluster.allot(&reserve).ok();
    cluster.master.take().unwrap().kill_9();
    cluster.agents.pop().unwrap().kill_9();
    cluster.start_master();
    cluster.agents.push(start_agent(&cluster));
    cluster.wait_for_agents();
    let node = &cluster.list("node")[0];
    assert!(
        (scalar(&node["total"], "cpus", Some("(web)")) - 3.0).abs() < 1e-9,
        "{node}"
    );
    assert!(
        (scalar(&node["total"], "cpus", None) - 1.0).abs() < 1e-9,
        "{node}"
    );
    let mut other = Framework::subscribe(&cluster.url, "ops");
    let offer = other.offer();
    assert_eq!(offer.resources, "cpus:1;mem:512;disk:512".parse().unwrap());
    // A framework that knows nothing of reservations is served from its own.
    let mut framework = Framework::subscribe(&cluster.url, "web");
    let offer = framework.offer();
    assert_eq!(offer.resources.cpus(), allotment_types::Fixed::units(3));
    framework.accept(&offer, vec![endless("t", "cpus:2;mem:64")], Duration::ZERO);
    framework.update("t", TaskState::TaskRunning);
    let unreserve = [
        "node",
        "unreserve",
        "localhost",
        "cpus:3;mem:512",
        "--role=web",
    ];
    let refused = cluster.allot(&unreserve);
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("cpus(web): asked 3, there is 1"),
        "{}",
        refused.stderr
    );
    cluster.allot(&["task", "kill", "t"]).ok();
    framework.update("t", TaskState::TaskKilled);
    cluster.allot(&unreserve).ok();
    assert!((scalar(&cluster.list("node")[0]["total"], "cpus", None) - 4.0).abs() < 1e-9);
}

#[test]
fn what_one_task_writes_into_a_volume_the_next_one_reads() {
    let mut cluster = Cluster::start(&[]);
    cluster.agents.push(start_agent(&cluster));
    cluster.wait_for_agents();
    let mut framework = Framework::subscribe(&cluster.url, "web");
    let offer = framework.offer();
    let role = Role::parse("web").unwrap();
    let disk: Resources = "disk:64".parse().unwrap();
    let reserved = disk.reserved(&role, None);
    let volume = reserved.as_volume("data", "my/data", None);
    let mut writer = task("writer", "cpus:1;mem:32", "echo kept > my/data/file");
    writer.resources.add(&volume);
    framework.call(Call::Operate {
        agent: offer.agent.clone(),
        offers: vec![offer.id.clone()],
        operations: vec![
            Operation::Reserve(reserved),
            Operation::Create(volume.clone()),
            Operation::Launch(vec![writer]),
        ],
        refuse_for: Some(Duration::ZERO),
    });
    framework.update("writer", TaskState::TaskFinished);
    let holds_volume = |offer: &allotment_framework_sdk::Offer| offer.resources.contains(&volume);
    let offer = framework.hear("the volume", |event| match event {
        allotment_framework_sdk::Event::Offers(offers) => {
            offers.iter().find(|offer| holds_volume(offer)).cloned()
        }
        _ => None,
    });
    let mut reader = task(
        "reader",
        "cpus:0.5;mem:32",
        "test \"$(cat my/data/file)\" = kept",
    );
    reader.resources = volume.plus(&offer.resources.filter(|name, _| name.as_str() == "cpus"));
    framework.accept(&offer, vec![reader], Duration::ZERO);
    framework.update("reader", TaskState::TaskFinished);
    let folder = cluster.folder.path().join("agent/volumes/roles/web/data");
    assert!(folder.join("file").exists());
    let offer = framework.hear("the volume", |event| match event {
        allotment_framework_sdk::Event::Offers(offers) => {
            offers.iter().find(|offer| holds_volume(offer)).cloned()
        }
        _ => None,
    });
    framework.call(Call::Operate {
        agent: offer.agent,
        offers: vec![offer.id],
        operations: vec![Operation::Destroy(volume.clone())],
        refuse_for: None,
    });
    eventually("the volume is gone", || (!folder.exists()).then_some(()));
}

#[test]
fn a_drained_agent_loses_its_tasks_and_takes_none_until_it_is_activated() {
    let cluster = Cluster::start(&["cpus:1;mem:256"]);
    let mut framework = Framework::subscribe(&cluster.url, "web");
    let offer = framework.offer();
    framework.accept(&offer, vec![endless("t", "cpus:1;mem:64")], Duration::ZERO);
    framework.update("t", TaskState::TaskRunning);
    cluster
        .allot(&["node", "maintenance", "localhost", "--in=1h", "--for=2h"])
        .ok();
    let away = cluster.allot(&["node", "show", "localhost"]).ok();
    assert!(away.contains("for 7200s"), "{away}");
    cluster
        .allot(&["node", "maintenance", "localhost", "--cancel"])
        .ok();
    cluster
        .allot(&["node", "drain", "localhost", "--grace=1s"])
        .ok();
    framework.update("t", TaskState::TaskKilled);
    eventually("it is drained", || {
        (cluster.list("node")[0]["activity"] == "drained").then_some(())
    });
    let why = cluster.allot(&["why", "localhost"]).ok();
    assert!(why.contains("an operator has it drained"), "{why}");
    cluster.allot(&["node", "activate", "localhost"]).ok();
    framework.offer();
}
