//! Connections to masters and agents, and what their failures mean in words.

use std::error::Error;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// A TCP connection takes milliseconds; a host that drops packets takes forever.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A master that is stopped or cut off is noticed in twice this time, so that the one which takes
/// over is found long before heartbeats are missed.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// An endpoint for `url` (`http://host:port`), or what is wrong with it.
pub(crate) fn endpoint(url: &str) -> Result<Endpoint, String> {
    if !url.starts_with("http://") {
        return Err(format!("address {url:?} is not http://host:port"));
    }
    Ok(Endpoint::from_shared(url.to_owned())
        .map_err(|error| format!("address {url:?} is not http://host:port: {error}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .tcp_nodelay(true)
        // A batch of a few thousand updates fits without waiting for the receiver's window.
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20))
}

/// Connects to `url`; `role` and `command` say who should answer there.
pub(crate) async fn connect(url: &str, role: &str, command: &str) -> Result<Channel, String> {
    let place = url.strip_prefix("http://").unwrap_or(url);
    endpoint(url)?.connect().await.map_err(|error| {
        let cause = innermost(&error);
        format!(
            "cannot reach {role} {place}: {cause}; check that `{command}` runs there and that \
             the address is right"
        )
    })
}

/// The last error of a chain: "Connection refused" rather than "transport error".
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// A status in words: its message, or what its code means when it has none.
pub(crate) fn status_text(status: &Status) -> String {
    match status.code() {
        Code::Unimplemented => {
            "it does not have this API; check that the address and the version are right".to_owned()
        }
        Code::Unknown | Code::Internal if status.message().contains("content-type") => {
            "what answers there does not speak gRPC; check the address".to_owned()
        }
        code if status.message().is_empty() => code.description().to_owned(),
        _ => match status.source() {
            Some(source) => format!("{}: {}", status.message(), innermost(source)),
            None => status.message().to_owned(),
        },
    }
}
