//! gRPC and HTTP: requests to the loop and answers back.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use allotment_framework_sdk::cluster::Cluster;
use allotment_framework_sdk::sandbox::{self, SandboxError, Window};
use allotment_proto::allot;
use allotment_proto::allot::batch_server::{Batch, BatchServer};
use allotment_types::{FrameworkId, TaskId};
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::waiters::Found;
use super::{Request as LoopRequest, Wish};
use crate::core::job::JobKey;
use crate::core::{Action, Answer, Core, Refusal, view};
use crate::edge::spool::Spool;
use crate::metrics::Metrics;
use crate::store::{Past, Reader, StoreError};

/// The most jobs of one answer.
const PAGE_MAX: usize = 2000;
/// How many turns' ends a slow waiter may lag behind.
const WAIT_LAG_MAX: usize = 1024;
/// How much of a file is read at a time.
const PIECE: usize = 64 * 1024;

/// The service.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) requests: mpsc::Sender<LoopRequest>,
    pub(crate) reader: Reader,
    pub(crate) framework: Arc<Mutex<Option<FrameworkId>>>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) spool: Arc<Spool>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) default_memory_mib: u64,
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn stopping() -> Status {
    Status::unavailable("the batch framework is stopping; try again when it is back")
}

fn broken(error: &StoreError) -> Status {
    Status::internal(error.to_string())
}

fn gone(key: JobKey) -> Status {
    Status::not_found(format!(
        "there is no job {key}, neither in the queue nor in the history; see `allot job list` \
         and `allot job history`"
    ))
}

impl Server {
    /// All that is served on the one port.
    pub(crate) fn router(self) -> axum::Router {
        let service = BatchServer::new(self.clone())
            .max_decoding_message_size(allotment_proto::MESSAGE_LEN_MAX)
            .max_encoding_message_size(allotment_proto::MESSAGE_LEN_MAX);
        let http = axum::Router::new()
            .route("/metrics", axum::routing::get(metrics))
            .route("/spool/{token}/{at}", axum::routing::get(spooled))
            .with_state(self);
        tonic::service::Routes::new(service)
            .into_axum_router()
            .merge(http)
            .fallback(nothing_here)
    }

    async fn ask(&self, wish: Wish) -> Result<Answer, Status> {
        let (reply, answer) = oneshot::channel();
        let request = LoopRequest::Core(wish, reply);
        self.requests.send(request).await.map_err(|_| stopping())?;
        match answer.await.map_err(|_| stopping())? {
            Answer::Refused(refusal) => Err(refused(&refusal)),
            answer => Ok(answer),
        }
    }

    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Core) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let look = LoopRequest::Look(Box::new(move |core| {
            let _gone = reply.send(look(core));
        }));
        self.requests.send(look).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Reads the database without blocking the runtime.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let reader = self.reader.clone();
        tokio::task::spawn_blocking(move || read(&reader))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| broken(&error))
    }

    fn past(&self, past: &Past) -> allot::JobView {
        let cluster = (*past.cluster).clone();
        view::past(past.key, cluster, &past.end, self.default_memory_mib)
    }

    /// A job, unfinished or not, and whether it is unfinished.
    async fn find(&self, key: JobKey) -> Result<(allot::JobView, bool), Status> {
        if let Some(view) = self.look(move |core| core.show(key)).await? {
            return Ok((view, true));
        }
        let past = self.read(move |reader| reader.show(key)).await?;
        past.map(|past| (self.past(&past), false))
            .ok_or_else(|| gone(key))
    }

    async fn act(
        &self,
        action: Action,
        request: allot::JobActionRequest,
    ) -> Result<Response<allot::JobActionResponse>, Status> {
        let wish = Wish::Act(action, request.selection, request.reason);
        match self.ask(wish).await? {
            Answer::Acted { changed, unchanged } => Ok(Response::new(allot::JobActionResponse {
                changed,
                unchanged,
            })),
            _ => Err(Status::internal("the queue gave the wrong answer")),
        }
    }
}

fn refused(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::Invalid(_) => Status::invalid_argument(message),
        Refusal::Exists(_) => Status::already_exists(message),
        Refusal::NoJob(_) => Status::not_found(message),
        Refusal::Full { .. } => Status::resource_exhausted(message),
    }
}

