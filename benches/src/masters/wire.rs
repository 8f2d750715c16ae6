//! gRPC as it is on the wire: HTTP/2 by `h2`, and frames of messages.
//!
//! A real agent's client library works on a machine of its own. Here thousands of agents, and the
//! clients of the store, share the machine with the masters that are measured, so theirs has no
//! queues and tasks between them and their connection.

use std::time::Duration;

use allotment_proto::allot;
use allotment_proto::session::{HEIR, LEADER, LOST, OF_CLUSTER, SPREAD};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Request, Uri, header};
use prost::Message;
use tokio::net::TcpStream;

/// As tonic's client has them.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 5 << 20;
const HEADERS_LEN_MAX: u32 = 16 << 10;

const GET_LEADER: &str = "/allot.v1.Masters/GetLeader";
const CONNECT: &str = "/allot.v1.Agent/Connect";
const COMMIT: &str = "/allot.v1.Store/Commit";

/// The prefix of a message: not compressed, and its length.
const PREFIX_LEN: usize = 5;

/// Where a message of `len` bytes is to follow.
pub(super) fn frame(len: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(PREFIX_LEN + len);
    frame.put_u8(0);
    // No message here comes near 4 GiB.
    frame.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    frame
}

/// A message, ready to be sent.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let mut frame = frame(message.encoded_len());
    // A `BytesMut` grows as needed.
    let _ = message.encode(&mut frame);
    frame.freeze()
}

/// A connection to one master; its clones share it.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    requests: SendRequest<Bytes>,
    authority: Authority,
}

impl Connection {
    /// Connects to a master at `host:port`.
    pub(super) async fn open(address: &str) -> Option<Self> {
        let authority = address.parse().ok()?;
        let socket = TcpStream::connect(address).await.ok()?;
        socket.set_nodelay(true).ok()?;
        let mut client = h2::client::Builder::new();
        let client = client
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADERS_LEN_MAX);
        let (requests, connection) = client.handshake(socket).await.ok()?;
        // Ends with the last stream and clone, or when the master closes it.
        tokio::spawn(connection);
        Some(Self {
            requests,
            authority,
        })
    }

    /// `more` are headers beside those that every request has.
    async fn call(
        &self,
        path: &'static str,
        more: &[(&'static str, &str)],
        first: Bytes,
        last: bool,
    ) -> Option<(ResponseFuture, SendStream<Bytes>)> {
        let uri = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(self.authority.clone())
            .path_and_query(path);
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.build().ok()?;
        let headers = request.headers_mut();
        let content = HeaderValue::from_static("application/grpc");
        headers.insert(header::CONTENT_TYPE, content);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        for (name, value) in more {
            headers.insert(*name, HeaderValue::from_str(value).ok()?);
        }
        let mut requests = self.requests.clone().ready().await.ok()?;
        let (answer, mut body) = requests.send_request(request, false).ok()?;
        body.send_data(first, last).ok()?;
        Some((answer, body))
    }

    /// One question and its answer; `None` when it is refused or the connection breaks.
    async fn ask<M: Message + Default>(
        &self,
        path: &'static str,
        request: &impl Message,
    ) -> Option<M> {
        let (answer, _) = self.call(path, &[], framed(request), true).await?;
        let mut heard = Heard::new(answer.await.ok()?.into_body());
        let answer = heard.next().await?;
        heard.ends_well().await.then_some(answer)
    }

    /// Asks who leads.
    pub(super) async fn get_leader(
        &self,
        request: &allot::GetLeaderRequest,
    ) -> Option<allot::GetLeaderResponse> {
        self.ask(GET_LEADER, request).await
    }

    /// Commits to the store; the version that was written.
    pub(super) async fn commit(&self, request: &allot::StoreCommitRequest) -> Option<u64> {
        let written: allot::StoreCommitResponse = self.ask(COMMIT, request).await?;
        Some(written.version)
    }

    /// Opens an agent's stream with its registration; `lost` is the leader that it lost and its
    /// cluster, if this master is to be the next. The answer comes when it leads.
    pub(super) async fn connect(
        &self,
        registration: Bytes,
        lost: Option<(&str, &str)>,
    ) -> Option<Session> {
        let more = lost.map(|(url, cluster)| [(LOST, url), (OF_CLUSTER, cluster)]);
        let more = more.as_ref().map_or(&[][..], |both| both);
        let (answer, out) = self.call(CONNECT, more, registration, false).await?;
        let answer = answer.await.ok()?;
        let text = |name| answer.headers().get(name)?.to_str().ok();
        // A refusal is an answer without messages, which ends the session at once.
        let elected = text(LEADER).map(|url: &str| Next::Elected(url.to_owned()));
        let heir = text(HEIR).map(|heir: &str| Next::Heir(format!("http://{heir}")));
        let spread = text(SPREAD).and_then(|spread: &str| spread.parse().ok());
        Some(Session {
            next: elected.or(heir),
            spread: Duration::try_from_secs_f64(spread.unwrap_or_default()).unwrap_or_default(),
            out,
            heard: Heard::new(answer.into_body()),
        })
    }
}

/// The `http://host:port` of the master that leads next.
#[derive(Debug)]
pub(super) enum Next {
    /// Its turn comes when this leader is lost.
    Heir(String),
    /// It was elected, and not the master that was asked.
    Elected(String),
}

/// An agent's stream.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) out: SendStream<Bytes>,
    pub(super) heard: Heard,
    /// Where to go when it ends.
    pub(super) next: Option<Next>,
    /// Over what time agents return then.
    pub(super) spread: Duration,
}

