//! Wrong input: an exit code that tells the kind, one sentence that tells the rest.

use std::net::TcpListener;

use crate::common::{Process, allot, command, finish, folder, free_port, text};

/// Asserts the exit code, and a single line on stderr that holds every part.
#[track_caller]
fn refused(args: &[&str], code: i32, parts: &[&str]) {
    let ended = allot(args);
    assert_eq!(ended.code, code, "{args:?}: {}", ended.stderr);
    assert!(ended.stdout.is_empty(), "{args:?} printed {}", ended.stdout);
    for part in parts {
        assert!(
            ended.stderr.contains(part),
            "{args:?}: no {part:?} in {}",
            ended.stderr
        );
    }
    let wrong_flag = ended.stderr.contains("For more information");
    assert!(
        wrong_flag || ended.stderr.lines().count() == 1,
        "{args:?}: more than a sentence: {}",
        ended.stderr
    );
}

#[test]
fn nobody_at_an_address_is_exit_4_and_says_what_to_start() {
    let dead = format!("http://127.0.0.1:{}", free_port());
    for args in [
        &["node", "list"][..],
        &["framework", "list"],
        &["task", "list"],
        &["role", "list"],
        &["events"],
        &["why", "web"],
    ] {
        let args = [args, &["--master", &dead]].concat();
        refused(&args, 4, &[&dead, "refused", "allot local"]);
    }
    let args = ["why", "/web", "--services", &dead];
    refused(&args, 4, &[&dead, "refused", "allot services"]);
    let args = ["why", "1.0", "--batch", &dead];
    refused(&args, 4, &[&dead, "refused", "allot batch"]);
}

