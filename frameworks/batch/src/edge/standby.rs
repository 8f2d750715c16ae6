//! The door of a batch process: of several with one data folder one serves, the others pass on to it.
//!
//! A standby is a proxy for gRPC and HTTP alike, so clients may talk to any of the processes. A
//! request that comes back to a process it went through already is refused. One that reaches nobody,
//! because the leader just died, waits a little for the next one.

use std::time::Duration;

use allotment_proto::MESSAGE_LEN_MAX;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::sync::watch;
use tonic::Status;
use tonic::codegen::Service as _;

const VIA: HeaderName = HeaderName::from_static("allot-via");
/// A leader that takes longer to accept a connection is stopped, cut off or gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A leader that does not answer pings on an open connection is, too.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long a request waits while a process starts or takes over.
const PATIENCE: Duration = Duration::from_secs(2);

/// How far the process is.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// Nobody is known to serve the queue, and why.
    Waiting(String),
    /// The process at this URL does.
    Standby(String),
    /// This process does.
    Serving(axum::Router),
}

/// What every request needs.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    stage: watch::Receiver<Stage>,
    /// `host:port`
    here: String,
    client: Client<HttpConnector, Body>,
}

/// `host:port` of `http://host:port`.
fn place(url: &str) -> &str {
    url.strip_prefix("http://").unwrap_or(url)
}

impl Door {
    /// The door of the process that others reach at `url`.
    pub(crate) fn new(stage: watch::Receiver<Stage>, url: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            // gRPC needs it, and whoever serves the rest speaks it too.
            .http2_only(true)
            .timer(hyper_util::rt::TokioTimer::new())
            .http2_keep_alive_interval(KEEPALIVE)
            .http2_keep_alive_timeout(KEEPALIVE)
            .build(connector);
        Self {
            stage,
            here: place(url).to_owned(),
            client,
        }
    }

    /// Everything on the one port.
    pub(crate) fn router(self) -> axum::Router {
        axum::Router::new().fallback(answer).with_state(self)
    }

    /// The stage, once it is `wanted` or after a little while.
    async fn settled(&self, wanted: impl Fn(&Stage) -> bool) -> Stage {
        let mut stages = self.stage.clone();
        let settled = stages.wait_for(|stage| wanted(stage));
        let _ = tokio::time::timeout(PATIENCE, settled).await;
        self.stage.borrow().clone()
    }

    fn health(&self) -> Response {
        axum::Json(match &*self.stage.borrow() {
            Stage::Serving(_) => json!({ "healthy": true }),
            Stage::Standby(leader) => json!({ "healthy": true, "leader": leader }),
            Stage::Waiting(reason) => json!({ "healthy": true, "waiting": reason }),
        })
        .into_response()
    }

    /// What the leader answers.
    ///
    /// # Errors
    /// Why it does not.
    async fn forward(
        &self,
        leader: &str,
        mut parts: Parts,
        body: Bytes,
    ) -> Result<Response, Unanswered> {
        let passed = parts.headers.get_all(VIA);
        if passed
            .iter()
            .any(|via| via.as_bytes() == self.here.as_bytes())
        {
            return Err(Unanswered::Refused(format!(
                "this request came through {} already, which takes {} for the leader",
                self.here,
                place(leader)
            )));
        }
        if let Ok(here) = HeaderValue::try_from(&self.here) {
            parts.headers.append(VIA, here);
        }
        // Those of an HTTP/1.1 connection mean nothing on the other.
        for name in [header::CONNECTION, header::HOST, header::TRANSFER_ENCODING] {
            parts.headers.remove(name);
        }
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = format!("{leader}{path}").parse().map_err(|error| {
            Unanswered::Refused(format!("the leader's {leader:?} is no URL: {error}"))
        })?;
        parts.version = http::Version::HTTP_2;
        let request = Request::from_parts(parts, Body::from(body));
        match self.client.request(request).await {
            Ok(response) => Ok(response.map(Body::new)),
            Err(error) if error.is_connect() => Err(Unanswered::NotReached(format!(
                "the process at {} serves this queue but cannot be reached from the standby at \
                 {}; another one takes over when its lease is over and its lock is free",
                place(leader),
                self.here
            ))),
            Err(_) => Err(Unanswered::Refused(format!(
                "the process at {} broke off; what was asked may have happened, look before you \
                 ask again",
                place(leader)
            ))),
        }
    }

    /// Answers here, or where the queue is.
    ///
    /// # Errors
    /// Why nobody answers.
    async fn dispatch(&self, parts: Parts, body: Bytes) -> Result<Response, String> {
        let known = |stage: &Stage| !matches!(stage, Stage::Waiting(_));
        let mut unreached = None;
        loop {
            match self.settled(known).await {
                Stage::Serving(mut router) => {
                    let request = Request::from_parts(parts, Body::from(body));
                    let Ok(response) = router.call(request).await;
                    return Ok(response);
                }
                Stage::Standby(leader) if unreached.as_ref() != Some(&leader) => {
                    let answer = self.forward(&leader, parts.clone(), body.clone()).await;
                    match answer {
                        Ok(response) => return Ok(response),
                        Err(Unanswered::Refused(reason)) => return Err(reason),
                        Err(Unanswered::NotReached(reason)) => {
                            let other = |stage: &Stage| match stage {
                                Stage::Standby(now) => *now != leader,
                                Stage::Waiting(_) | Stage::Serving(_) => true,
                            };
                            if !other(&self.settled(other).await) {
                                return Err(reason);
                            }
                            unreached = Some(leader);
                        }
                    }
                }
                Stage::Standby(leader) => {
                    return Err(format!("the process at {} is gone", place(&leader)));
                }
                Stage::Waiting(reason) => {
                    return Err(format!("no process serves this queue: {reason}"));
                }
            }
        }
    }
}

/// Why a leader did not answer.
enum Unanswered {
    /// It has not heard of the request.
    NotReached(String),
    Refused(String),
}

async fn answer(State(door): State<Door>, request: axum::extract::Request) -> Response {
    if request.uri().path() == "/health" {
        return door.health();
    }
    // Most are for this process, and stream through.
    let stage = door.stage.borrow().clone();
    if let Stage::Serving(mut router) = stage {
        let Ok(response) = router.call(request).await;
        return response;
    }
    let kind = request.headers().get(header::CONTENT_TYPE);
    let grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let (parts, body) = request.into_parts();
    // What is asked is one message, of which gRPC takes no more than this.
    let refused = match axum::body::to_bytes(body, MESSAGE_LEN_MAX + 5).await {
        Ok(body) => match door.dispatch(parts, body).await {
            Ok(response) => return response,
            Err(refused) => refused,
        },
        Err(error) => format!("what is asked cannot be read or is too long: {error}"),
    };
    if grpc {
        return Status::unavailable(refused).into_http();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{refused}\n")).into_response()
}
