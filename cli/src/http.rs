//! A small HTTP client for the REST APIs of the frameworks, with errors as sentences.
//!
//! One connection per request: a command makes a handful. TLS and redirects are not known here.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::exit::Failure;
use crate::rpc::{ANSWER_TIMEOUT, Peer};

/// The largest answer that is read into memory: a listing of 100,000 jobs fits.
const BODY_LEN_MAX: usize = 256 * 1024 * 1024;

/// As long as for gRPC.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer, read whole.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its body.
    pub(crate) body: Bytes,
}

impl Reply {
    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body).with_context(|| {
            format!(
                "the answer (HTTP {}) is not what this version of allot understands",
                self.status
            )
        })
    }

    /// The reply itself when its status is 2xx, else an error that carries the server's own
    /// sentence: 404 is "no such thing" (exit 3), other 4xx are wrong input (exit 2), 5xx failed.
    pub(crate) fn ok(self) -> anyhow::Result<Self> {
        if self.status.is_success() {
            return Ok(self);
        }
        let said = self.sentence();
        Err(match self.status {
            StatusCode::NOT_FOUND => Failure::NotFound(said).into(),
            status if status.is_client_error() => Failure::Usage(said).into(),
            status => anyhow::anyhow!("HTTP {status}: {said}"),
        })
    }

    /// What the server says: `message` (and Marathon's `details`) of a JSON body, else its text.
    fn sentence(&self) -> String {
        let text = || String::from_utf8_lossy(&self.body).trim().to_owned();
        let Ok(json) = serde_json::from_slice::<serde_json::Value>(&self.body) else {
            return Some(text())
                .filter(|t| !t.is_empty())
                .unwrap_or_else(|| format!("HTTP {}", self.status));
        };
        let Some(message) = json.get("message").and_then(|m| m.as_str()) else {
            return text();
        };
        let details = json.get("details").and_then(|d| d.as_array());
        let details = details.into_iter().flatten().map(|detail| {
            let path = detail.get("path").and_then(|p| p.as_str()).unwrap_or("");
            let errors = detail.get("errors").and_then(|e| e.as_array());
            let errors = errors.into_iter().flatten().filter_map(|e| e.as_str());
            format!("{path}: {}", errors.collect::<Vec<_>>().join(", "))
        });
        let details: Vec<_> = details.collect();
        if details.is_empty() {
            message.to_owned()
        } else {
            format!("{message} ({})", details.join("; "))
        }
    }
}

/// Asks and reads the whole answer, whatever its status. `url` is absolute.
pub(crate) async fn request(
    peer: Peer,
    method: Method,
    url: &str,
    body: Option<Bytes>,
) -> anyhow::Result<Reply> {
    let response = open(peer, method, url, body).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_LEN_MAX)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("the answer of {url} broke off: {error}"))?
        .to_bytes();
    Ok(Reply { status, body })
}

/// Asks and hands over the answer as it comes in, for streams. A body is sent as JSON.
pub(crate) async fn open(
    peer: Peer,
    method: Method,
    url: &str,
    body: Option<Bytes>,
) -> anyhow::Result<Response<Incoming>> {
    let wrong = |why: &str| Failure::Usage(format!("{url:?} {why}; give it as http://host:port"));
    let uri: hyper::Uri = url.parse().map_err(|_| wrong("is no address"))?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong("is not plain HTTP").into());
    }
    let host = uri.host().ok_or_else(|| wrong("has no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let base = format!("http://{}", uri.authority().map_or("", |a| a.as_str()));
    let connecting = TcpStream::connect((host, uri.port_u16().unwrap_or(80)));
    let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(peer.unreachable(&base, &error.to_string()).into()),
        Err(_) => {
            let cause = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
            return Err(peer.unreachable(&base, &cause).into());
        }
    };
    let broke =
        |error: hyper::Error| peer.unreachable(&base, &format!("the connection broke ({error})"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broke)?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(uri.path_and_query().map_or("/", |p| p.as_str()))
        .header(hyper::header::HOST, base.trim_start_matches("http://"))
        .header(hyper::header::ACCEPT, "application/json");
    let request = if body.is_some() {
        request.header(hyper::header::CONTENT_TYPE, "application/json")
    } else {
        request
    };
    let request = request.body(Full::new(body.unwrap_or_default()))?;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
    let answer = answer.map_err(|_| {
        let cause = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
        peer.unreachable(&base, &cause)
    })?;
    Ok(answer.map_err(broke)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marathons_validation_details_end_up_in_the_sentence() {
        let reply = Reply {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            body: Bytes::from_static(
                br#"{"message":"Object is not valid","details":[{"path":"/cpus","errors":["got -1, expected 0 or more"]}]}"#,
            ),
        };
        let error = reply.ok().unwrap_err();
        assert_eq!(
            error.to_string(),
            "Object is not valid (/cpus: got -1, expected 0 or more)"
        );
        assert_eq!(error.downcast_ref::<Failure>().map(Failure::code), Some(2));
    }
}
