//! Programs beside tasks, in real containers: what they see, and how they end whatever happens.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use allotment_proto::allot::containers_client::ContainersClient;
use allotment_proto::allot::exec_input::Input;
use allotment_proto::allot::exec_output::Output;
use allotment_proto::allot::{
    CloseStdin, EnvironmentVariable, ExecExited, ExecInput, ExecOutput, ExecStart, Heartbeat,
    WindowSize,
};
use allotment_proto::mesos::{self, TaskState};
use support::{Cluster, FRAMEWORK, Mode, contained, marked_processes, modes, root, shell, until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// One caller of Exec.
struct Caller {
    inputs: mpsc::Sender<ExecInput>,
    outputs: Streaming<ExecOutput>,
}

/// What a program wrote and how it ended.
#[derive(Debug, Default, PartialEq)]
struct Told {
    stdout: String,
    stderr: String,
    exited: ExecExited,
}

fn program(argv: &[&str]) -> ExecStart {
    ExecStart {
        framework_id: FRAMEWORK.to_owned(),
        task_id: "t".to_owned(),
        argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
        ..Default::default()
    }
}

fn line(text: &str) -> ExecStart {
    program(&["sh", "-c", text])
}

/// With `mark` in its environment and that of all that it begins.
fn marked(mark: &str, text: &str) -> ExecStart {
    ExecStart {
        environment: vec![EnvironmentVariable {
            name: "MARK".to_owned(),
            value: mark.to_owned(),
        }],
        ..line(text)
    }
}

fn code(code: i32) -> ExecExited {
    ExecExited {
        code: Some(code),
        signal: None,
    }
}

impl Caller {
    async fn start(cluster: &Cluster, start: ExecStart) -> Result<Self, Status> {
        let endpoint = tonic::transport::Endpoint::from_shared(cluster.agent.url().to_owned());
        let channel = endpoint.unwrap().connect().await.unwrap();
        let (inputs, stream) = mpsc::channel(64);
        let this = |input| ExecInput { input: Some(input) };
        inputs.send(this(Input::Start(start))).await.unwrap();
        let answer = ContainersClient::new(channel)
            .exec(ReceiverStream::new(stream))
            .await?;
        let mut caller = Self {
            inputs,
            outputs: answer.into_inner(),
        };
        match caller.next().await? {
            Some(Output::Started(_)) => Ok(caller),
            other => panic!("{other:?}"),
        }
    }

    async fn next(&mut self) -> Result<Option<Output>, Status> {
        let message = self.outputs.message().await?;
        Ok(message.map(|message| message.output.unwrap()))
    }

    async fn say(&self, input: Input) {
        let input = Some(input);
        self.inputs.send(ExecInput { input }).await.unwrap();
    }

    async fn types(&self, text: &str) {
        self.say(Input::Stdin(text.to_owned().into())).await;
    }

    /// Reads until the output holds this.
    async fn sees(&mut self, told: &mut Told, text: &str) {
        while !told.stdout.contains(text) {
            match self.next().await.unwrap() {
                Some(Output::Stdout(bytes)) => {
                    told.stdout.push_str(&String::from_utf8_lossy(&bytes));
                }
                other => panic!("{text:?} does not come: {told:?} and then {other:?}"),
            }
        }
    }

    async fn end(&mut self) -> Result<Told, Status> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            match self.next().await? {
                Some(Output::Stdout(bytes)) => out.extend(bytes),
                Some(Output::Stderr(bytes)) => err.extend(bytes),
                Some(Output::Exited(exited)) => {
                    assert_eq!(self.next().await?, None);
                    return Ok(Told {
                        stdout: String::from_utf8_lossy(&out).into_owned(),
                        stderr: String::from_utf8_lossy(&err).into_owned(),
                        exited,
                    });
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A running task `t` that prints a line first.
async fn running(mode: Mode, command: &str) -> Cluster {
    let mut cluster = Cluster::start(mode).await;
    cluster.master.launch(vec![shell("t", command)]).await;
    cluster.master.running("t").await;
    cluster
}

async fn run(cluster: &Cluster, start: ExecStart) -> Result<Told, Status> {
    Caller::start(cluster, start).await?.end().await
}

async fn refusal(cluster: &Cluster, start: ExecStart) -> (Code, String) {
    match Caller::start(cluster, start).await {
        Ok(_) => panic!("it started"),
        Err(status) => (status.code(), status.message().to_owned()),
    }
}

const FACTS: &str = "cd .; for n in pid mnt ipc uts net; do readlink /proc/self/ns/$n; done; \
    grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/self/status; \
    cat /proc/self/cgroup /proc/self/limits; pwd; umask; \
    env | grep -v -e ^_ -e ^SHLVL | sort; ls /proc/self/fd | wc -l";

#[tokio::test]
async fn a_program_beside_a_task_is_walled_in_as_the_task_is() {
    for mode in modes() {
        let mut cluster = Cluster::start(mode).await;
        let task = shell("t", &format!("{FACTS}; echo told; exec sleep 1000"));
        let limits = mesos::RLimitInfo {
            rlimits: vec![mesos::r_limit_info::RLimit {
                r#type: Some(mesos::r_limit_info::r_limit::Type::RlmtNofile.into()),
                hard: Some(321),
                soft: Some(123),
            }],
        };
        let container = mesos::ContainerInfo {
            rlimit_info: Some(limits),
            ..Default::default()
        };
        let task = match mode {
            Mode::Plain => task,
            Mode::Isolated => contained(task, container),
        };
        cluster.master.launch_as("nobody", vec![task]).await;
        cluster.master.running("t").await;
        let stdout = cluster.sandbox("t").join("stdout");
        let read = || std::fs::read_to_string(&stdout).unwrap_or_default();
        until("the task told its facts", || read().ends_with("told\n")).await;
        let told = run(&cluster, line(FACTS)).await.unwrap();
        assert_eq!(told.stderr, "");
        assert_eq!(told.exited, code(0));
        assert_eq!(format!("{}told\n", told.stdout), read(), "{mode:?}");
        cluster.agent.stop().await;
    }
}

#[tokio::test]
async fn what_is_typed_arrives_and_both_outputs_and_the_status_come_back() {
    for mode in modes() {
        let cluster = running(mode, "sleep 1000").await;
        let start = ExecStart {
            stdin: Some(true),
            environment: vec![EnvironmentVariable {
                name: "WHO".to_owned(),
                value: "me".to_owned(),
            }],
            ..line("echo $WHO >&2; cat; exit 7")
        };
        let mut caller = Caller::start(&cluster, start).await.unwrap();
        caller.types("one\n").await;
        let mut told = Told::default();
        while told.stdout != "one\n" {
            match caller.next().await.unwrap() {
                Some(Output::Stdout(bytes)) => {
                    told.stdout.push_str(&String::from_utf8_lossy(&bytes));
                }
                Some(Output::Stderr(bytes)) => assert_eq!(&bytes[..], b"me\n"),
                other => panic!("{other:?}"),
            }
        }
        caller.say(Input::CloseStdin(CloseStdin {})).await;
        assert_eq!(caller.end().await.unwrap().exited, code(7));
        let killed = run(&cluster, line("kill -9 $$")).await.unwrap();
        assert_eq!((killed.exited.code, killed.exited.signal), (None, Some(9)));
        cluster.agent.stop().await;
    }
}

#[tokio::test]
async fn a_terminal_has_a_size_that_changes_and_keys_that_interrupt() {
    for mode in modes() {
        let cluster = running(mode, "sleep 1000").await;
        let start = ExecStart {
            stdin: Some(true),
            terminal: Some(WindowSize {
                rows: 11,
                columns: 222,
            }),
            ..line(
                "test -t 0 && test -t 1 && test -t 2 && tty; stty size; \
                 trap 'stty size' WINCH; trap 'echo interrupted; exit 3' INT; \
                 echo ready; while :; do sleep 0.01; done",
            )
        };
        let mut caller = Caller::start(&cluster, start).await.unwrap();
        let mut told = Told::default();
        caller.sees(&mut told, "ready").await;
        assert!(told.stdout.contains("/dev/pts/"), "{told:?}");
        assert!(told.stdout.contains("11 222"), "{told:?}");
        for (rows, columns) in [(0, 0), (65_535, 65_535), (7, 9)] {
            caller
                .say(Input::Window(WindowSize { rows, columns }))
                .await;
            caller
                .sees(&mut told, &format!("\n{rows} {columns}\r\n"))
                .await;
        }
        caller.types("\x03").await;
        let end = caller.end().await.unwrap();
        assert!(end.stdout.contains("interrupted"), "{end:?}");
        assert_eq!(end.exited, code(3));
        cluster.agent.stop().await;
    }
}

#[tokio::test]
async fn a_window_that_no_terminal_has_ends_the_call() {
    let cluster = running(Mode::Plain, "sleep 1000").await;
    let start = ExecStart {
        terminal: Some(WindowSize::default()),
        ..line("sleep 1000")
    };
    let mut caller = Caller::start(&cluster, start).await.unwrap();
    let size = WindowSize {
        rows: 1,
        columns: 65_536,
    };
    caller.say(Input::Window(size)).await;
    let refused = caller.end().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    cluster.agent.stop().await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    for mode in modes() {
        let mut cluster = running(mode, "sleep 1000").await;
        let (code, why) = refusal(&cluster, program(&["/no/such/program"])).await;
        assert_eq!(code, Code::FailedPrecondition);
        assert!(why.contains("/no/such/program"), "{why}");
        let (code, why) = refusal(&cluster, program(&[])).await;
        assert_eq!(code, Code::InvalidArgument, "{why}");
        let (code, why) = refusal(&cluster, program(&["a\0b"])).await;
        assert_eq!(code, Code::FailedPrecondition);
        assert!(why.contains("NUL"), "{why}");
        let other = ExecStart {
            user: Some("nobody".to_owned()),
            ..line("id")
        };
        let (code, why) = refusal(&cluster, other).await;
        assert_eq!(code, Code::PermissionDenied);
        assert!(why.contains("nobody") && why.contains("root"), "{why}");
        let never = ExecStart {
            task_id: "never".to_owned(),
            ..line("id")
        };
        assert_eq!(refusal(&cluster, never).await.0, Code::NotFound);
        cluster.master.kill("t", None).await;
        assert_eq!(cluster.master.end("t").await.state(), TaskState::TaskKilled);
        assert_eq!(refusal(&cluster, line("id")).await.0, Code::NotFound);
        cluster.agent.stop().await;
    }
}

#[tokio::test]
async fn garbage_before_or_instead_of_a_start_is_refused() {
    let cluster = running(Mode::Plain, "sleep 1000").await;
    let endpoint = tonic::transport::Endpoint::from_shared(cluster.agent.url().to_owned());
    let channel = endpoint.unwrap().connect().await.unwrap();
    for input in [None, Some(Input::Heartbeat(Heartbeat {}))] {
        let inputs = tokio_stream::iter([ExecInput { input }]);
        let refused = ContainersClient::new(channel.clone()).exec(inputs).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    }
    let mut caller = Caller::start(&cluster, line("sleep 1000")).await.unwrap();
    caller.say(Input::Start(line("id"))).await;
    let refused = caller.end().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    cluster.agent.stop().await;
}

#[tokio::test]
async fn a_session_and_all_that_it_began_end_with_its_program_or_its_caller() {
    for mode in modes() {
        let cluster = running(mode, "sleep 1000").await;
        let daemons = "(setsid sh -c 'sleep 1000 & sleep 1000' >/dev/null 2>&1 &)";
        let mark = uuid::Uuid::new_v4().to_string();
        let start = marked(&mark, &format!("{daemons}; echo done"));
        let told = run(&cluster, start).await.unwrap();
        assert_eq!(told.stdout, "done\n");
        assert!(marked_processes(&mark).is_empty(), "{mode:?}");
        let start = marked(&mark, &format!("{daemons}; echo up; sleep 1000"));
        let mut caller = Caller::start(&cluster, start).await.unwrap();
        caller.sees(&mut Told::default(), "up").await;
        assert!(marked_processes(&mark).len() >= 3);
        drop(caller);
        until("nothing is left of it", || {
            marked_processes(&mark).is_empty()
        })
        .await;
        // The task goes on.
        assert_eq!(run(&cluster, line("true")).await.unwrap().exited, code(0));
        cluster.agent.stop().await;
    }
}

#[tokio::test]
async fn daemons_end_with_their_session_also_where_proc_is_the_machines() {
    if !root() {
        return;
    }
    let mut cluster = Cluster::with(Mode::Isolated, |config| {
        config.isolation = "namespaces/pid".parse().unwrap();
    })
    .await;
    cluster.master.launch(vec![shell("t", "sleep 1000")]).await;
    cluster.master.running("t").await;
    let mark = uuid::Uuid::new_v4().to_string();
    let start = marked(&mark, "(setsid sleep 1000 >/dev/null 2>&1 &); echo done");
    assert_eq!(run(&cluster, start).await.unwrap().stdout, "done\n");
    assert!(marked_processes(&mark).is_empty());
    cluster.agent.stop().await;
}

#[tokio::test]
async fn the_keepers_program_and_memory_are_out_of_reach_cve_2019_5736() {
    if !root() {
        return;
    }
    let cluster = running(Mode::Isolated, "sleep 1000").await;
    let look = "cat /proc/$PPID/comm; for f in exe mem fd/3; do head -c 1 /proc/$PPID/$f; done";
    let told = run(&cluster, line(look)).await.unwrap();
    assert_eq!(told.stdout, "allot-session\n", "{told:?}");
    let denied = told.stderr.matches("Permission denied").count();
    assert_eq!(denied, 3, "{told:?}");
    cluster.agent.stop().await;
}

#[tokio::test]
async fn a_caller_that_falls_silent_against_its_promise_is_given_up() {
    let cluster = running(Mode::Plain, "sleep 1000").await;
    let start = ExecStart {
        heartbeat_seconds: Some(0.1),
        ..line("sleep 1000")
    };
    let mut caller = Caller::start(&cluster, start).await.unwrap();
    let given_up = caller.end().await.unwrap_err();
    assert_eq!(given_up.code(), Code::Cancelled, "{given_up}");
    cluster.agent.stop().await;
}

#[tokio::test]
async fn sessions_end_with_their_task_whose_status_is_its_own() {
    for mode in modes() {
        let mut cluster = running(mode, "while ! test -e end; do sleep 0.01; done; exit 5").await;
        let mark = uuid::Uuid::new_v4().to_string();
        let start = marked(
            &mark,
            "echo up; trap '' TERM HUP; while :; do sleep 0.01; done",
        );
        let mut caller = Caller::start(&cluster, start).await.unwrap();
        caller.sees(&mut Told::default(), "up").await;
        std::fs::write(cluster.sandbox("t").join("end"), "").unwrap();
        let ended = cluster.master.end("t").await;
        assert_eq!(ended.exit.unwrap().code, Some(5));
        let told = caller.end().await.unwrap();
        assert_eq!(told.exited.signal, Some(9), "{mode:?}");
        until("nothing is left", || marked_processes(&mark).is_empty()).await;
        cluster.agent.stop().await;
    }
}

#[tokio::test]
async fn many_sessions_against_tasks_that_end_leave_nothing_behind() {
    for mode in modes() {
        let mut cluster = Cluster::start(mode).await;
        let mark = uuid::Uuid::new_v4().to_string();
        for round in 0..10 {
            let mut task = shell("t", &format!("exec sleep 0.0{}", round % 4));
            task.task_id.value = format!("t{round}");
            cluster.master.launch(vec![task]).await;
            cluster.master.running(&format!("t{round}")).await;
            let mut callers = Vec::new();
            for _ in 0..4 {
                let start = ExecStart {
                    task_id: format!("t{round}"),
                    ..marked(&mark, "echo hello; exec sleep 1000")
                };
                match Caller::start(&cluster, start).await {
                    Ok(caller) => callers.push(caller),
                    Err(status) => assert!(
                        matches!(status.code(), Code::NotFound | Code::FailedPrecondition),
                        "{status}"
                    ),
                }
            }
            for mut caller in callers {
                assert_eq!(caller.end().await.unwrap().exited.signal, Some(9));
            }
            let ended = cluster.master.end(&format!("t{round}")).await;
            assert_eq!(ended.state(), TaskState::TaskFinished);
        }
        // Which ends only when its launcher has, and that only when it keeps no session.
        cluster.agent.stop().await;
        assert!(marked_processes(&mark).is_empty());
    }
}

/// What a process has written so far, in bytes.
fn written(pid: i32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.map_or(0, |n| n.parse().unwrap())
}

#[tokio::test]
async fn a_gigabyte_for_a_reader_that_stops_stays_with_the_program() {
    let cluster = running(Mode::Plain, "sleep 1000").await;
    let mark = uuid::Uuid::new_v4().to_string();
    let start = marked(&mark, "exec head -c 1073741824 /dev/zero");
    let mut caller = Caller::start(&cluster, start).await.unwrap();
    let first = caller.next().await.unwrap();
    assert!(matches!(first, Some(Output::Stdout(_))), "{first:?}");
    let writes = marked_processes(&mark)[0];
    // Windows, queues and pipe are full, and the program waits.
    let mut before = 0;
    until("nothing moves any more", || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let now = written(writes);
        std::mem::replace(&mut before, now) == now
    })
    .await;
    assert!((1..32 << 20).contains(&before), "{before}");
    // Others are served meanwhile.
    assert_eq!(run(&cluster, line("true")).await.unwrap().exited, code(0));
    let mut taken = 0;
    while taken < 64 << 20 {
        match caller.next().await.unwrap() {
            Some(Output::Stdout(bytes)) => taken += bytes.len() as u64,
            other => panic!("{other:?}"),
        }
    }
    assert!(written(writes) >= taken);
    drop(caller);
    until("nothing is left", || marked_processes(&mark).is_empty()).await;
    cluster.agent.stop().await;
}

#[tokio::test]
async fn tasks_of_an_earlier_agent_can_be_entered_and_its_sessions_are_gone() {
    for mode in modes() {
        let mut cluster = Cluster::with(mode, |config| config.tasks_outlive_agent = true).await;
        cluster
            .master
            .launch(vec![shell("t", "echo $$; sleep 1000")])
            .await;
        cluster.master.running("t").await;
        let mark = uuid::Uuid::new_v4().to_string();
        let start = marked(&mark, "trap '' TERM; echo up; sleep 1000");
        let mut caller = Caller::start(&cluster, start).await.unwrap();
        caller.sees(&mut Told::default(), "up").await;
        cluster.agent.leave().await;
        until("its sessions are gone", || {
            marked_processes(&mark).is_empty()
        })
        .await;
        let mut config = support::config(
            mode,
            &cluster.master.url,
            cluster.folder.path().join("agent"),
        );
        config.tasks_outlive_agent = true;
        cluster.agent = allotment_agent::start(config).await.unwrap();
        cluster.master.registration().await;
        let told = run(
            &cluster,
            line("readlink /proc/self/ns/pid; echo $MESOS_TASK_ID"),
        )
        .await
        .unwrap();
        assert!(told.stdout.ends_with("\nt\n"), "{told:?}");
        let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
        let inside = told.stdout.starts_with(own.to_str().unwrap());
        assert_eq!(inside, mode == Mode::Plain || !root());
        cluster.master.kill("t", None).await;
        cluster.master.end("t").await;
        cluster.agent.stop().await;
    }
}
