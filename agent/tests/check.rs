//! Checks of tasks: their timings on virtual time, and real ones of real servers.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/story.rs"]
mod story;
mod support;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use allotment_agent::core::{ContainerId, Effect, Input, Probe, Probed, Which};
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{self, CheckInfo, HealthCheck, TaskInfo, TaskState, check_info};
use allotment_proto::mesos::{TaskStatus, health_check};
use story::{Agent, secs, task};
use support::{Cluster, Mode, modes, shell};

fn health(failures: u32) -> HealthCheck {
    HealthCheck {
        r#type: Some(health_check::Type::Http.into()),
        http: Some(health_check::HttpCheckInfo {
            port: 8080,
            path: Some("/health".to_owned()),
            ..Default::default()
        }),
        consecutive_failures: Some(failures),
        ..Default::default()
    }
}

/// A running task with that health check, whose delay has passed.
fn checked(a: &mut Agent, info: TaskInfo) -> ContainerId {
    a.launch(vec![info]);
    let container = a.starts("t");
    a.started(&container);
    a.acknowledged_update("t", TaskState::TaskRunning);
    a.wait(secs(15) - Duration::from_millis(1));
    a.nothing_else();
    a.wait(Duration::from_millis(1));
    probes(a);
    container
}

fn probes(a: &mut Agent) -> Probe {
    match a.next() {
        Effect::Probe { probe, timeout, .. } => {
            assert_eq!(timeout, secs(20));
            probe
        }
        other => panic!("{other:?}"),
    }
}

fn probed(a: &mut Agent, container: &ContainerId, which: Which, probed: Probed) {
    a.feed(Input::Probed {
        container: container.clone(),
        which,
        probed,
    });
}

fn health_update(a: &mut Agent, healthy: bool) -> TaskStatus {
    let status = a.acknowledged_update("t", TaskState::TaskRunning);
    assert_eq!(status.reason(), Reason::TaskHealthCheckStatusUpdated);
    assert_eq!(status.healthy, Some(healthy), "{status:?}");
    status
}

#[test]
fn a_health_check_tells_its_first_success_and_each_change() {
    let mut a = Agent::registered();
    let mut info = task("t", "cpus:1");
    info.health_check = Some(Box::new(health(3)));
    let container = checked(&mut a, info);
    probed(&mut a, &container, Which::Health, Probed::Http(200));
    health_update(&mut a, true);
    for answer in [204, 399] {
        a.wait(secs(10));
        let probe = probes(&mut a);
        assert!(matches!(probe, Probe::Http { ref path, port: 8080, .. } if path == "/health"));
        probed(&mut a, &container, Which::Health, Probed::Http(answer));
        a.nothing_else();
    }
    a.wait(secs(10));
    probes(&mut a);
    probed(&mut a, &container, Which::Health, Probed::Http(500));
    let sick = health_update(&mut a, false);
    assert!(sick.message().contains("1 of 3"), "{sick:?}");
    assert!(sick.message().contains("500"), "{sick:?}");
    a.wait(secs(10));
    probes(&mut a);
    probed(&mut a, &container, Which::Health, Probed::Http(200));
    health_update(&mut a, true);
    a.exits(&container, 0);
    a.acknowledged_update("t", TaskState::TaskFinished);
    a.nothing_else();
}

#[test]
fn failures_within_the_grace_period_do_not_count_and_so_many_in_a_row_kill() {
    let mut a = Agent::registered();
    let mut info = task("t", "cpus:1");
    info.health_check = Some(Box::new(HealthCheck {
        grace_period_seconds: Some(30.0),
        ..health(2)
    }));
    let container = checked(&mut a, info);
    // 15 and 25 seconds after the start.
    for _ in 0..2 {
        probed(&mut a, &container, Which::Health, Probed::Refused);
        a.nothing_else();
        a.wait(secs(10));
        probes(&mut a);
    }
    probed(&mut a, &container, Which::Health, Probed::Refused);
    health_update(&mut a, false);
    a.wait(secs(10));
    probes(&mut a);
    let why = Probed::Failed("no answer within 20s".to_owned());
    probed(&mut a, &container, Which::Health, why);
    assert_eq!(a.next(), Effect::Terminate(container.clone()));
    let last = health_update(&mut a, false);
    assert!(last.message().contains("2 of 2"), "{last:?}");
    // No more probes of a task that is being killed.
    a.wait(secs(4));
    a.nothing_else();
    a.exits(&container, 143);
    let end = a.acknowledged_update("t", TaskState::TaskKilled);
    assert_eq!(end.healthy, Some(false));
    assert_eq!(end.reason(), Reason::TaskHealthCheckStatusUpdated);
}

