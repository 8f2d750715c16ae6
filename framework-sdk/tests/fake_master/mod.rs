//! A fake master: a real tonic server that says what the test tells it and keeps what it hears.
//!
//! It knows nothing of agents or offers; the real master's behaviour is tested with the real
//! master.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::pin::Pin;

use allotment_proto::allot::scheduler_server::{self, SchedulerServer};
use allotment_proto::{mesos, scheduler};
use futures_util::Stream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// One stream that a framework opened.
pub(crate) struct Stream1 {
    pub(crate) calls: Streaming<scheduler::Call>,
    pub(crate) events: mpsc::Sender<Result<scheduler::Event, Status>>,
}

impl Stream1 {
    /// The next call; panics when the stream ends.
    pub(crate) async fn hears(&mut self) -> scheduler::Call {
        self.calls.message().await.unwrap().expect("a call")
    }

    pub(crate) async fn says(&self, event: scheduler::Event) {
        self.events.send(Ok(event)).await.unwrap();
    }

    /// Hears SUBSCRIBE and answers with `id`.
    pub(crate) async fn subscribes(&mut self, id: &str) -> scheduler::Call {
        self.subscribes_with_heartbeat(id, 15.0).await
    }

    /// The same with a heartbeat interval in seconds.
    pub(crate) async fn subscribes_with_heartbeat(
        &mut self,
        id: &str,
        seconds: f64,
    ) -> scheduler::Call {
        let call = self.hears().await;
        assert_eq!(call.r#type(), scheduler::call::Type::Subscribe);
        let mut event = event(scheduler::event::Type::Subscribed);
        event.subscribed = Some(Box::new(scheduler::event::Subscribed {
            framework_id: mesos::FrameworkId {
                value: id.to_owned(),
            },
            heartbeat_interval_seconds: Some(seconds),
            master_info: None,
        }));
        self.says(event).await;
        call
    }
}

struct Service(mpsc::Sender<Stream1>);

#[tonic::async_trait]
impl scheduler_server::Scheduler for Service {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<scheduler::Event, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<scheduler::Call>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (events, out) = mpsc::channel(16);
        let calls = request.into_inner();
        self.0.send(Stream1 { calls, events }).await.unwrap();
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }
}

/// A fake master on a free port; dies with its runtime or when told.
pub(crate) struct FakeMaster {
    pub(crate) address: SocketAddr,
    streams: mpsc::Receiver<Stream1>,
    server: tokio::task::JoinHandle<()>,
}

impl FakeMaster {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (opened, streams) = mpsc::channel(16);
        let server = tonic::transport::Server::builder()
            .add_service(SchedulerServer::new(Service(opened)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        Self {
            address,
            streams,
            server: tokio::spawn(async { server.await.unwrap() }),
        }
    }

    pub(crate) async fn stream(&mut self) -> Stream1 {
        self.streams.recv().await.unwrap()
    }

    /// Whether another stream was opened.
    pub(crate) fn was_asked_again(&mut self) -> bool {
        self.streams.try_recv().is_ok()
    }

    /// Stops listening; streams that are open go on.
    pub(crate) fn stop_listening(&self) {
        self.server.abort();
    }
}

pub(crate) fn event(kind: scheduler::event::Type) -> scheduler::Event {
    let mut event = scheduler::Event::default();
    event.set_type(kind);
    event
}

/// TASK_RUNNING of `task`, to be acknowledged.
pub(crate) fn update(task: &str, number: u64) -> scheduler::Event {
    let mut uuid = vec![0; 16];
    uuid[..8].copy_from_slice(&number.to_be_bytes());
    let mut event = event(scheduler::event::Type::Update);
    event.update = Some(scheduler::event::Update {
        status: mesos::TaskStatus {
            task_id: mesos::TaskId {
                value: task.to_owned(),
            },
            state: mesos::TaskState::TaskRunning.into(),
            agent_id: Some(mesos::AgentId {
                value: "A1".to_owned(),
            }),
            uuid: Some(uuid.into()),
            ..Default::default()
        },
    });
    event
}
