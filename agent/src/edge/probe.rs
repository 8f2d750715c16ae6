//! Makes the probes that the core asks for, each in a task of its own and within its time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::core::{Probe, Probed};

/// Tries it, for at most `timeout`.
pub(super) async fn make(probe: Probe, timeout: Duration) -> Probed {
    let tried = async {
        match probe {
            Probe::Tcp { ipv6, port } => match connect(ipv6, port).await {
                Ok(_) => Probed::Connected,
                Err(probed) => probed,
            },
            Probe::Http { ipv6, port, path } => match connect(ipv6, port).await {
                Ok(stream) => get(stream, port, path).await.unwrap_or_else(Probed::Failed),
                Err(probed) => probed,
            },
        }
    };
    tokio::time::timeout(timeout, tried)
        .await
        .unwrap_or_else(|_| Probed::Failed(format!("no answer within {timeout:?}")))
}

async fn connect(ipv6: bool, port: u16) -> Result<TcpStream, Probed> {
    let ip = if ipv6 {
        IpAddr::V6(Ipv6Addr::LOCALHOST)
    } else {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    };
    let connected = TcpStream::connect(SocketAddr::new(ip, port)).await;
    connected.map_err(|error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => Probed::Refused,
        _ => Probed::Failed(error.to_string()),
    })
}

/// The status of the answer; the rest of it is not read.
async fn get(stream: TcpStream, port: u16, path: String) -> Result<Probed, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let request = http::Request::get(path)
        .header(http::header::HOST, format!("localhost:{port}"))
        .header(http::header::USER_AGENT, "allotment-agent")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    connection.abort();
    let answer = answer.map_err(|error| error.to_string())?;
    Ok(Probed::Http(answer.status().as_u16()))
}
