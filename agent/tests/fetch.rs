//! Files that tasks name: over TLS, out of archives, from the cache.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use allotment_proto::mesos::command_info::Uri;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{TaskInfo, TaskState};
use support::{Cluster, Mode, modes, program, root, shell};

fn uri(value: &str) -> Uri {
    Uri {
        value: value.to_owned(),
        ..Default::default()
    }
}

fn fetching(mut info: TaskInfo, uri: Uri) -> TaskInfo {
    let command = info.command.as_mut().expect("a command");
    command.uris.push(uri);
    info
}

fn archive(name: &str) -> String {
    let archives = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives");
    archives.join(name).display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_unpacked_as_the_tasks_user_unless_told_not_to() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let user = if root() && mode == Mode::Isolated {
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(c.folder.path(), open).unwrap();
            "nobody"
        } else {
            "root"
        };
        let whole = Uri {
            extract: Some(false),
            ..uri(&archive("a.tar.gz"))
        };
        let line = "stat -c %U d/hello.txt; cat d/link";
        c.master
            .launch_as(
                user,
                vec![
                    fetching(shell("out", line), uri(&archive("a.tar.xz"))),
                    fetching(shell("whole", "ls"), whole),
                ],
            )
            .await;
        let end = c.master.end("out").await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        let out = c.stdout("out");
        assert!(out.ends_with("hello\n"), "{out}");
        if user == "nobody" {
            assert!(out.starts_with("nobody\n"), "{out}");
        }
        c.master.end("whole").await;
        assert_eq!(c.stdout("whole"), "a.tar.gz\nstderr\nstdout\n");
        c.agent.stop().await;
    }
}

/// Answers every request with `body` and counts them.
fn serve(body: &'static [u8], delay: Duration) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else {
                return;
            };
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 4096]);
            std::thread::sleep(delay);
            let head = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(body);
        }
    });
    (url, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_share_one_download_through_the_cache() {
    let mut c = Cluster::start(Mode::Plain).await;
    // Slow enough for all of them to want it at the same time.
    let (url, asked) = serve(b"shared", Duration::from_millis(200));
    let cached = Uri {
        cache: Some(true),
        ..uri(&format!("{url}/file"))
    };
    let ids: Vec<String> = (0..6).map(|i| format!("t{i}")).collect();
    let tasks = ids
        .iter()
        .map(|id| fetching(shell(id, "cat file"), cached.clone()));
    c.master.launch(tasks.collect()).await;
    for id in &ids {
        let end = c.master.end(id).await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        assert_eq!(c.stdout(id), "shared");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stalls_is_named_with_what_it_sent() {
    let mut c = Cluster::with(Mode::Plain, |config| {
        config.fetcher.stall_timeout = Duration::from_millis(100);
    })
    .await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/big", listener.local_addr().unwrap());
    let (done, wait) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n12345")
            .unwrap();
        let _ = wait.recv();
    });
    c.master
        .launch(vec![fetching(program("t", &["true"]), uri(&url))])
        .await;
    let end = c.master.end("t").await;
    assert_eq!(end.reason(), Reason::ContainerLaunchFailed);
    let message = end.message();
    assert!(
        message.contains(&url) && message.contains("nothing for 100ms after 5 bytes"),
        "{message}"
    );
    assert!(!c.sandbox("t").join("big").exists());
    drop(done);
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn https_is_trusted_by_the_operators_authorities_only() {
    let mut c = Cluster::start(Mode::Plain).await;
    let authority = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("ca.pem");
    fs::write(&pem, authority.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(authority.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![authority.cert.der().clone()], key.unwrap())
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    });
    let task = |id: &str| {
        fetching(
            shell(id, "cat f"),
            uri(&format!("https://localhost:{port}/f")),
        )
    };
    c.master.launch(vec![task("strange")]).await;
    let end = c.master.end("strange").await;
    assert_eq!(end.reason(), Reason::ContainerLaunchFailed, "{end:?}");
    assert!(end.message().contains("certificate"), "{end:?}");
    c.agent.stop().await;
    let mut c = Cluster::with(Mode::Plain, |config| {
        config.fetcher.authorities = Some(pem.clone());
    })
    .await;
    c.master.launch(vec![task("trusted")]).await;
    let end = c.master.end("trusted").await;
    assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    assert_eq!(c.stdout("trusted"), "secret");
    c.agent.stop().await;
}
