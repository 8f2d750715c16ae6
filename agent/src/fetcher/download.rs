//! `http` and `https`: streamed to disk, with an eye on servers that stall or stop half way.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::place::Partial;
use super::{disk, too_large};

const REDIRECTS_MAX: usize = 5;

type Https = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// A client that trusts this machine's certificate authorities, and those in a file of the
/// operator's.
#[derive(Debug, Clone)]
pub(super) struct Downloader {
    client: Https,
}

impl Downloader {
    /// Reads the machine's certificates, which takes some milliseconds.
    ///
    /// # Errors
    /// A sentence when the operator's file cannot be used.
    pub(super) fn new(more_authorities: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        // What of the machine's own store is damaged or empty shows when a server is not trusted.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = more_authorities {
            let failed = |why: String| format!("{} cannot be used: {why}", path.display());
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| failed(error.to_string()))?;
                roots
                    .add(certificate)
                    .map_err(|error| failed(error.to_string()))?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
        })
    }

    /// Brings a file and returns its length.
    ///
    /// # Errors
    /// Why not, as a clause, with the number of bytes where it stopped half way.
    pub(super) async fn download(
        &self,
        uri: &str,
        mut partial: Partial,
        mode: u32,
        size_max: u64,
        stall_timeout: Duration,
    ) -> Result<u64, String> {
        let mut location: Uri = uri
            .parse()
            .map_err(|error| format!("it is no URI: {error}"))?;
        for _ in 0..=REDIRECTS_MAX {
            let response = tokio::time::timeout(stall_timeout, self.client.get(location.clone()))
                .await
                .map_err(|_| format!("the server said nothing for {stall_timeout:?}"))?
                .map_err(|error| chain(&error))?;
            let status = response.status();
            if status.is_redirection() {
                let to = response.headers().get(http::header::LOCATION);
                let to = to.and_then(|to| to.to_str().ok()).unwrap_or_default();
                location = redirected(&location, status, to)?;
                continue;
            }
            if !status.is_success() {
                return Err(format!("the server answered {status}"));
            }
            let body = response.into_body();
            let received = receive(body, &mut partial, size_max, stall_timeout).await?;
            partial.finish(mode)?;
            return Ok(received);
        }
        Err(format!(
            "the server redirected more than {REDIRECTS_MAX} times"
        ))
    }
}

/// Streams a body to disk; its length.
async fn receive(
    mut body: Incoming,
    partial: &mut Partial,
    size_max: u64,
    stall_timeout: Duration,
) -> Result<u64, String> {
    let mut received = 0_u64;
    while let Some(frame) = tokio::time::timeout(stall_timeout, body.frame())
        .await
        .map_err(|_| {
            format!("the server said nothing for {stall_timeout:?} after {received} bytes")
        })?
    {
        let frame = frame.map_err(|error| format!("{} after {received} bytes", chain(&error)))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        received = received.saturating_add(data.len() as u64);
        if received > size_max {
            return Err(too_large(received, size_max));
        }
        // Straight to the page cache: short, and this is no task of the main loop.
        partial
            .file
            .write_all(&data)
            .map_err(|error| format!("{} after {received} bytes", disk(&error)))?;
    }
    Ok(received)
}

/// Where a redirection leads; never from a trusted connection to an open one.
fn redirected(from: &Uri, status: StatusCode, to: &str) -> Result<Uri, String> {
    let refuse = |why: &str| format!("the server answered {status} to {to:?}, {why}");
    let to: Uri = to.parse().map_err(|_| refuse("which is no URI"))?;
    let mut parts = to.into_parts();
    if parts.authority.is_none() {
        parts.scheme = from.scheme().cloned();
        parts.authority = from.authority().cloned();
        if parts
            .path_and_query
            .as_ref()
            .is_none_or(|path| !path.as_str().starts_with('/'))
        {
            return Err(refuse("which is neither a URI nor an absolute path"));
        }
    }
    let to = Uri::from_parts(parts).map_err(|_| refuse("which is no URI"))?;
    match (from.scheme_str(), to.scheme_str()) {
        (_, Some("https")) | (Some("http"), Some("http")) => Ok(to),
        (Some("https"), Some("http")) => Err(refuse("which is not encrypted any more")),
        _ => Err(refuse("and only http:// and https:// are followed")),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_stays_encrypted() {
        let follow = |from: &str, to: &str| {
            redirected(&from.parse().unwrap(), StatusCode::FOUND, to).map(|uri| uri.to_string())
        };
        assert_eq!(follow("http://a/x", "/y?z").unwrap(), "http://a/y?z");
        assert_eq!(follow("http://a/x", "https://b/y").unwrap(), "https://b/y");
        assert!(
            follow("https://a/x", "http://b/y")
                .unwrap_err()
                .contains("encrypted")
        );
        for bad in ["", "ftp://b/y", "file:///etc/passwd", "y"] {
            assert!(follow("http://a/x", bad).is_err(), "{bad} was followed");
        }
    }
}