/// What a master says on one stream.
#[derive(Debug)]
pub(super) struct Heard {
    body: RecvStream,
    /// The beginning of a message that is not all there.
    begun: BytesMut,
}

impl Heard {
    fn new(body: RecvStream) -> Self {
        let begun = BytesMut::new();
        Self { body, begun }
    }

    /// The next message; `None` when the stream has ended or makes no sense.
    pub(super) async fn next<M: Message + Default>(&mut self) -> Option<M> {
        loop {
            if let Some(message) = whole(&mut self.begun) {
                return M::decode(message).ok();
            }
            let data = self.body.data().await?.ok()?;
            self.body.flow_control().release_capacity(data.len()).ok()?;
            self.begun.extend_from_slice(&data);
        }
    }

    /// Hears the rest, which says whether all went well.
    async fn ends_well(mut self) -> bool {
        while let Some(Ok(_)) = self.body.data().await {}
        let trailers = self.body.trailers().await.ok().flatten();
        trailers.is_some_and(|all| all.get("grpc-status").is_some_and(|status| status == "0"))
    }
}

/// Takes the first message, if it is all there.
fn whole(bytes: &mut BytesMut) -> Option<BytesMut> {
    let len = u32::from_be_bytes(*bytes.get(1..PREFIX_LEN)?.first_chunk()?);
    let end = PREFIX_LEN.checked_add(usize::try_from(len).ok()?)?;
    if bytes.len() < end {
        return None;
    }
    let mut frame = bytes.split_to(end);
    frame.advance(PREFIX_LEN);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_whatever_pieces_they_come_in() {
        let ping = |sequence| allot::Ping { sequence };
        let both = [framed(&ping(7)), framed(&ping(1 << 40))].concat();
        for size in 1..=both.len() {
            let (mut begun, mut found) = (BytesMut::new(), Vec::new());
            for piece in both.chunks(size) {
                begun.extend_from_slice(piece);
                while let Some(message) = whole(&mut begun) {
                    found.push(allot::Ping::decode(message).unwrap());
                }
            }
            assert_eq!(found, [ping(7), ping(1 << 40)], "in pieces of {size}");
        }
    }
}