#[test]
fn wrong_flags_are_exit_2() {
    for (args, part) in [
        (&["node", "list", "--master", "a b"][..], "http://host:port"),
        (&["node", "list", "--master", "ftp://x"], "http://host:port"),
        (&["run", "--cpus", "-1", "--", "true"], "-1 is no amount"),
        (&["app", "scale", "/web", "-1"], "-1"),
        (&["node", "list", "--output", "xml"], "json"),
        (&["task", "list", "--watch=0"], "1..=86400"),
        (&["agent", "--resources", "cpus:-1"], "cpus"),
        (&["agent", "--resources", "cpus:NaN"], "cpus"),
        (&["agent", "--isolation", "selinux"], "cgroups,namespaces"),
        (&["agent", "--attributes", "isolation:none"], "isolation"),
        (&["master", "--agent-timeout", "5"], "15s"),
        (
            &["master", "--agent-timeout", "5s"],
            "agent_ping_interval 15s",
        ),
        (&["services", "--role", "a b"], "whitespace"),
        (&["local", "--agents", "0"], "1..=100"),
        (&["local", "--port", "65535"], "leaves no room"),
        (
            &["local", "--agents=2", "--resources", "ports:[1-2]"],
            "same ports",
        ),
        (&["serve", "--dir", "/does/not/exist"], "/does/not/exist"),
        (&["--log-level", "loud!", "node", "list"], "warn"),
    ] {
        // No folder of the developer's may be touched on the way to the refusal.
        let home = folder();
        let ended = finish(command(args).env("HOME", home.path()));
        assert_eq!(ended.code, 2, "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(part), "{args:?}: {}", ended.stderr);
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let data = folder();
    let data = text(data.path());
    let address = format!("127.0.0.1:{port}");
    for args in [
        &["master", "--data", data][..],
        &["agent", "--work-dir", data],
        &["services"],
        &["batch", "--data", data],
        &["serve", "--dir", data],
    ] {
        let args = [args, &["--port", &port]].concat();
        refused(&args, 1, &[&address, "port", "in use"]);
    }
}

#[test]
fn a_folder_in_use_is_refused_with_its_name_and_holder() {
    let data = folder();
    let data = text(data.path());
    let mut first = Process::start(&["local", "--port=0", "--data", data]);
    first.ready("batch");
    let holder = format!("process {}", first.pid());
    refused(
        &["local", "--port=0", "--data", data],
        1,
        &[data, &holder, "--data"],
    );
    assert_eq!(first.terminate(), 0);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let data = folder();
    let file = data.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("below");
    for args in [
        &["local", "--port=0", "--data", text(&below)][..],
        &["master", "--port=0", "--data", text(&below)],
        &["agent", "--port=0", "--work-dir", text(&below)],
        &["batch", "--port=0", "--data", text(&below)],
    ] {
        refused(args, 1, &[text(&below)]);
    }
}

/// App files that are wrong, and what the sentence must name.
const APPS: &[(&str, &str, &str)] = &[
    (
        "cut.json",
        r#"{"id": "/x", "cmd": "#,
        "cut.json holds no JSON",
    ),
    ("list.json", "[[[", "list.json holds no JSON"),
    (
        "cpus.json",
        r#"{"id": "/x", "cmd": "true", "cpus": -1}"#,
        "/cpus",
    ),
    (
        "type.json",
        r#"{"id": "/x", "cmd": "true", "cpus": "two"}"#,
        "/cpus",
    ),
    (
        "huge.json",
        r#"{"id": "/x", "cmd": "true", "mem": 1e300}"#,
        "/mem",
    ),
    (
        "field.json",
        r#"{"id": "/x", "cmd": "true", "foo": 1}"#,
        "/foo",
    ),
    ("id.json", r#"{"id": "/x/../y", "cmd": "true"}"#, "/id"),
    ("space.json", r#"{"id": "/a b", "cmd": "true"}"#, "/id"),
    ("idle.json", r#"{"id": "/x"}"#, "cmd"),
];

/// Submit files that are wrong, and what the sentence must name.
const SUBMITS: &[(&str, &str, &str)] = &[
    ("word.sub", "frob\n", "word.sub, line 1"),
    ("none.sub", "queue\n", "executable"),
    ("gone.sub", "executable = /no/such\nqueue\n", "/no/such"),
    (
        "cpus.sub",
        "executable = /bin/true\nrequest_cpus = -1\nqueue\n",
        "cpus.sub, line 2",
    ),
    (
        "mem.sub",
        "executable = /bin/true\nrequest_memory = NaN\nqueue\n",
        "mem.sub, line 2",
    ),
    (
        "many.sub",
        "executable = /bin/true\nqueue 999999999999\n",
        "999999999999",
    ),
    (
        "self.sub",
        "executable = /bin/true\nx = $(x)\narguments = $(x)\nqueue\n",
        "refers to itself",
    ),
];

#[test]
fn wrong_files_are_refused_by_name_and_the_cluster_goes_on() {
    let data = folder();
    let files = folder();
    let mut local = Process::start(&["local", "--port=0", "--data", text(data.path())]);
    let master = local.ready("master");
    local.ready("batch");
    let ask = |args: &[&str]| {
        let mut command = command(args);
        command.env("ALLOT_MASTER", &master);
        finish(command.current_dir(files.path()))
    };
    let wrong_apps = APPS.iter().map(|case| (["app", "add"], case));
    let wrong_jobs = SUBMITS.iter().map(|case| (["job", "submit"], case));
    for (command, (name, content, part)) in wrong_apps.chain(wrong_jobs) {
        std::fs::write(files.path().join(name), content).unwrap();
        let ended = ask(&[command[0], command[1], name]);
        assert_eq!(ended.code, 2, "{name}: {}", ended.stderr);
        assert!(ended.stderr.contains(part), "{name}: {}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{name}: {}", ended.stderr);
    }
    for command in [["app", "add"], ["job", "submit"]] {
        let ended = ask(&[command[0], command[1], "no-such-file"]);
        assert_eq!(ended.code, 2);
        assert!(ended.stderr.contains("no-such-file"), "{}", ended.stderr);
    }
    assert!(!ask(&["app", "list", "-o", "json"]).ok().contains("/x"));
    // Whatever was refused, the cluster still works.
    let ran = ask(&[
        "run",
        "--cpus=0.1",
        "--mem=32",
        "--",
        "sh",
        "-c",
        "echo fine; exit 7",
    ]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (7, "fine\n"),
        "{}",
        ran.stderr
    );
    assert_eq!(local.terminate(), 0);
}
