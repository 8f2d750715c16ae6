//! What a task of root cannot do from inside its container. Most of it follows a hole that a
//! container runtime once had; the test names it.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use allotment_agent::Isolation;
use allotment_proto::mesos::capability_info::Capability;
use allotment_proto::mesos::r_limit_info::{RLimit, r_limit};
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{
    CapabilityInfo, ContainerInfo, LinuxInfo, RLimitInfo, SeccompInfo, TaskState,
};
use support::{Cluster, Mode, contained, root, shell};

/// Runs one line as root in a container with every wall; what it printed.
async fn inside(line: &str) -> String {
    let mut c = Cluster::start(Mode::Isolated).await;
    c.master.launch(vec![shell("t", line)]).await;
    let end = c.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    let out = c.stdout("t");
    c.agent.stop().await;
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_program_is_out_of_reach_cve_2019_5736() {
    if !root() {
        return;
    }
    let out = inside(
        "for f in exe mem environ fd/0; do (: < /proc/1/$f) 2>/dev/null && echo opened $f; done; \
         readlink /proc/1/exe /proc/1/cwd /proc/1/fd/3; kill -0 1 && echo there",
    )
    .await;
    assert_eq!(out, "there\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernels_settings_and_limits_cannot_be_written() {
    if !root() {
        return;
    }
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    // Written back as it is, so that a failure of this test breaks nothing.
    let out = inside(
        "pattern=$(cat /proc/sys/kernel/core_pattern)\n\
         (echo \"$pattern\" > /proc/sys/kernel/core_pattern) 2>/dev/null && echo pattern\n\
         (echo h > /proc/sysrq-trigger) 2>/dev/null && echo sysrq\n\
         while IFS=: read -r n controllers path; do\n\
         for f in $(find /sys/fs/cgroup -path \"*$path/cgroup.procs\" 2>/dev/null); do\n\
         (echo 0 > ${f%$path/cgroup.procs}/cgroup.procs) 2>/dev/null && echo left $f\n\
         (echo max > ${f%cgroup.procs}pids.max) 2>/dev/null && echo more pids\n\
         done; done < /proc/self/cgroup\n\
         echo done",
    )
    .await;
    assert_eq!(out, "done\n");
    let after = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machines_disks_are_out_of_reach() {
    if !root() {
        return;
    }
    let out = inside(
        "find /dev -type b; mknod disk b 254 0 2>/dev/null && echo made; touch /dev/x 2>/dev/null \
         && echo wrote; echo kept > /dev/null; head -c 3 /dev/urandom | wc -c; ls -d /dev/shm",
    )
    .await;
    assert_eq!(out, "3\n/dev/shm\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_cannot_be_made_or_entered() {
    if !root() {
        return;
    }
    // A user namespace would make the task root again; the machine's own are its init's.
    let out = inside(
        "unshare -U true 2>/dev/null && echo user; unshare -m true 2>/dev/null && echo mounts; \
         nsenter -t 1 -m true 2>/dev/null && echo entered; grep -c '^Seccomp:.*2' /proc/self/status; \
         grep NoNewPrivs /proc/self/status",
    )
    .await;
    assert_eq!(out, "1\nNoNewPrivs:\t1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn set_user_id_programs_give_no_rights_cve_2019_14803() {
    if !root() {
        return;
    }
    let mut c = Cluster::start(Mode::Isolated).await;
    fs::set_permissions(c.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let id = c.folder.path().join("id");
    fs::copy("/usr/bin/id", &id).unwrap();
    fs::set_permissions(&id, fs::Permissions::from_mode(0o4755)).unwrap();
    let line = format!("{} -u", id.display());
    c.master.launch_as("nobody", vec![shell("t", &line)]).await;
    let end = c.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert_eq!(c.stdout("t").trim(), nobody.uid.to_string());
    c.agent.stop().await;
}

fn capabilities(list: &[Capability]) -> Option<CapabilityInfo> {
    Some(CapabilityInfo {
        capabilities: list.iter().map(|c| i32::from(*c)).collect(),
    })
}

fn linux(info: LinuxInfo) -> ContainerInfo {
    ContainerInfo {
        linux_info: Some(info),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn powers_are_what_was_asked_for_and_allowed() {
    if !root() {
        return;
    }
    let mut c = Cluster::with(Mode::Isolated, |config| {
        config.isolators.bounding_capabilities = "default,NET_RAW".parse().unwrap();
    })
    .await;
    fs::set_permissions(c.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let show = "grep -E '^Cap(Eff|Bnd)' /proc/self/status | cut -f 2";
    let asking = |id: &str, effective, bounding| {
        let info = LinuxInfo {
            effective_capabilities: effective,
            bounding_capabilities: bounding,
            ..Default::default()
        };
        contained(shell(id, show), linux(info))
    };
    let raw = capabilities(&[Capability::NetRaw]);
    let chown = capabilities(&[Capability::Chown, Capability::NetRaw]);
    let admin = capabilities(&[Capability::SysAdmin]);
    c.master
        .launch(vec![
            shell("plain", show),
            asking("raw", raw.clone(), None),
            asking("less", raw.clone(), chown),
            asking("admin", admin, None),
        ])
        .await;
    c.master
        .launch_as(
            "nobody",
            vec![asking("user", raw, None), shell("bare", show)],
        )
        .await;
    let refused = c.master.end("admin").await;
    assert_eq!(refused.reason(), Reason::ContainerLaunchFailed);
    let message = refused.message();
    assert!(
        message.contains("SYS_ADMIN") && message.contains("--bounding-capabilities"),
        "{message}"
    );
    for (task, effective, bounding) in [
        ("plain", 0xa004_05fb_u64, 0xa004_05fb_u64),
        ("raw", 1 << 13, 1 << 13),
        ("less", 1 << 13, 1 << 13 | 1),
        ("user", 1 << 13, 1 << 13),
        ("bare", 0, 0xa004_05fb),
    ] {
        let end = c.master.end(task).await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        let expected = format!("{effective:016x}\n{bounding:016x}\n");
        assert_eq!(c.stdout(task), expected, "{task}");
    }
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_may_ask_for_no_filter_and_for_rlimits() {
    if !root() {
        return;
    }
    let mut c = Cluster::start(Mode::Isolated).await;
    let unconfined = linux(LinuxInfo {
        seccomp: Some(SeccompInfo {
            unconfined: Some(true),
            ..Default::default()
        }),
        ..Default::default()
    });
    let limited = |soft, hard| ContainerInfo {
        rlimit_info: Some(RLimitInfo {
            rlimits: vec![RLimit {
                r#type: Some(i32::from(r_limit::Type::RlmtNofile)),
                soft,
                hard,
            }],
        }),
        ..Default::default()
    };
    c.master
        .launch(vec![
            contained(
                shell("open", "grep '^Seccomp:' /proc/self/status | cut -f 2"),
                unconfined,
            ),
            contained(
                shell("files", "ulimit -Sn; ulimit -Hn"),
                limited(Some(77), Some(99)),
            ),
            contained(shell("wrong", "true"), limited(Some(99), Some(77))),
        ])
        .await;
    for (task, out) in [("open", "0\n"), ("files", "77\n99\n")] {
        let end = c.master.end(task).await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        assert_eq!(c.stdout(task), out, "{task}");
    }
    let wrong = c.master.end("wrong").await;
    assert_eq!(wrong.state(), TaskState::TaskError);
    assert!(wrong.message().contains("RLMT_NOFILE"), "{wrong:?}");
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn isolation_that_is_asked_for_and_missing_fails_the_launch() {
    let mut c = Cluster::with(Mode::Plain, |config| config.isolation = Isolation::None).await;
    let raw = linux(LinuxInfo {
        effective_capabilities: capabilities(&[Capability::NetRaw]),
        ..Default::default()
    });
    let pid = linux(LinuxInfo {
        share_pid_namespace: Some(true),
        ..Default::default()
    });
    c.master
        .launch(vec![
            contained(shell("powers", "true"), raw),
            contained(shell("shared", "true"), pid),
        ])
        .await;
    let powers = c.master.end("powers").await;
    assert_eq!(powers.reason(), Reason::ContainerLaunchFailed, "{powers:?}");
    assert!(
        powers.message().contains("linux/capabilities"),
        "{powers:?}"
    );
    let shared = c.master.end("shared").await;
    assert_eq!(shared.state(), TaskState::TaskError, "{shared:?}");
    c.agent.stop().await;
}
