//! Mesos' `/files` over HTTP: what is there is found, and nothing else.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;

use support::{AGENT, Cluster, FRAMEWORK, Mode, shell};

/// Status line with headers, and the body.
fn get(url: &str, target: &str, header: &str) -> (String, Vec<u8>) {
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("the agent");
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n{header}\r\n"
    )
    .expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let head = answer
        .windows(4)
        .position(|part| part == b"\r\n\r\n")
        .expect("a head");
    let text = String::from_utf8_lossy(&answer[..head]).into_owned();
    (text, answer.split_off(head + 4))
}

fn json(url: &str, target: &str) -> serde_json::Value {
    let (head, body) = get(url, target, "");
    assert!(head.starts_with("HTTP/1.1 200"), "{target}: {head}");
    serde_json::from_slice(&body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_browsed_read_and_downloaded_as_with_mesos() {
    let mut c = Cluster::start(Mode::Plain).await;
    let line = "printf 0123456789; mkdir deep; echo x > deep/file; ln -s /etc/passwd out";
    c.master.launch(vec![shell("t", line)]).await;
    c.master.end("t").await;
    let url = c.agent.url().to_owned();
    let sandbox = c.sandbox("t").canonicalize().unwrap().display().to_string();
    let virtual_path = format!("/frameworks/{FRAMEWORK}/executors/t/runs/latest");

    for folder in [&sandbox, &virtual_path] {
        let listed = json(&url, &format!("/files/browse?path={folder}"));
        let names: Vec<&str> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|file| file["path"].as_str().unwrap())
            .collect();
        let expected = ["deep", "out", "stderr", "stdout"].map(|name| format!("{folder}/{name}"));
        assert_eq!(names, expected);
        assert_eq!(listed[0]["mode"], "drwxr-xr-x");
        assert_eq!(listed[3]["size"], 10);
        assert!(listed[3]["mtime"].as_f64().unwrap() > 1e9);
        assert!(listed[3]["uid"].is_string() && listed[3]["nlink"] == 1);
    }
    let stdout = format!("{sandbox}/stdout");
    let read = |query: &str| {
        json(
            &url,
            &format!("/slave(1)/files/read.json?path={stdout}{query}"),
        )
    };
    assert_eq!(read(""), serde_json::json!({"data": "", "offset": 10}));
    assert_eq!(
        read("&offset=-1"),
        serde_json::json!({"data": "", "offset": 10})
    );
    assert_eq!(
        read("&offset=2&length=3"),
        serde_json::json!({"data": "234", "offset": 2})
    );
    assert_eq!(
        read("&offset=8&length=-1"),
        serde_json::json!({"data": "89", "offset": 8})
    );
    assert_eq!(
        read("&offset=99"),
        serde_json::json!({"data": "", "offset": 10})
    );

    let target = format!("/files/download?path={virtual_path}/stdout");
    let (head, body) = get(&url, &target, "");
    assert!(head.contains("attachment; filename=\"stdout\""), "{head}");
    assert_eq!(body, b"0123456789");
    let (head, body) = get(&url, &target, "range: bytes=4-6\r\n");
    assert!(head.starts_with("HTTP/1.1 206"), "{head}");
    assert!(head.contains("bytes 4-6/10"), "{head}");
    assert_eq!(body, b"456");
    let (head, _) = get(&url, &target, "range: bytes=10-\r\n");
    assert!(head.starts_with("HTTP/1.1 416"), "{head}");

    let known = json(&url, "/files/debug");
    assert!(
        known.as_object().unwrap().contains_key(&virtual_path),
        "{known}"
    );
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_leaves_the_sandboxes() {
    let mut c = Cluster::start(Mode::Plain).await;
    c.master.launch(vec![shell("t", "ln -s / root")]).await;
    c.master.end("t").await;
    let sandbox = c.sandbox("t").canonicalize().unwrap();
    symlink("/etc", sandbox.join("etc")).unwrap();
    let url = c.agent.url().to_owned();
    let sandbox = sandbox.display();
    let work_dir = c.work_dir().canonicalize().unwrap();
    let work_dir = work_dir.display();
    for path in [
        "/etc/passwd".to_owned(),
        format!("{sandbox}/../../../../../../../../meta/agent.json"),
        format!("{sandbox}/etc/passwd"),
        format!("{sandbox}/root/etc/passwd"),
        format!("{work_dir}/meta/agent.json"),
        format!("/slaves/{AGENT}/frameworks/{FRAMEWORK}/executors/t/runs/../../../../x"),
        format!("{sandbox}/%2e%2e/%2e%2e/latest"),
        format!("{sandbox}/a%00b"),
    ] {
        for kind in ["read", "download", "browse"] {
            let (head, body) = get(&url, &format!("/files/{kind}?offset=0&path={path}"), "");
            let status = head.split(' ').nth(1).unwrap();
            assert!(["400", "404"].contains(&status), "{path}: {head}");
            assert!(!String::from_utf8_lossy(&body).contains("root:"), "{path}");
        }
    }
    // Percent signs that stand for nothing (Mesos' CVE-2017-7687) and missing parameters.
    for target in [
        "/files/read?path=%",
        "/files/read?path=%zz",
        "/files/browse",
        "/files/read?path=x&offset=y",
        "/%",
        "/files/%ff",
    ] {
        let (head, _) = get(&url, target, "");
        let status = head.split(' ').nth(1).unwrap();
        assert!(["400", "404"].contains(&status), "{target}: {head}");
    }
    assert!(get(&url, "/health", "").0.starts_with("HTTP/1.1 200"));
    c.agent.stop().await;
}