fn page(limit: Option<u32>) -> usize {
    limit.map_or(PAGE_MAX, |n| (n as usize).clamp(1, PAGE_MAX))
}

#[tonic::async_trait]
impl Batch for Server {
    async fn reserve_clusters(
        &self,
        request: Request<allot::ReserveClustersRequest>,
    ) -> Result<Response<allot::ReserveClustersResponse>, Status> {
        match self.ask(Wish::Reserve(request.into_inner().count)).await? {
            Answer::Reserved(first) => Ok(Response::new(allot::ReserveClustersResponse { first })),
            _ => Err(Status::internal("the queue gave the wrong answer")),
        }
    }

    async fn submit_jobs(
        &self,
        request: Request<allot::SubmitJobsRequest>,
    ) -> Result<Response<allot::SubmitJobsResponse>, Status> {
        let request = request.into_inner();
        let logs: std::collections::BTreeSet<String> = request
            .clusters
            .iter()
            .flat_map(|cluster| {
                let changes = cluster.procs.iter().filter_map(|run| run.changes.as_ref());
                std::iter::once(&cluster.template).chain(changes)
            })
            .filter_map(|spec| spec.log.clone())
            .filter(|log| log.starts_with('/'))
            .collect();
        let checked = tokio::task::spawn_blocking(move || check_logs(&logs));
        checked
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(Status::failed_precondition)?;
        match self.ask(Wish::Submit(request)).await? {
            Answer::Submitted(clusters) => {
                Ok(Response::new(allot::SubmitJobsResponse { clusters }))
            }
            _ => Err(Status::internal("the queue gave the wrong answer")),
        }
    }

    async fn list_clusters(
        &self,
        _request: Request<allot::ListClustersRequest>,
    ) -> Result<Response<allot::ListClustersResponse>, Status> {
        let clusters = self.look(Core::clusters).await?;
        Ok(Response::new(allot::ListClustersResponse { clusters }))
    }

    async fn list_jobs(
        &self,
        request: Request<allot::ListJobsRequest>,
    ) -> Result<Response<allot::ListJobsResponse>, Status> {
        let request = request.into_inner();
        if let Some(bad) = request
            .states
            .iter()
            .find(|state| !matches!(state.as_str(), "idle" | "running" | "held"))
        {
            return Err(Status::invalid_argument(format!(
                "{bad:?} is no state of an unfinished job; use idle, running or held"
            )));
        }
        let (jobs, more) = self
            .look(move |core| {
                core.list(
                    request.selection.as_ref(),
                    &request.states,
                    request.after.as_ref().map(JobKey::from),
                    page(request.limit),
                )
            })
            .await?;
        Ok(Response::new(allot::ListJobsResponse { jobs, more }))
    }

    async fn show_job(
        &self,
        request: Request<allot::ShowJobRequest>,
    ) -> Result<Response<allot::JobView>, Status> {
        let key = JobKey::from(&request.into_inner().job);
        let (view, _) = self.find(key).await?;
        Ok(Response::new(view))
    }

    async fn list_history(
        &self,
        request: Request<allot::ListHistoryRequest>,
    ) -> Result<Response<allot::ListHistoryResponse>, Status> {
        let request = request.into_inner();
        let limit = page(request.limit);
        let (past, more) = self
            .read(move |reader| reader.history(request.selection.as_ref(), request.before, limit))
            .await?;
        Ok(Response::new(allot::ListHistoryResponse {
            next_before: past.last().map(|last| last.end.sequence),
            jobs: past.iter().map(|past| self.past(past)).collect(),
            more,
        }))
    }

    type WaitJobsStream = Streamed<allot::WaitJobsEvent>;

