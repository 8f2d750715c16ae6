//! Probes: one TCP connection, and for HTTP one request of which the status line is read.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::core::Probe;
use crate::core::health::Outcome;

/// A status line is shorter; what sends more before its first line ends does not speak HTTP.
const LINE_LEN_MAX: usize = 1024;

/// Performs a probe.
pub(super) async fn perform(probe: &Probe) -> Outcome {
    match tokio::time::timeout(probe.timeout, attempt(probe)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failed(format!("no answer within {}", seconds(probe.timeout))),
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

async fn attempt(probe: &Probe) -> Outcome {
    let (address, port) = (probe.address.as_str(), probe.port);
    let mut stream = match TcpStream::connect((address, port)).await {
        Ok(stream) => stream,
        Err(error) => return Outcome::Failed(format!("cannot connect to port {port}: {error}")),
    };
    let Some(path) = &probe.path else {
        return Outcome::Connected;
    };
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: allot-services\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    );
    if let Err(error) = stream.write_all(request.as_bytes()).await {
        return Outcome::Failed(format!("cannot send the request: {error}"));
    }
    match read_line(&mut stream).await {
        Ok(line) => status(&line),
        Err(error) => Outcome::Failed(format!("the connection ended without an answer: {error}")),
    }
}

async fn read_line(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(64);
    let mut chunk = [0_u8; 256];
    while line.len() < LINE_LEN_MAX {
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(chunk.get(..n).unwrap_or_default());
        if let Some(end) = line.iter().position(|b| *b == b'\n') {
            line.truncate(end);
            return Ok(line);
        }
    }
    Ok(line)
}

fn status(line: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(line);
    let mut words = text.split_ascii_whitespace();
    let http = words.next().is_some_and(|word| word.starts_with("HTTP/1."));
    let status = words.next().and_then(|word| word.parse().ok());
    match status.filter(|_| http) {
        Some(status) => Outcome::Status(status),
        None => Outcome::Failed("the answer is not HTTP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn probed(answer: &'static [u8], path: Option<&str>) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
        });
        perform(&Probe {
            task: "t".parse().unwrap(),
            check: 0,
            address: "127.0.0.1".to_owned(),
            port,
            path: path.map(str::to_owned),
            timeout: Duration::from_secs(10),
        })
        .await
    }

    #[tokio::test]
    async fn the_status_of_an_answer_is_read() {
        let ok = probed(b"HTTP/1.1 204 No Content\r\n\r\n", Some("/")).await;
        assert_eq!(ok, Outcome::Status(204));
        let bad = probed(b"HTTP/1.0 503\n", Some("/")).await;
        assert_eq!(bad, Outcome::Status(503));
    }

    #[tokio::test]
    async fn what_is_not_http_is_a_failure() {
        assert!(matches!(
            probed(b"SSH-2.0-x\r\n", Some("/")).await,
            Outcome::Failed(_)
        ));
        assert!(matches!(probed(b"", Some("/")).await, Outcome::Failed(_)));
        assert_eq!(probed(b"", None).await, Outcome::Connected);
    }

    #[tokio::test]
    async fn a_closed_port_is_a_failure_that_names_the_port() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let outcome = perform(&Probe {
            task: "t".parse().unwrap(),
            check: 0,
            address: "127.0.0.1".to_owned(),
            port,
            path: None,
            timeout: Duration::from_secs(10),
        })
        .await;
        assert!(matches!(outcome, Outcome::Failed(cause) if cause.contains(&port.to_string())));
    }
}
