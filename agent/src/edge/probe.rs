//! Makes the probes that the core asks for, each in a task of its own and within its time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::containerizer::session::{Heard, SessionOutput, Sessions, Stdio, code_or_signal};
use crate::core::{Launch, NoEntry, Probe, Probed};

/// How much of what a command writes is kept, in bytes: its end, which tells most.
const OUTPUT_MAX: usize = 1024;

/// A probe with what it takes to make it.
#[derive(Debug)]
pub(super) enum Probing {
    /// Run a program in the task's container.
    Command(Box<Result<Launch, NoEntry>>, Sessions),
    /// Over the network: all others.
    Network(Probe),
}

/// Tries it, for at most `timeout`.
pub(super) async fn make(probing: Probing, timeout: Duration) -> Probed {
    match probing {
        Probing::Command(launch, sessions) => match *launch {
            Ok(launch) => run(launch, &sessions, timeout).await,
            // It has just ended.
            Err(error) => Probed::NotMade(error.to_string()),
        },
        Probing::Network(probe) => tokio::time::timeout(timeout, network(probe))
            .await
            .unwrap_or_else(|_| Probed::Failed(format!("no answer within {timeout:?}"))),
    }
}

async fn network(probe: Probe) -> Probed {
    match probe {
        Probe::Command(_) => Probed::NotMade("no network runs commands".to_owned()),
        Probe::Tcp { ipv6, port } => match connect(ipv6, port).await {
            Ok(_) => Probed::Connected,
            Err(probed) => probed,
        },
        Probe::Http {
            tls,
            ipv6,
            port,
            path,
        } => match connect(ipv6, port).await {
            Ok(stream) if tls => match handshake(stream).await {
                Ok(stream) => get(stream, port, path).await.unwrap_or_else(Probed::Failed),
                Err(why) => Probed::Failed(why),
            },
            Ok(stream) => get(stream, port, path).await.unwrap_or_else(Probed::Failed),
            Err(probed) => probed,
        },
    }
}

/// Runs a command to its end. After `timeout` it is ended with all that it began, because its
/// session is dropped.
async fn run(launch: Launch, sessions: &Sessions, timeout: Duration) -> Probed {
    let mut tail = Tail::default();
    let ran = tokio::time::timeout(timeout, async {
        let mut session = match sessions.enter(launch, Stdio::Captured).await {
            Ok(session) => session,
            Err(why) => return Probed::NotMade(why),
        };
        finish(&mut session.output, &mut tail).await
    });
    match ran.await {
        Ok(probed) => probed,
        Err(_) => {
            Probed::Failed(tail.after(&format!("the command did not end within {timeout:?}")))
        }
    }
}

async fn finish(output: &mut SessionOutput, tail: &mut Tail) -> Probed {
    loop {
        match output.next().await {
            Heard::Wrote(_, bytes) => tail.push(&bytes),
            Heard::Left(status) => {
                return match code_or_signal(status) {
                    (Some(code), _) => Probed::Exited {
                        code,
                        output: tail.text(),
                    },
                    (None, signal) => {
                        let signal = signal.unwrap_or_default();
                        let what = format!("the command was ended by signal {signal}");
                        Probed::Failed(tail.after(&what))
                    }
                };
            }
            Heard::Refused(why) => return Probed::Failed(why),
            Heard::Lost => return Probed::NotMade("the agent lost the command".to_owned()),
        }
    }
}

/// The end of what was written.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let surplus = self.0.len().saturating_sub(OUTPUT_MAX);
        self.0.drain(..surplus);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).trim_end().to_owned()
    }

    fn after(&self, what: &str) -> String {
        match self.text() {
            text if text.is_empty() => what.to_owned(),
            text => format!("{what}: {text}"),
        }
    }
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

/// Begins TLS with whoever listens.
async fn handshake(
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").map_err(|error| error.to_string())?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| format!("no TLS: {error}"))
}

/// Takes every certificate: tasks have them for the names that others call them by, and here they
/// are called over the loopback address. Mesos does the same (`curl --insecure`).
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = self.0.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// The status of the answer; the rest of it is not read.
async fn get<S>(stream: S, port: u16, path: String) -> Result<Probed, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
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