    async fn wait_jobs(
        &self,
        request: Request<allot::WaitJobsRequest>,
    ) -> Result<Response<Self::WaitJobsStream>, Status> {
        let selection = request.into_inner().selection;
        let (events, received) = mpsc::channel(WAIT_LAG_MAX);
        let (found, answer) = oneshot::channel();
        let request = LoopRequest::Wait {
            selection,
            events,
            found,
        };
        self.requests.send(request).await.map_err(|_| stopping())?;
        let mut here: Found = answer.await.map_err(|_| stopping())?;
        for cluster in std::mem::take(&mut here.clusters) {
            let (ended, failed) = self.read(move |reader| reader.ended(cluster)).await?;
            if ended == 0 {
                return Err(Status::not_found(format!(
                    "there is no cluster {cluster}, neither in the queue nor in the history"
                )));
            }
            here.total += ended;
            here.ended += ended;
            here.failed += failed;
        }
        for key in std::mem::take(&mut here.jobs) {
            let past = self.read(move |reader| reader.show(key)).await?;
            let past = past.ok_or_else(|| gone(key))?;
            here.total += 1;
            here.ended += 1;
            here.failed += u32::from(!past.end.success);
        }
        let first = allot::WaitJobsEvent {
            total: Some(here.total),
            ended_before: Some(here.ended),
            failed_before: Some(here.failed),
            ended: Vec::new(),
        };
        let mut remaining = (here.total - here.ended) as usize;
        let mut received = ReceiverStream::new(received);
        let stream = async_stream(move |out| async move {
            if out.send(Ok(first)).await.is_err() {
                return;
            }
            while remaining > 0 {
                match received.next().await {
                    Some(Ok(event)) => {
                        remaining = remaining.saturating_sub(event.ended.len());
                        if out.send(Ok(event)).await.is_err() {
                            return;
                        }
                    }
                    Some(Err(status)) => {
                        let _gone = out.send(Err(status)).await;
                        return;
                    }
                    None => {
                        let status = Status::resource_exhausted(
                            "the queue stopped or this reader was too slow; wait again",
                        );
                        let _gone = out.send(Err(status)).await;
                        return;
                    }
                }
            }
        });
        Ok(Response::new(stream))
    }

    async fn remove_jobs(
        &self,
        request: Request<allot::JobActionRequest>,
    ) -> Result<Response<allot::JobActionResponse>, Status> {
        self.act(Action::Remove, request.into_inner()).await
    }

    async fn hold_jobs(
        &self,
        request: Request<allot::JobActionRequest>,
    ) -> Result<Response<allot::JobActionResponse>, Status> {
        self.act(Action::Hold, request.into_inner()).await
    }

    async fn release_jobs(
        &self,
        request: Request<allot::JobActionRequest>,
    ) -> Result<Response<allot::JobActionResponse>, Status> {
        self.act(Action::Release, request.into_inner()).await
    }

    type ReadJobLogStream = Streamed<allot::SandboxChunk>;