#[test]
fn a_check_reports_what_it_finds_when_that_changes_and_kills_nobody() {
    let mut a = Agent::registered();
    let mut info = task("t", "cpus:1");
    info.check = Some(Box::new(CheckInfo {
        r#type: Some(check_info::Type::Tcp.into()),
        tcp: Some(check_info::Tcp { port: 9000 }),
        ..Default::default()
    }));
    let container = checked(&mut a, info);
    let succeeded = |status: &TaskStatus| {
        let found = status.check_status.as_ref().unwrap();
        found.tcp.as_ref().unwrap().succeeded
    };
    for (found, expected) in [
        (Probed::Refused, Some(false)),
        (Probed::Connected, Some(true)),
        (Probed::Failed("too late".to_owned()), None),
    ] {
        for news in [true, false] {
            probed(&mut a, &container, Which::Check, found.clone());
            if news {
                let status = a.acknowledged_update("t", TaskState::TaskRunning);
                assert_eq!(status.reason(), Reason::TaskCheckStatusUpdated);
                assert_eq!(succeeded(&status), expected);
                assert_eq!(status.healthy, None);
            }
            a.nothing_else();
            a.wait(secs(10));
            probes(&mut a);
        }
    }
    a.exits(&container, 0);
    a.acknowledged_update("t", TaskState::TaskFinished);
}

#[test]
fn a_framework_that_is_away_finds_the_latest_finding_and_no_long_list() {
    let mut a = Agent::registered();
    let mut info = task("t", "cpus:1");
    info.health_check = Some(Box::new(health(1000)));
    let container = checked(&mut a, info);
    probed(&mut a, &container, Which::Health, Probed::Http(200));
    let first = a.update("t", TaskState::TaskRunning);
    for _ in 0..50 {
        probed(&mut a, &container, Which::Health, Probed::Http(500));
    }
    assert_eq!(a.core.overview().updates_pending, 2);
    a.acknowledge(&first);
    let last = health_update(&mut a, false);
    assert!(last.message().contains("50 of 1000"), "{last:?}");
}

#[test]
fn a_probe_that_could_not_be_made_says_nothing_about_the_task_and_is_soon_made_again() {
    let mut a = Agent::registered();
    let mut info = task("t", "cpus:1");
    info.health_check = Some(Box::new(health(1)));
    let container = checked(&mut a, info);
    let why = Probed::NotMade("the agent lost the command".to_owned());
    probed(&mut a, &container, Which::Health, why);
    a.nothing_else();
    // Not at the next interval: what kept it is not the task.
    a.wait(secs(1));
    probes(&mut a);
    probed(&mut a, &container, Which::Health, Probed::Http(200));
    health_update(&mut a, true);
}

#[test]
fn checks_go_on_after_a_restart_of_the_agent() {
    let mut a = Agent::registered();
    let mut info = task("t", "cpus:1");
    info.health_check = Some(Box::new(health(1)));
    let container = checked(&mut a, info);
    a.dies_and_returns();
    a.is_back();
    a.started(&container);
    a.wait(secs(10));
    probes(&mut a);
    probed(&mut a, &container, Which::Health, Probed::Refused);
    assert_eq!(a.next(), Effect::Terminate(container));
}

