//! Volumes: what a task finds where, what it can change, and what it cannot reach.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use allotment_proto::allot;
use allotment_proto::allot::master_message::Message as Told;
use allotment_proto::convert::resources_to_wire;
use allotment_proto::mesos::volume::{Mode as Access, Source, source};
use allotment_proto::mesos::{ContainerInfo, TaskState, Volume};
use allotment_types::{Resources, Role};
use support::{Cluster, Mode, contained, modes, root, shell};

fn host(path: &Path, at: &str, mode: Access) -> Volume {
    Volume {
        mode: i32::from(mode),
        container_path: at.to_owned(),
        source: Some(Source {
            r#type: Some(i32::from(source::Type::HostPath)),
            host_path: Some(source::HostPath {
                path: path.display().to_string(),
                mount_propagation: None,
            }),
            sandbox_path: None,
        }),
        ..Default::default()
    }
}

fn sandbox(path: &str, at: &str) -> Volume {
    Volume {
        mode: i32::from(Access::Rw),
        container_path: at.to_owned(),
        source: Some(Source {
            r#type: Some(i32::from(source::Type::SandboxPath)),
            host_path: None,
            sandbox_path: Some(source::SandboxPath {
                r#type: Some(i32::from(source::sandbox_path::Type::Self_)),
                path: path.to_owned(),
            }),
        }),
        ..Default::default()
    }
}