    async fn read_job_log(
        &self,
        request: Request<allot::ReadJobLogRequest>,
    ) -> Result<Response<Self::ReadJobLogStream>, Status> {
        let request = request.into_inner();
        let key = JobKey::from(&request.job);
        let (job, unfinished) = self.find(key).await?;
        let name = if request.stderr { "stderr" } else { "stdout" };
        let home = if request.stderr {
            &job.error
        } else {
            &job.output
        };
        let framework = self.framework.lock().ok().and_then(|id| id.clone());
        let (Some(task), Some(url)) = (&job.task_id, &job.agent_url) else {
            return Err(Status::failed_precondition(format!(
                "job {key} is {} and has not run yet, so it has written nothing",
                job.state
            )));
        };
        let task = TaskId::parse(task).map_err(|error| Status::internal(error.to_string()))?;
        let window = Window {
            offset: 0,
            length: None,
            follow: request.follow && unfinished,
        };
        let read = match &framework {
            Some(framework) => sandbox::read(url, framework, &task, name, window).await,
            None => Err(SandboxError::Unavailable(
                "no master is connected".to_owned(),
            )),
        };
        match read {
            Ok(pieces) => {
                let mut offset = 0;
                let chunks = pieces.map(move |piece| {
                    let data = piece.map_err(|error| Status::unavailable(error.to_string()))?;
                    let chunk = allot::SandboxChunk {
                        offset,
                        data,
                        ..Default::default()
                    };
                    offset += chunk.data.len() as u64;
                    Ok(chunk)
                });
                Ok(Response::new(Box::pin(chunks)))
            }
            // The sandbox is gone or out of reach: what came home will do.
            Err(_) if !home.is_empty() && Path::new(home).is_file() => {
                Ok(Response::new(file(home.clone())))
            }
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    async fn why_job(
        &self,
        request: Request<allot::ShowJobRequest>,
    ) -> Result<Response<allot::WhyJobResponse>, Status> {
        let key = JobKey::from(&request.into_inner().job);
        let (job, unfinished) = self.find(key).await?;
        if !unfinished {
            let lines = vec![super::why::past(&job)];
            return Ok(Response::new(allot::WhyJobResponse { job, lines }));
        }
        let facts = self
            .look(move |core| super::why::Facts::of(core, key))
            .await?;
        let lines = match facts {
            Some(facts) => facts.explain(&job, &self.cluster).await,
            None => vec!["it has ended this moment".to_owned()],
        };
        Ok(Response::new(allot::WhyJobResponse { job, lines }))
    }
}

/// A stream fed by a task of its own.
fn async_stream<T, F, Fut>(feed: F) -> Streamed<T>
where
    T: Send + 'static,
    F: FnOnce(mpsc::Sender<Result<T, Status>>) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (out, items) = mpsc::channel(16);
    tokio::spawn(feed(out));
    Box::pin(ReceiverStream::new(items))
}

/// A file of this machine, piece by piece.
fn file(path: String) -> Streamed<allot::SandboxChunk> {
    async_stream(move |out| async move {
        use tokio::io::AsyncReadExt as _;
        let mut offset = 0;
        let mut file = match tokio::fs::File::open(&path).await {
            Ok(file) => file,
            Err(error) => {
                let status = Status::not_found(format!("cannot read {path}: {error}"));
                let _gone = out.send(Err(status)).await;
                return;
            }
        };
        loop {
            let mut piece = bytes::BytesMut::with_capacity(PIECE);
            match file.read_buf(&mut piece).await {
                Ok(0) => return,
                Ok(n) => {
                    let data: Bytes = piece.freeze();
                    let chunk = allot::SandboxChunk {
                        offset,
                        data,
                        ..Default::default()
                    };
                    offset += n as u64;
                    if out.send(Ok(chunk)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let status = Status::internal(format!("cannot read {path}: {error}"));
                    let _gone = out.send(Err(status)).await;
                    return;
                }
            }
        }
    })
}

/// A log that cannot be written is refused before there is anything to log.
fn check_logs(logs: &std::collections::BTreeSet<String>) -> Result<(), String> {
    for log in logs {
        let opened = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log);
        if let Err(error) = opened {
            return Err(format!(
                "cannot write the event log {log}: {error}; choose another `log`"
            ));
        }
    }
    Ok(())
}

async fn nothing_here(request: axum::extract::Request) -> axum::response::Response {
    let kind = request.headers().get(axum::http::header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        let message = format!(
            "{} is no method of this batch framework",
            request.uri().path()
        );
        return tonic::Status::unimplemented(message).into_http();
    }
    let text = "the batch framework serves /metrics, /health and its gRPC services here\n";
    (StatusCode::NOT_FOUND, text).into_response()
}

async fn metrics(State(server): State<Server>) -> impl axum::response::IntoResponse {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    (
        [(axum::http::header::CONTENT_TYPE, kind)],
        server.metrics.text(),
    )
}

async fn spooled(
    State(server): State<Server>,
    UrlPath((token, at)): UrlPath<(String, usize)>,
) -> axum::response::Response {
    let Some(path) = server.spool.find(&token, at) else {
        let text = "nothing is here for anybody; the run is over or the address is wrong\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let length = match tokio::fs::metadata(&path).await {
        Ok(found) if found.is_file() => found.len(),
        Ok(_) | Err(_) => {
            let text = format!("{} is no file (any more)\n", path.display());
            return (StatusCode::NOT_FOUND, text).into_response();
        }
    };
    let pieces = file(path.to_string_lossy().into_owned());
    let body = axum::body::Body::from_stream(pieces.map(|chunk| match chunk {
        Ok(chunk) => Ok(chunk.data),
        Err(status) => Err(std::io::Error::other(status.message().to_owned())),
    }));
    let length = [(axum::http::header::CONTENT_LENGTH, length)];
    (length, body).into_response()
}