#[tokio::test(flavor = "multi_thread")]
async fn real_servers_are_probed_over_http_and_tcp() {
    let mut c = Cluster::start(Mode::Plain).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = u32::from(listener.local_addr().unwrap().port());
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        // TCP probes say nothing. The second one tells that the first was taken in; until then
        // the task is healthy, so that it lives to report it.
        let (mut n_silent, mut n_refused) = (0, 0);
        while n_refused < 2 {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let n = connection.read(&mut request).unwrap_or(0);
            if n == 0 {
                n_silent += 1;
                continue;
            }
            assert!(request[..n].starts_with(b"GET /ok "));
            let status = if n_silent < 2 { "200 OK" } else { "418 Teapot" };
            n_refused += i32::from(n_silent >= 2);
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            let _ = connection.write_all(answer.as_bytes());
        }
    });
    let mut info = shell("t", "sleep 1000");
    info.check = Some(Box::new(CheckInfo {
        r#type: Some(check_info::Type::Tcp.into()),
        tcp: Some(check_info::Tcp { port }),
        delay_seconds: Some(0.0),
        interval_seconds: Some(0.05),
        ..Default::default()
    }));
    info.health_check = Some(Box::new(HealthCheck {
        r#type: Some(health_check::Type::Http.into()),
        http: Some(health_check::HttpCheckInfo {
            port,
            path: Some("/ok".to_owned()),
            ..Default::default()
        }),
        delay_seconds: Some(0.0),
        interval_seconds: Some(0.01),
        grace_period_seconds: Some(0.0),
        consecutive_failures: Some(2),
        ..Default::default()
    }));
    c.master.launch(vec![info]).await;
    let (mut connected, mut teapot) = (false, false);
    let end = loop {
        let status = c.master.update("t").await;
        let tcp = status.check_status.as_ref().and_then(|s| s.tcp.as_ref());
        connected |= tcp.and_then(|tcp| tcp.succeeded) == Some(true);
        teapot |= status.message().contains("418");
        if status.state() != TaskState::TaskRunning {
            break status;
        }
    };
    assert!(connected && teapot);
    assert_eq!(end.state(), TaskState::TaskKilled, "{end:?}");
    assert_eq!(end.healthy, Some(false));
    server.join().unwrap();
    c.agent.stop().await;
}

