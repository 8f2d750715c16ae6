//! Tasks that are started with a terminal: typed to, looked at and resized by whoever attaches,
//! while their output is kept as every task's.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/apart.rs"]
mod apart;
mod support;

use std::fs;

use allotment_proto::allot::containers_client::ContainersClient;
use allotment_proto::allot::exec_input::Input;
use allotment_proto::allot::exec_output::Output;
use allotment_proto::allot::{AttachStart, ExecInput, ExecOutput, WindowSize};
use allotment_proto::mesos::{self, TaskInfo, TaskState, tty_info};
use apart::Apart;
use support::{Cluster, FRAMEWORK, Mode, contained, modes, shell, until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// Somebody in front of a task's terminal.
struct Person {
    inputs: mpsc::Sender<ExecInput>,
    outputs: Streaming<ExecOutput>,
    seen: String,
}

fn to(task: &str) -> AttachStart {
    AttachStart {
        framework_id: FRAMEWORK.to_owned(),
        task_id: task.to_owned(),
        ..Default::default()
    }
}

impl Person {
    async fn says_first(agent: &str, first: Input) -> Result<Self, Status> {
        let endpoint = tonic::transport::Endpoint::from_shared(agent.to_owned());
        let channel = endpoint.unwrap().connect().await.unwrap();
        let (inputs, stream) = mpsc::channel(64);
        let input = Some(first);
        inputs.send(ExecInput { input }).await.unwrap();
        let answer = ContainersClient::new(channel)
            .attach(ReceiverStream::new(stream))
            .await?;
        let mut person = Self {
            inputs,
            outputs: answer.into_inner(),
            seen: String::new(),
        };
        match person.outputs.message().await? {
            Some(ExecOutput {
                output: Some(Output::Started(_)),
            }) => Ok(person),
            other => panic!("{other:?}"),
        }
    }

    async fn attaches(agent: &str, start: AttachStart) -> Result<Self, Status> {
        Self::says_first(agent, Input::Attach(start)).await
    }

    async fn types(&self, text: &str) {
        let input = Some(Input::Stdin(text.to_owned().into()));
        self.inputs.send(ExecInput { input }).await.unwrap();
    }

    /// What comes next; `None` once the task has ended.
    async fn looks(&mut self) -> Option<()> {
        let message = self.outputs.message().await.unwrap()?;
        match message.output.unwrap() {
            Output::Stdout(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?}"),
        }
        Some(())
    }

    async fn sees(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let more = self.looks().await;
            assert!(more.is_some(), "{text:?} never comes: {:?}", self.seen);
        }
    }

    async fn sees_the_end(mut self) -> String {
        while self.looks().await.is_some() {}
        self.seen
    }
}

/// A task with a terminal of 21 lines of 42 characters.
fn at_terminal(id: &str, line: &str) -> TaskInfo {
    let container = mesos::ContainerInfo {
        tty_info: Some(mesos::TtyInfo {
            window_size: Some(tty_info::WindowSize {
                rows: 21,
                columns: 42,
            }),
        }),
        ..Default::default()
    };
    contained(shell(id, line), container)
}

/// Says how large its window is when it starts and when it is told a line; ends by Ctrl-C.
const TALKS: &str = "tty; stty size; read line; echo \"told $line\"; stty size; \
                     trap 'echo interrupted; exit 4' INT; echo ready; \
                     while :; do sleep 0.01; done";

