//! What walls hold and what is left when everything is over. Most of it needs root; without it
//! those tests have nothing to check. One of them runs others again as `nobody`.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use allotment_agent::Isolation;
use allotment_proto::convert::resources_to_wire;
use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::Reason;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{
    Cluster, Master, Mode, cgroups_of, config, launcher, marked_processes, program, root, shell,
    until,
};

/// Fills as many MiB of memory as it is told.
fn fill(mib: u32) -> String {
    format!("dd if=/dev/zero of=/dev/null bs={mib}M count=1 status=none")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_exceeds_its_memory_fails_with_limit_and_use() {
    if !root() {
        return;
    }
    let mut c = Cluster::start(Mode::Isolated).await;
    // The others survive the death of their child, and one even hides it; it dies before the limit
    // is watched, or after.
    c.master
        .launch(vec![
            program("main", &["sh", "-c", &format!("exec {}", "tail /dev/zero")]),
            shell("child", &format!("({}); sleep 0.2; exit 0", fill(200))),
            shell("stays", &format!("({}); sleep 1000", fill(200))),
            shell("late", &format!("sleep 1; ({}); sleep 1000", fill(200))),
            shell("modest", &fill(8)),
        ])
        .await;
    for task in ["main", "child", "stays", "late"] {
        let end = c.master.end(task).await;
        assert_eq!(end.state(), TaskState::TaskFailed, "{end:?}");
        assert_eq!(end.reason(), Reason::ContainerLimitationMemory, "{end:?}");
        let message = end.message();
        assert!(message.contains("asked 64.0 MiB"), "{message}");
        assert!(message.contains("used up to 6"), "{message}");
    }
    assert_eq!(
        c.master.end("modest").await.state(),
        TaskState::TaskFinished
    );
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_stays_inside_its_task() {
    if !root() {
        return;
    }
    let mut c = Cluster::with(Mode::Isolated, |config| config.pids_max = 20).await;
    let mark = format!("MARK_BOMB_{}", std::process::id());
    let bomb = format!("export {mark}=1; bomb() {{ bomb | bomb & wait; }}; bomb & exec sleep 1000");
    c.master.launch(vec![shell("bomb", &bomb)]).await;
    c.master.running("bomb").await;
    let stderr = c.sandbox("bomb").join("stderr");
    until("the bomb met its limit", || {
        fs::read_to_string(&stderr).is_ok_and(|text| text.contains("fork"))
    })
    .await;
    assert!(marked_processes(&mark).len() <= 20);
    // Another task works beside it.
    c.master.launch(vec![program("beside", &["true"])]).await;
    assert_eq!(
        c.master.end("beside").await.state(),
        TaskState::TaskFinished
    );
    c.master.kill("bomb", Some(Duration::ZERO)).await;
    assert_eq!(c.master.end("bomb").await.state(), TaskState::TaskKilled);
    assert!(marked_processes(&mark).is_empty());
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_before_the_program_runs_and_groups_are_gone_after() {
    if !root() {
        return;
    }
    let mut c = Cluster::start(Mode::Isolated).await;
    c.master
        .launch(vec![shell("t", "cat /proc/self/cgroup; sleep 1000")])
        .await;
    let running = c.master.running("t").await;
    let container = running
        .container_status
        .unwrap()
        .container_id
        .unwrap()
        .value;
    let groups = cgroups_of(&c.work_dir());
    assert!(!groups.is_empty());
    let value = |file: &str| {
        groups
            .iter()
            .find_map(|group| fs::read_to_string(group.join(&container).join(file)).ok())
            .map(|text| text.trim().to_owned())
    };
    let bytes = (64_u64 << 20).to_string();
    let memory = value("memory.limit_in_bytes").or_else(|| value("memory.max"));
    assert_eq!(memory, Some(bytes));
    assert_eq!(value("pids.max").as_deref(), Some("4096"));
    let cpu = value("cpu.shares").or_else(|| value("cpu.weight"));
    assert!(matches!(cpu.as_deref(), Some("102" | "4")), "{cpu:?}");
    let stdout = c.sandbox("t").join("stdout");
    until("the task told its groups", || {
        fs::read_to_string(&stdout).is_ok_and(|text| text.contains(&format!("/{container}")))
    })
    .await;
    c.master.kill("t", Some(Duration::ZERO)).await;
    c.master.end("t").await;
    assert!(groups.iter().all(|group| !group.join(&container).exists()));
    let work_dir = c.work_dir();
    c.agent.stop().await;
    assert_eq!(cgroups_of(&work_dir), Vec::<PathBuf>::new());
}

/// The value of a control file of the task that runs.
async fn control(c: &mut Cluster, task: &str, files: &[&str]) -> Option<String> {
    let running = c.master.running(task).await;
    let status = running.container_status.expect("a container");
    let container = status.container_id.expect("its id").value;
    let groups = cgroups_of(&c.work_dir());
    let mut texts = groups.iter().flat_map(|group| {
        let group = group.join(&container);
        files
            .iter()
            .filter_map(move |file| fs::read_to_string(group.join(file)).ok())
    });
    texts.next().map(|text| text.trim().to_owned())
}

fn limited(
    mut info: allotment_proto::mesos::TaskInfo,
    name: &str,
    limit: f64,
) -> allotment_proto::mesos::TaskInfo {
    let limit = allotment_proto::mesos::value::Scalar { value: limit };
    info.limits.insert(name.to_owned(), limit);
    info
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_above_the_request_are_given_to_who_names_them() {
    if !root() {
        return;
    }
    let mut c = Cluster::start(Mode::Isolated).await;
    let tasks = vec![
        limited(shell("more", &fill(70)), "mem", 400.0),
        limited(shell("all", &fill(70)), "mem", f64::INFINITY),
        limited(shell("low", "true"), "mem", 1.0),
        limited(shell("what", "true"), "gpus", 1.0),
        limited(program("cpu", &["sleep", "1000"]), "cpus", 0.5),
    ];
    c.master.launch(tasks).await;
    let quota = control(&mut c, "cpu", &["cpu.cfs_quota_us", "cpu.max"]).await;
    assert!(
        matches!(quota.as_deref(), Some("50000" | "50000 100000")),
        "{quota:?}"
    );
    for task in ["more", "all"] {
        let end = c.master.end(task).await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    }
    for (task, why) in [
        ("low", "never below the request"),
        ("what", "limit of gpus"),
    ] {
        let end = c.master.end(task).await;
        assert_eq!(end.reason(), Reason::TaskInvalid, "{end:?}");
        assert!(end.message().contains(why), "{end:?}");
    }
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_general_ceiling_of_cpus_and_whole_cores_come_on_request() {
    if !root() {
        return;
    }
    let mut c = Cluster::with(Mode::Isolated, |config| {
        config.isolation = "cgroups,namespaces,cgroups/cpuset".parse().unwrap();
        config.isolators.cgroups_enable_cfs = true;
    })
    .await;
    let mut whole = program("whole", &["sleep", "1000"]);
    let one = "cpus:1; mem:64".parse().unwrap();
    whole.resources = allotment_proto::convert::resources_to_wire(&one, Some("web"));
    c.master
        .launch(vec![program("part", &["sleep", "1000"])])
        .await;
    let quota = control(&mut c, "part", &["cpu.cfs_quota_us", "cpu.max"]).await;
    assert!(
        matches!(quota.as_deref(), Some("10000" | "10000 100000")),
        "{quota:?}"
    );
    let mut again = whole.clone();
    again.task_id = support::task_id("again");
    c.master.launch(vec![whole]).await;
    let n_cores = std::thread::available_parallelism().unwrap().get();
    if n_cores == 1 {
        // The only core is shared already.
        let end = c.master.end("whole").await;
        assert!(end.message().contains("whole cores"), "{end:?}");
        c.agent.stop().await;
        return;
    }
    let cores = control(&mut c, "whole", &["cpuset.cpus"]).await.unwrap();
    assert_eq!(cores, (n_cores - 1).to_string());
    if n_cores == 2 {
        c.master.launch(vec![again]).await;
        let end = c.master.end("again").await;
        assert_eq!(end.reason(), Reason::ContainerLaunchFailed, "{end:?}");
        assert!(end.message().contains("whole cores"), "{end:?}");
    }
    c.agent.stop().await;
}

/// Whether groups of this machine's v1 hierarchy have a weight; `None` without that hierarchy.
fn weighs_in_v1() -> Option<bool> {
    let trial = PathBuf::from(format!(
        "/sys/fs/cgroup/blkio/allotment-trial-{}",
        std::process::id()
    ));
    fs::create_dir(&trial).ok()?;
    let weighs = trial.join("blkio.bfq.weight").exists();
    fs::remove_dir(&trial).expect("an empty group");
    Some(weighs)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_weighs_on_disks_by_its_cpus_where_the_kernel_weighs_and_else_the_agent_says_so() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut trial = config(Mode::Plain, "http://127.0.0.1:1", folder.path().join("a"));
    trial.isolation = "cgroups/blkio".parse().unwrap();
    match allotment_agent::start(trial).await {
        Ok(agent) => agent.stop().await,
        Err(error) => {
            let why = error.to_string();
            assert!(
                why.contains("cgroups/blkio") && why.contains("weight"),
                "{why}"
            );
            return assert_ne!(weighs_in_v1(), Some(true), "{why}");
        }
    }
    assert_ne!(weighs_in_v1(), Some(false));
    let mut c = Cluster::with(Mode::Isolated, |config| {
        config.isolation = "auto,cgroups/blkio".parse().unwrap();
    })
    .await;
    for (task, cpus, weight) in [
        ("half", "cpus:0.5; mem:64", 50),
        ("two", "cpus:2; mem:64", 200),
    ] {
        let mut info = shell(task, "sleep 1000");
        info.resources = resources_to_wire(&cpus.parse().unwrap(), Some("web"));
        c.master.launch(vec![info]).await;
        let found = control(&mut c, task, &["blkio.bfq.weight", "io.weight"]).await;
        let found = found.expect("a weight");
        assert_eq!(
            found.rsplit(' ').next(),
            Some(weight.to_string().as_str()),
            "{found}"
        );
    }
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_pid_namespace_a_fork_bomb_is_frozen_and_killed() {
    if !root() {
        return;
    }
    let mut c = Cluster::with(Mode::Isolated, |config| {
        config.isolation = "cgroups,cgroups/freezer".parse().unwrap();
        config.pids_max = 50;
    })
    .await;
    let mark = format!("MARK_FROZEN_{}", std::process::id());
    // It forks until it may not any more, and none of what it forked listens.
    let bomb = format!(
        "{mark}=1 exec sh -c 'trap \"\" TERM; (while :; do setsid sleep 1000 & done) & exec sleep 1000'"
    );
    c.master.launch(vec![shell("bomb", &bomb)]).await;
    c.master.running("bomb").await;
    until("the bomb grows", || marked_processes(&mark).len() > 10).await;
    c.master.kill("bomb", Some(Duration::ZERO)).await;
    assert_eq!(c.master.end("bomb").await.state(), TaskState::TaskKilled);
    until("nothing of it is left", || {
        marked_processes(&mark).is_empty()
    })
    .await;
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_may_have_a_tmp_of_its_own() {
    if !root() {
        return;
    }
    let mut c = Cluster::with(Mode::Isolated, |config| config.isolators.own_tmp = true).await;
    let secret = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    let line = format!(
        "ls {} 2>/dev/null && echo seen; touch /tmp/mine && pwd && echo $MESOS_SANDBOX && ls stdout",
        secret.path().display()
    );
    c.master.launch(vec![shell("t", &line)]).await;
    let end = c.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    let sandbox = c.sandbox("t").canonicalize().unwrap();
    let sandbox = sandbox.display();
    assert_eq!(c.stdout("t"), format!("{sandbox}\n{sandbox}\nstdout\n"));
    assert!(!Path::new("/tmp/mine").exists());
    assert!(c.sandbox("t").join(".tmp/mine").exists());
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contained_task_sees_its_own_processes_only() {
    if !root() {
        return;
    }
    let mut c = Cluster::start(Mode::Isolated).await;
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = "ls -d /proc/[0-9]* | wc -l; cat /proc/1/comm; kill -9 1; mount -t tmpfs x /mnt || \
                echo refused";
    c.master.launch(vec![shell("t", line)]).await;
    let end = c.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    let out = c.stdout("t");
    let lines: Vec<&str> = out.lines().collect();
    // The init, the shell, ls and wc.
    assert!(lines[0].parse::<u32>().unwrap() <= 4, "{out}");
    assert_eq!(lines[1], "allot-init");
    assert_eq!(lines[2], "refused");
    assert_eq!(fs::read_to_string("/proc/self/mounts").unwrap(), mounts);
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_as_the_user_it_names() {
    if !root() {
        return;
    }
    let mut c = Cluster::start(Mode::Isolated).await;
    let open = c.folder.path();
    fs::set_permissions(open, fs::Permissions::from_mode(0o755)).unwrap();
    let mut other = program("other", &["true"]);
    other.command.as_mut().unwrap().user = Some("no-such-user".to_owned());
    c.master
        .launch_as(
            "nobody",
            vec![shell("t", "id -un; echo $USER; touch mine"), other],
        )
        .await;
    let end = c.master.end("t").await;
    assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    assert_eq!(c.stdout("t"), "nobody\nnobody\n");
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    for file in ["mine", "stdout", "."] {
        let owner = fs::metadata(c.sandbox("t").join(file)).unwrap().uid();
        assert_eq!(owner, nobody.uid.as_raw(), "{file}");
    }
    let end = c.master.end("other").await;
    assert_eq!(end.reason(), Reason::ContainerLaunchFailed);
    assert!(end.message().contains("\"no-such-user\""), "{end:?}");
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_the_user_may_not_read_are_not_fetched_for_it() {
    if !root() {
        return;
    }
    let mut c = Cluster::start(Mode::Isolated).await;
    fs::set_permissions(c.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let [secret, open] = ["secret", "open"].map(|name| {
        let path = c.folder.path().join(name);
        fs::write(&path, name).unwrap();
        path
    });
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let fetching = |id: &str, path: &Path| {
        let mut info = shell(id, "cat open secret");
        info.command.as_mut().unwrap().uris = vec![allotment_proto::mesos::command_info::Uri {
            value: format!("file://{}", path.display()),
            ..Default::default()
        }];
        info
    };
    let tasks = vec![fetching("secret", &secret), fetching("open", &open)];
    c.master.launch_as("nobody", tasks).await;
    let end = c.master.end("secret").await;
    assert_eq!(end.state(), TaskState::TaskFailed);
    assert!(end.message().contains("Permission denied"), "{end:?}");
    c.master.running("open").await;
    c.master.end("open").await;
    assert_eq!(c.stdout("open"), "open");
    c.agent.stop().await;
}

/// A file system of its own, gone with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(options: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (kind, flags) = (Some("tmpfs"), nix::mount::MsFlags::empty());
        nix::mount::mount(kind, folder.path(), kind, flags, Some(options)).expect("a mount");
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_as_the_reason() {
    if !root() {
        return;
    }
    let disk = SmallDisk::mount("size=1m,nr_inodes=40");
    let work_dir = disk.0.path().join("agent");
    let mut c = Cluster::with(Mode::Isolated, |config| config.work_dir = work_dir.clone()).await;
    until("the agent wrote its id", || {
        work_dir.join("meta/agent.json").exists()
    })
    .await;
    // The disk fills up while the task runs.
    c.master
        .launch(vec![shell(
            "fills",
            "head -c 2m /dev/zero > big && echo fits",
        )])
        .await;
    let end = c.master.end("fills").await;
    assert_eq!(end.state(), TaskState::TaskFailed, "{end:?}");
    let message = end.message();
    assert!(message.contains("disk of its sandbox is full"), "{message}");
    // There is space, but no room for another file.
    fs::remove_file(c.sandbox("fills").join("big")).unwrap();
    let mut n = 0;
    while fs::write(disk.0.path().join(format!("f{n}")), "").is_ok() {
        n += 1;
    }
    c.master.launch(vec![program("none", &["true"])]).await;
    let end = c.master.end("none").await;
    assert_eq!(end.reason(), Reason::ContainerLaunchFailed, "{end:?}");
    let message = end.message();
    assert!(
        message.contains("sandbox") && message.contains("No space left"),
        "{message}"
    );
    for i in 0..n {
        fs::remove_file(disk.0.path().join(format!("f{i}"))).unwrap();
    }
    c.master.launch(vec![program("after", &["true"])]).await;
    let end = c.master.end("after").await;
    assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolation_that_cannot_be_had_is_refused_with_the_reason() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = config(Mode::Plain, "http://127.0.0.1:1", folder.path().join("a"));
    wrong.launcher.program = PathBuf::from("/no/such/launcher");
    let error = allotment_agent::start(wrong).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/launcher"), "{error}");
}

/// No test by itself: the process that `an_agent_that_is_killed_leaves_nothing` kills.
#[tokio::test(flavor = "multi_thread")]
async fn agent_for_another_test() {
    let Ok(wish) = std::env::var("ALLOT_TEST_AGENT") else {
        return;
    };
    let (master, work_dir) = wish.split_once(' ').unwrap();
    let mode = if nix::unistd::geteuid().is_root() {
        Mode::Isolated
    } else {
        Mode::Plain
    };
    let mut config = config(mode, master, PathBuf::from(work_dir));
    if std::env::var_os("ALLOT_TEST_PLAIN").is_some() {
        config.isolation = Isolation::None;
    }
    let mut agent = allotment_agent::start(config).await.unwrap();
    agent.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_leaves_nothing_and_comes_back_as_itself() {
    for plain in [true, false] {
        if !plain && !root() {
            continue;
        }
        let mut master = Master::start().await;
        let folder = tempfile::tempdir().unwrap();
        let work_dir = folder.path().join("agent");
        let wish = format!("{} {}", master.url, work_dir.display());
        let spawn = || {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .args(["--exact", "agent_for_another_test"])
                .env("ALLOT_TEST_AGENT", &wish)
                .stdout(Stdio::null());
            if plain {
                command.env("ALLOT_TEST_PLAIN", "1");
            }
            command.spawn().unwrap()
        };
        let mut agent = spawn();
        let first = master.registration().await;
        assert_eq!(first.agent.id, None);
        let mark = format!("MARK_KILLED_{plain}_{}", std::process::id());
        let line = format!("export {mark}=1; setsid sleep 1000 & sleep 1000");
        let tasks = (0..5).map(|i| shell(&format!("t{i}"), &line)).collect();
        master.launch(tasks).await;
        for i in 0..5 {
            master.running(&format!("t{i}")).await;
        }
        until("all tasks are up", || marked_processes(&mark).len() >= 10).await;
        agent.kill().unwrap();
        agent.wait().unwrap();
        until("no process is left", || marked_processes(&mark).is_empty()).await;
        until("no cgroup is left", || cgroups_of(&work_dir).is_empty()).await;
        let mut again = spawn();
        let second = master.registration().await;
        assert_eq!(second.agent.id.unwrap().value, support::AGENT);
        // Tasks end with this agent, and the next one says so.
        assert_eq!(second.tasks.len(), 5);
        for i in 0..5 {
            let end = master.end(&format!("t{i}")).await;
            assert_eq!(end.reason(), Reason::AgentRestarted, "{end:?}");
        }
        again.kill().unwrap();
        again.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_whose_launcher_dies_are_reported_and_new_ones_start() {
    for mode in support::modes() {
        let mut c = Cluster::start(mode).await;
        let mark = format!("MARK_LOST_{mode:?}_{}", std::process::id());
        let line = format!("export {mark}=1; setsid sleep 1000 & sleep 1000");
        c.master.launch(vec![shell("t", &line)]).await;
        let running = c.master.running("t").await;
        until("the task is up", || marked_processes(&mark).len() >= 2).await;
        let init = running.container_status.unwrap().executor_pid.unwrap();
        let stat = fs::read_to_string(format!("/proc/{init}/stat")).unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let launcher: i32 = rest.split_whitespace().nth(1).unwrap().parse().unwrap();
        kill(Pid::from_raw(launcher), Signal::SIGKILL).unwrap();
        let end = c.master.end("t").await;
        assert_eq!(end.state(), TaskState::TaskLost, "{end:?}");
        assert!(end.message().contains("launcher"), "{end:?}");
        until("no process is left", || marked_processes(&mark).is_empty()).await;
        loop {
            let id = format!("next{launcher}");
            c.master.launch(vec![program(&id, &["true"])]).await;
            if c.master.end(&id).await.state() == TaskState::TaskFinished {
                break;
            }
        }
        c.agent.stop().await;
        assert!(cgroups_of(&c.folder.path().join("agent")).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_processes_of_an_earlier_run_are_removed_at_the_start() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let work_dir = folder.path().join("agent");
    fs::create_dir(&work_dir).unwrap();
    let short = allotment_agent::cgroup_name(&work_dir);
    let mounted = PathBuf::from("/sys/fs/cgroup");
    let hierarchies: Vec<PathBuf> = ["pids", "memory"]
        .map(|name| mounted.join(name))
        .into_iter()
        .filter(|path| path.join("tasks").exists())
        .chain(
            mounted
                .join("cgroup.controllers")
                .exists()
                .then_some(mounted.clone()),
        )
        .collect();
    let mut left = Command::new("sleep").arg("1000").spawn().unwrap();
    for hierarchy in &hierarchies {
        let group = hierarchy.join("allotment").join(&short).join("left");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("cgroup.procs"), left.id().to_string()).unwrap();
    }
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    let reaper = std::thread::spawn(move || left.wait().unwrap());
    let c = Cluster::with(Mode::Isolated, |config| config.work_dir = work_dir.clone()).await;
    if !hierarchies.is_empty() {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(reaper.join().unwrap().signal(), Some(9));
    }
    assert!(
        cgroups_of(&work_dir)
            .iter()
            .all(|group| !group.join("left").exists())
    );
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    c.agent.stop().await;
}

#[test]
fn plain_processes_work_for_a_user_without_rights() {
    if !root() {
        return;
    }
    // The tests of `containers`, as nobody: copies, as nobody may not enter this folder.
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let tests = std::env::current_exe().unwrap();
    let copy = |from: &Path, name: &str| {
        let to = folder.path().join(name);
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
        to
    };
    let tests = copy(&tests, "tests");
    let launcher = copy(&launcher().program, "launcher");
    let status = Command::new("setpriv")
        .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
        .arg(&tests)
        .args([
            "--exact",
            "an_agent_that_is_killed_leaves_nothing_and_comes_back_as_itself",
        ])
        .args(["tasks_whose_launcher_dies_are_reported_and_new_ones_start"])
        .args(["without_rights_the_agent_says_so_and_runs_what_it_can"])
        .env("ALLOT_TEST_LAUNCHER", &launcher)
        .env("TMPDIR", folder.path())
        .current_dir(folder.path())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rights_the_agent_says_so_and_runs_what_it_can() {
    let mut c = Cluster::with(Mode::Plain, |config| config.isolation = Isolation::Auto).await;
    let attributes = c.registered.agent.attributes.clone();
    let isolation = attributes.iter().find(|a| a.name == "isolation").unwrap();
    let text = &isolation.text.as_ref().unwrap().value;
    let expected = if nix::unistd::geteuid().is_root() {
        "cgroups,namespaces,linux,posix/rlimits,volume,disk/du"
    } else {
        "linux/nnp,linux/seccomp,posix/rlimits,volume/sandbox_path,disk/du"
    };
    assert_eq!(text, expected);
    let daemon = "setsid sh -c 'trap \"\" TERM; sleep 1000 & sleep 1000' & sleep 1000";
    c.master
        .launch(vec![shell("t", "id -un; exit 3"), shell("daemon", daemon)])
        .await;
    let end = c.master.end("t").await;
    assert_eq!(end.message(), "Command exited with status 3");
    c.master.running("daemon").await;
    c.master
        .kill("daemon", Some(Duration::from_millis(50)))
        .await;
    assert_eq!(c.master.end("daemon").await.state(), TaskState::TaskKilled);
    c.agent.stop().await;
}