fn line(text: &str) -> mesos::CommandInfo {
    mesos::CommandInfo {
        value: Some(text.to_owned()),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_checks_inside_the_container_and_tell_code_and_words() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let mut info = shell("t", "echo up > state; exec sleep 1000");
        let command = "cat state; test $CHECKED = yes && test $MESOS_TASK_ID = t || exit 99; \
                       if test -e bad; then exit $(cat bad); fi; readlink /proc/self/ns/pid";
        info.check = Some(Box::new(CheckInfo {
            r#type: Some(check_info::Type::Command.into()),
            command: Some(check_info::Command {
                command: mesos::CommandInfo {
                    environment: Some(mesos::Environment {
                        variables: vec![mesos::environment::Variable {
                            name: "CHECKED".to_owned(),
                            value: Some("yes".to_owned()),
                            ..Default::default()
                        }],
                    }),
                    ..line(command)
                },
            }),
            delay_seconds: Some(0.0),
            interval_seconds: Some(0.05),
            ..Default::default()
        }));
        c.master.launch(vec![info]).await;
        let running = c.master.running("t").await;
        let code = |status: &TaskStatus| {
            let found = status.check_status.as_ref().unwrap();
            assert_eq!(found.r#type(), check_info::Type::Command);
            found.command.as_ref().unwrap().exit_code
        };
        assert_eq!(code(&running), None);
        let good = c.master.running("t").await;
        assert_eq!(code(&good), Some(0), "{good:?}");
        assert!(good.message().starts_with("up\n"), "{good:?}");
        let ours = std::fs::read_link("/proc/self/ns/pid").unwrap();
        let shares = good.message().contains(ours.to_str().unwrap());
        assert_eq!(shares, mode == Mode::Plain);
        std::fs::write(c.sandbox("t").join("bad"), "42").unwrap();
        let bad = c.master.running("t").await;
        assert_eq!(code(&bad), Some(42), "{bad:?}");
        assert_eq!(bad.reason(), Reason::TaskCheckStatusUpdated);
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_takes_too_long_ends_with_its_tree_and_counts_as_a_failure() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let mark = uuid::Uuid::new_v4().to_string();
        let mut info = shell("t", "sleep 1000");
        let command = format!(
            "export MARK={mark}; echo thinking; (setsid sleep 1000 >/dev/null 2>&1 &); sleep 1000"
        );
        info.health_check = Some(Box::new(HealthCheck {
            r#type: Some(health_check::Type::Command.into()),
            command: Some(line(&command)),
            delay_seconds: Some(0.0),
            interval_seconds: Some(0.01),
            timeout_seconds: Some(2.0),
            grace_period_seconds: Some(0.0),
            consecutive_failures: Some(1),
            ..Default::default()
        }));
        c.master.launch(vec![info]).await;
        c.master.running("t").await;
        let sick = c.master.running("t").await;
        assert_eq!(sick.healthy, Some(false));
        let message = sick.message();
        assert!(message.contains("1 of 1"), "{message}");
        assert!(message.contains("2s: thinking"), "{message}");
        let end = c.master.end("t").await;
        assert_eq!(end.state(), TaskState::TaskKilled, "{end:?}");
        support::until("nothing is left", || {
            support::marked_processes(&mark).is_empty()
        })
        .await;
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_any_certificate_is_probed_over_https() {
    let mut c = Cluster::start(Mode::Plain).await;
    let issued = rcgen::generate_simple_self_signed(["elsewhere".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key.unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = u32::from(listener.local_addr().unwrap().port());
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((connection, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(connection).await else {
                continue;
            };
            let mut request = [0; 1024];
            let n = stream.read(&mut request).await.unwrap_or(0);
            assert!(request[..n].starts_with(b"GET /safe "));
            let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    });
    let mut info = shell("t", "sleep 1000");
    info.health_check = Some(Box::new(HealthCheck {
        r#type: Some(health_check::Type::Http.into()),
        http: Some(health_check::HttpCheckInfo {
            port,
            scheme: Some("https".to_owned()),
            path: Some("/safe".to_owned()),
            ..Default::default()
        }),
        delay_seconds: Some(0.0),
        interval_seconds: Some(0.01),
        ..Default::default()
    }));
    c.master.launch(vec![info]).await;
    assert_eq!(c.master.running("t").await.healthy, None);
    assert_eq!(c.master.running("t").await.healthy, Some(true));
    c.agent.stop().await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_that_make_no_sense_are_refused_with_the_reason() {
    let mut c = Cluster::start(Mode::Plain).await;
    let with = |id: &str, health_check: HealthCheck| {
        let mut info = shell(id, "true");
        info.health_check = Some(Box::new(health_check));
        info
    };
    let http = |port, path: &str| HealthCheck {
        http: Some(health_check::HttpCheckInfo {
            port,
            path: Some(path.to_owned()),
            ..Default::default()
        }),
        ..health(3)
    };
    let mut scheme = health(3);
    scheme.http.as_mut().unwrap().scheme = Some("gopher".to_owned());
    let command = HealthCheck {
        r#type: Some(health_check::Type::Command.into()),
        command: Some(mesos::CommandInfo::default()),
        ..Default::default()
    };
    let with_command = |command| HealthCheck {
        r#type: Some(health_check::Type::Command.into()),
        command: Some(command),
        ..Default::default()
    };
    let other = with_command(mesos::CommandInfo {
        user: Some("nobody".to_owned()),
        ..line("true")
    });
    let fetches = with_command(mesos::CommandInfo {
        uris: vec![mesos::command_info::Uri {
            value: "/etc/passwd".to_owned(),
            ..Default::default()
        }],
        ..line("true")
    });
    let endless = HealthCheck {
        interval_seconds: Some(f64::NAN),
        ..health(3)
    };
    let cases = [
        ("port", http(70_000, "/"), "port 70000"),
        ("path", http(80, "health"), "begin it with a slash"),
        (
            "split",
            http(80, "/a HTTP/1.1\r\nx: y"),
            "begin it with a slash",
        ),
        ("scheme", scheme, "\"gopher\""),
        ("command", command, "empty shell command"),
        ("other", other, "set the user in the task's own command"),
        ("fetches", fetches, "names URIs"),
        ("typeless", HealthCheck::default(), "without its type"),
        ("endless", endless, "interval_seconds NaN"),
    ];
    for (id, check, why) in cases {
        c.master.launch(vec![with(id, check)]).await;
        let end = c.master.end(id).await;
        assert_eq!(end.state(), TaskState::TaskError, "{end:?}");
        assert!(end.message().contains(why), "{}", end.message());
    }
    c.agent.stop().await;
}
