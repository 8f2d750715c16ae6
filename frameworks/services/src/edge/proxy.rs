//! A standby's way on to the process that leads, as Marathon does it.
//!
//! Whoever asks a standby gets the leader's answer, with `X-Marathon-Via` and `X-Marathon-Leader`.
//! A request that comes back to a process it went through already is going round in circles.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::core::answer::Answer;

pub(super) const LEADER: HeaderName = HeaderName::from_static("x-marathon-leader");
const VIA: HeaderName = HeaderName::from_static("x-marathon-via");

/// A leader that takes longer to accept a connection is stopped, cut off or gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A leader answers within 15 s, if only that it cannot.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Headers that concern one connection and not what is asked (RFC 9110, 7.6.1); and the host,
/// which is the leader's.
const NOT_PASSED_ON: [HeaderName; 7] = [
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Why a leader did not answer, and what to say.
pub(super) enum Unanswered {
    /// It has not heard of the request.
    NotReached(Answer),
    Refused(Answer),
}

/// Connections to leaders.
#[derive(Debug)]
pub(super) struct Proxy(Client<HttpConnector, Body>);

/// `host:port` of `http://host:port`.
pub(super) fn place(url: &str) -> &str {
    url.strip_prefix("http://").unwrap_or(url)
}

fn refused(status: u16, message: String) -> Unanswered {
    Unanswered::Refused(Answer::refuse(status, message))
}

impl Proxy {
    pub(super) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self(client)
    }

    /// Asks the leader at `leader` (`http://host:port`) on behalf of somebody who asked `here`
    /// (`host:port`).
    ///
    /// # Errors
    /// What to answer when the leader does not.
    pub(super) async fn forward(
        &self,
        here: &str,
        leader: &str,
        (method, uri, mut headers): (Method, &Uri, HeaderMap),
        body: Bytes,
    ) -> Result<Response<Body>, Unanswered> {
        let via = format!("1.1 {here}");
        let passed = headers.get_all(VIA);
        if passed
            .iter()
            .any(|passed| passed.as_bytes() == via.as_bytes())
        {
            return Err(refused(
                502,
                format!(
                    "Detected proxying loop: this request came through {here} already, which \
                     takes {} for the leader",
                    place(leader)
                ),
            ));
        }
        for name in NOT_PASSED_ON {
            headers.remove(name);
        }
        let via = HeaderValue::try_from(via).ok();
        if let Some(via) = via.clone() {
            headers.append(VIA, via);
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = format!("{leader}{path}").parse().map_err(|error| {
            refused(
                502,
                format!("the leader is at {leader:?}, which is no URL: {error}"),
            )
        })?;
        *request.headers_mut() = headers;
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.0.request(request));
        let answered = asked.await.map_err(|_| {
            refused(
                504,
                format!(
                    "the leader at {} did not answer within {} s; another one takes over when \
                     its lease is over. What was asked may still happen, look before you ask again",
                    place(leader),
                    ANSWER_TIMEOUT.as_secs()
                ),
            )
        })?;
        let mut response = answered.map_err(|error| {
            if error.is_connect() {
                return Unanswered::NotReached(Answer::refuse(
                    502,
                    format!(
                        "the leader at {} cannot be reached; another one takes over when its \
                         lease is over, ask again then",
                        place(leader)
                    ),
                ));
            }
            refused(
                502,
                format!(
                    "the leader at {} broke off; what was asked may have happened, look before \
                     you ask again",
                    place(leader)
                ),
            )
        })?;
        let headers = response.headers_mut();
        for name in NOT_PASSED_ON {
            headers.remove(name);
        }
        if let Some(via) = via {
            headers.append(VIA, via);
        }
        if let Ok(leader) = HeaderValue::try_from(leader) {
            headers.insert(LEADER, leader);
        }
        Ok(response.map(Body::new))
    }
}

/// Sends whoever asks to the leader: what streams for ever is not passed through.
pub(super) fn redirect(leader: &str, uri: &Uri) -> Response<Body> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    if let Ok(location) = HeaderValue::try_from(format!("{leader}{path}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