fn with(volumes: Vec<Volume>) -> ContainerInfo {
    ContainerInfo {
        volumes,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn host_paths_are_found_where_they_were_asked_for_and_change_only_when_allowed() {
    if !root() {
        return;
    }
    let shared = tempfile::tempdir().unwrap();
    fs::write(shared.path().join("file"), "from the machine\n").unwrap();
    fs::create_dir(shared.path().join("out")).unwrap();
    let mut c = Cluster::with(Mode::Isolated, |config| {
        config.isolators.host_path_volumes = vec![shared.path().display().to_string()];
    })
    .await;
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let volumes = vec![
        host(shared.path(), "in", Access::Ro),
        host(&shared.path().join("out"), "deep/out", Access::Rw),
        host(&shared.path().join("file"), "one", Access::Ro),
        host(&shared.path().join("file"), "/etc/hostname", Access::Ro),
    ];
    let line = "cat in/file one /etc/hostname; touch in/x 2>/dev/null && echo changed; \
                echo result > deep/out/r; cp /usr/bin/id deep/out && chmod u+s deep/out/id";
    c.master
        .launch(vec![contained(shell("t", line), with(volumes))])
        .await;
    let end = c.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    assert_eq!(c.stdout("t"), "from the machine\n".repeat(3));
    let result = fs::read_to_string(shared.path().join("out/r")).unwrap();
    assert_eq!(result, "result\n");
    // Nothing is mounted outside of the container, and the sandbox can be deleted.
    assert_eq!(fs::read_to_string("/proc/self/mounts").unwrap(), mounts);
    assert_eq!(fs::read_dir(c.sandbox("t").join("in")).unwrap().count(), 0);
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_has_not_opened_is_refused_links_included() {
    if !root() {
        return;
    }
    let shared = tempfile::tempdir().unwrap();
    symlink("/etc", shared.path().join("etc")).unwrap();
    let mut c = Cluster::with(Mode::Isolated, |config| {
        config.isolators.host_path_volumes = vec![shared.path().display().to_string()];
    })
    .await;
    for (id, path, at, why) in [
        ("closed", "/etc".into(), "in", "--host-path-volumes"),
        ("link", shared.path().join("etc"), "in", "leads out"),
        ("over", shared.path().to_owned(), "/proc/sys", "kernel"),
        ("root", shared.path().to_owned(), "/", "volume at"),
        ("none", shared.path().join("none"), "in", "No such file"),
        (
            "nowhere",
            shared.path().to_owned(),
            "/no/such",
            "No such file",
        ),
    ] {
        let volumes = vec![host(&path, at, Access::Ro)];
        c.master
            .launch(vec![contained(shell(id, "true"), with(volumes))])
            .await;
        let end = c.master.end(id).await;
        assert!(
            [TaskState::TaskFailed, TaskState::TaskError].contains(&end.state()),
            "{id}: {end:?}"
        );
        assert!(end.message().contains(why), "{id}: {end:?}");
    }
    c.master.launch(vec![shell("after", "true")]).await;
    assert_eq!(c.master.end("after").await.state(), TaskState::TaskFinished);
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_the_sandbox_is_found_at_another_place() {
    for mode in modes() {
        let mut c = Cluster::with(mode, |config| {
            if mode == Mode::Plain {
                config.isolation = "volume/sandbox_path".parse().unwrap();
            }
        })
        .await;
        let line = "echo a > data/x && cat other/x";
        let volumes = vec![sandbox("data", "other")];
        c.master
            .launch(vec![contained(shell("t", line), with(volumes))])
            .await;
        let end = c.master.end("t").await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{mode:?} {end:?}");
        assert_eq!(c.stdout("t"), "a\n");
        let outside = vec![sandbox("../x", "other")];
        c.master
            .launch(vec![contained(shell("out", "true"), with(outside))])
            .await;
        let end = c.master.end("out").await;
        assert_eq!(end.state(), TaskState::TaskError, "{end:?}");
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_the_sandbox_is_no_way_out_for_a_volume_cve_2021_30465() {
    if !root() {
        return;
    }
    let shared = tempfile::tempdir().unwrap();
    fs::write(shared.path().join("marker"), "").unwrap();
    let archive = shared.path().join("link.tar");
    let made = std::process::Command::new("tar")
        .args(["-C", &shared.path().display().to_string(), "-cf"])
        .arg(&archive)
        .arg("marker")
        .status()
        .unwrap();
    assert!(made.success());
    let mut c = Cluster::with(Mode::Isolated, |config| {
        config.isolators.host_path_volumes = vec![shared.path().display().to_string()];
    })
    .await;
    // The first task leaves a link in a folder that the second mounts, and swaps it all the time.
    let swap = "while :; do ln -sfn /etc deep/link; rm -f deep/link; mkdir -p deep/link; rmdir \
                deep/link; done";
    let writer = vec![host(shared.path(), "deep", Access::Rw)];
    c.master
        .launch(vec![contained(shell("swap", swap), with(writer.clone()))])
        .await;
    c.master.running("swap").await;
    for i in 0..20 {
        let mut volumes = writer.clone();
        volumes.push(host(shared.path(), "deep/link/x", Access::Ro));
        let id = format!("t{i}");
        c.master
            .launch(vec![contained(shell(&id, "true"), with(volumes))])
            .await;
        // It may fail or not; it must not reach `/etc`.
        c.master.end(&id).await;
        assert!(!Path::new("/etc/x").exists());
    }
    c.master.kill("swap", Some(std::time::Duration::ZERO)).await;
    c.master.end("swap").await;
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persistent_volume_is_mounted_so_that_it_cannot_be_changed() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let role = Role::parse("web").unwrap();
        let disk: Resources = "disk:64".parse().unwrap();
        let volume = disk.reserved(&role, None).as_volume("data", "data", None);
        let rest: Resources = "cpus:64; mem:16384; disk:960; ports:[31000-31999]"
            .parse()
            .unwrap();
        let total = resources_to_wire(&rest.plus(&volume), None);
        let apply = Told::ApplyResources(allot::ApplyResources { total });
        c.master.tell(apply).await;
        let task = |id: &str, line: &str, access: Access| {
            let mut info = shell(id, line);
            info.resources
                .extend(resources_to_wire(&volume, Some("web")));
            for resource in &mut info.resources {
                if let Some(volume) = resource.disk.as_mut().and_then(|d| d.volume.as_mut()) {
                    volume.mode = access.into();
                }
            }
            info
        };
        let writes = task("writes", "echo kept > data/file", Access::Rw);
        c.master.launch(vec![writes]).await;
        let end = c.master.end("writes").await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        let line = "cat data/file; echo more > data/file || echo refused";
        c.master.launch(vec![task("reads", line, Access::Ro)]).await;
        let end = c.master.end("reads").await;
        match mode {
            Mode::Isolated => assert_eq!(c.stdout("reads"), "kept\nrefused\n"),
            // Without mounts it could not be enforced, and is not left out.
            Mode::Plain => assert!(end.message().contains("volume/sandbox_path"), "{end:?}"),
        }
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_at_hostile_paths_are_refused_with_the_path() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        let volumes = [
            sandbox("kept", "../../../etc"),
            sandbox("../../..", "data"),
            sandbox("/etc", "data"),
            sandbox("kept", ""),
            sandbox("a\0b", "data"),
            host(Path::new("/../etc"), "data", Access::Ro),
            host(Path::new("etc"), "data", Access::Ro),
        ];
        let tasks = volumes.into_iter().enumerate();
        let tasks: Vec<_> = tasks
            .map(|(n, volume)| contained(shell(&format!("t{n}"), "true"), with(vec![volume])))
            .collect();
        let n_tasks = tasks.len();
        c.master.launch(tasks).await;
        for n in 0..n_tasks {
            let end = c.master.end(&format!("t{n}")).await;
            assert_eq!(end.state(), TaskState::TaskError, "{end:?}");
            assert!(end.message().contains("give "), "{end:?}");
        }
        c.agent.stop().await;
    }
}