#[tokio::test(flavor = "multi_thread")]
async fn a_task_at_a_terminal_is_typed_to_resized_and_interrupted_and_many_may_watch() {
    for mode in modes() {
        let mut c = Cluster::start(mode).await;
        c.master.launch(vec![at_terminal("t", TALKS)]).await;
        c.master.running("t").await;
        let stdout = c.sandbox("t").join("stdout");
        let said = || fs::read_to_string(&stdout).unwrap_or_default();
        until("it has said its first", || said().contains("21 42\r\n")).await;
        assert!(said().starts_with("/dev/pts/"), "{}", said());
        let larger = AttachStart {
            terminal: Some(WindowSize {
                rows: 50,
                columns: 100,
            }),
            ..to("t")
        };
        let mut person = Person::attaches(c.agent.url(), larger).await.unwrap();
        let mut other = Person::attaches(c.agent.url(), to("t")).await.unwrap();
        person.types("a line\n").await;
        person.sees("told a line\r\n50 100\r\nready").await;
        other.sees("told a line\r\n50 100\r\nready").await;
        person.types("\x03").await;
        for seen in [person.sees_the_end().await, other.sees_the_end().await] {
            // What was said before anybody came stays in the log.
            assert!(!seen.contains("21 42"), "{seen}");
            assert!(seen.ends_with("interrupted\r\n"), "{seen}");
        }
        let end = c.master.end("t").await;
        assert_eq!(end.exit.as_ref().unwrap().code, Some(4), "{end:?}");
        assert!(said().ends_with("interrupted\r\n"), "{}", said());
        assert_eq!(fs::read(c.sandbox("t").join("stderr")).unwrap(), b"");
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_leaves_the_task_alone_and_who_cannot_attach_hears_why() {
    let mut c = Cluster::start(Mode::Plain).await;
    let tasks = vec![at_terminal("t", TALKS), shell("plain", "sleep 1000")];
    c.master.launch(tasks).await;
    for task in ["t", "plain"] {
        c.master.running(task).await;
    }
    drop(Person::attaches(c.agent.url(), to("t")).await.unwrap());
    let mut again = Person::attaches(c.agent.url(), to("t")).await.unwrap();
    again.types("still there\n").await;
    again.sees("told still there").await;
    let refused = async |first| match Person::says_first(c.agent.url(), first).await {
        Err(status) => (status.code(), status.message().to_owned()),
        Ok(_) => panic!("it attached"),
    };
    let (code, why) = refused(Input::Attach(to("plain"))).await;
    assert!(
        code == Code::FailedPrecondition && why.contains("tty_info") && why.contains("exec -it"),
        "{code:?} {why}"
    );
    let (code, _) = refused(Input::Attach(to("nobody"))).await;
    assert_eq!(code, Code::NotFound);
    let huge = WindowSize {
        rows: 1 << 20,
        columns: 1,
    };
    for first in [
        Input::Stdin("ls\n".into()),
        Input::Attach(AttachStart {
            terminal: Some(huge),
            ..to("t")
        }),
        Input::Attach(AttachStart {
            heartbeat_seconds: Some(f64::NAN),
            ..to("t")
        }),
    ] {
        let (code, why) = refused(first).await;
        assert_eq!(code, Code::InvalidArgument, "{why}");
    }
    again.types("\x03").await;
    assert!(again.sees_the_end().await.contains("interrupted"));
    c.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_to_a_terminal_is_bounded_as_all_output() {
    for mode in modes() {
        let mut c = Cluster::with(mode, |config| {
            config.log_size_max = Some(4096);
            config.log_files_max = 1;
        })
        .await;
        // Closing all of it cuts nothing off: the terminal is still there.
        let line = "seq 5000; exec 3>&- 0<&- 1>&- 2>&-; echo again > /dev/tty";
        c.master.launch(vec![at_terminal("t", line)]).await;
        let end = c.master.end("t").await;
        assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
        let sandbox = c.sandbox("t");
        let read = |name: &str| fs::read_to_string(sandbox.join(name)).unwrap();
        let kept = read("stdout.1") + &read("stdout");
        assert!(kept.len() <= 8192 && kept.len() > 4096, "{}", kept.len());
        assert!(kept.ends_with("4999\r\n5000\r\nagain\r\n"), "{kept}");
        c.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_keeps_its_terminal_without_an_agent_and_the_next_one_finds_it() {
    for mode in modes() {
        let mut a = Apart::start(mode).await;
        a.master.launch(vec![at_terminal("t", TALKS)]).await;
        a.master.running("t").await;
        a.dies();
        let back = a.returns().await;
        let mut person = Person::attaches(&back.url, to("t")).await.unwrap();
        person.types("after all\n").await;
        person.sees("told after all").await;
        person.sees("ready").await;
        person.types("\x03").await;
        assert!(person.sees_the_end().await.contains("interrupted"));
        let end = a.master.end("t").await;
        assert_eq!(end.exit.as_ref().unwrap().code, Some(4), "{end:?}");
    }
}
