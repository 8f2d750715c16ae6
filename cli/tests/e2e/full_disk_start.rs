//! Roles on a full disk: they say so, and with room again nothing is lost.
//!
//! As root alone, which a small disk takes.

use std::io::Write as _;
use std::path::Path;

use allotment_framework_sdk::{Store, StoreOp};
use serde_json::json;

use crate::common::{Process, allot, command, eventually, finish, folder, free_port, text};
use crate::framework::{Framework, endless};
use crate::full_disk::Disk;

/// Takes every page that is left.
fn fill(folder: &Path) {
    let mut filler = std::fs::File::create(folder.join("filler")).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
    while filler.write_all(&[0]).is_ok() {}
}

fn free(folder: &Path) {
    std::fs::remove_file(folder.join("filler")).unwrap();
}

/// How a role ends that is to refuse its disk.
fn refusal(arguments: &[&str]) -> String {
    let ended = finish(&mut command(arguments));
    assert_eq!(ended.code, 1, "{}{}", ended.stdout, ended.stderr);
    ended.stderr
}

#[test]
fn an_agent_refuses_a_full_disk_and_with_room_again_takes_up_its_tasks() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = folder();
    let work = folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let _disk = Disk::mount(&work);
    let data = folder.path().join("master");
    let mut master = Process::start(&["master", "--port=0", "--data", text(&data)]);
    let url = master.ready("master");
    let arguments = [
        "agent",
        "--port=0",
        "--master",
        &url,
        "--work-dir",
        text(&work),
        "--resources=cpus:1;mem:256",
    ];
    let mut agent = Process::start(&arguments);
    agent.ready("agent");
    let mut framework = Framework::subscribe(&url, "web");
    let offer = framework.offer();
    let task = endless("lasting", "cpus:0.1;mem:32");
    framework.accept(&offer, vec![task], std::time::Duration::from_secs(60));
    framework.update(
        "lasting",
        allotment_framework_sdk::api::TaskState::TaskRunning,
    );

    agent.kill_9();
    fill(&work);
    for _ in 0..2 {
        let said = refusal(&arguments);
        assert!(said.contains("is full; free space on it"), "{said}");
    }
    free(&work);
    let mut agent = Process::start(&arguments);
    agent.ready("agent");
    eventually("the agent is back with its task", || {
        let listed = allot(&["task", "list", "--output=json", "--master", &url]).json();
        let nodes = allot(&["node", "list", "--output=json", "--master", &url]).json();
        let back = nodes[0]["state"] == json!("registered") && nodes[1].is_null();
        (back && listed[0]["state"] == json!("TASK_RUNNING")).then_some(())
    });
    let log = agent.stderr();
    assert!(!log.contains("damaged"), "{log}");
    agent.signal("USR1");
    assert_eq!(agent.wait(), 0);
}

#[test]
fn a_master_whose_disk_is_full_ends_with_a_sentence_and_keeps_what_it_acknowledged() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = folder();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let _disk = Disk::mount(&data);
    fill(&data);
    let port = format!("--port={}", free_port());
    let arguments = ["master", &port, "--data", text(&data)];
    let said = refusal(&arguments);
    assert!(said.contains("free space on its disk"), "{said}");
    free(&data);

    let mut master = Process::start(&arguments);
    let url = master.ready("master");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = Store::new(&[url], "test").unwrap();
    let put = |key: &str, len: usize| {
        let op = StoreOp::put(key, vec![7; len]);
        runtime.block_on(store.commit(&[op]))
    };
    put("kept", 10).unwrap();
    fill(&data);
    // A little room may be left in what the log has reserved.
    let mut n_kept = 0;
    while put(&format!("key-{n_kept}"), 8192).is_ok() {
        n_kept += 1;
        assert!(n_kept < 1000, "a full disk must be met");
    }
    assert_eq!(master.wait(), 1);
    let said = master.stderr();
    assert!(
        said.contains("nothing that it acknowledged is lost"),
        "{said}"
    );
    assert!(said.contains("No space left on device"), "{said}");

    free(&data);
    let mut master = Process::start(&arguments);
    master.ready("master");
    let entries = runtime.block_on(store.list("")).unwrap();
    let len = |key: &str| {
        let mut all = entries.iter();
        all.find(|entry| entry.key == key)
            .map(|entry| entry.value.len())
    };
    assert_eq!(len("kept"), Some(10));
    for n in 0..n_kept {
        assert_eq!(len(&format!("key-{n}")), Some(8192));
    }
}
