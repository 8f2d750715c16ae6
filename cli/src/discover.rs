//! Where a framework serves: the masters know it from its registration.
//!
//! One that died and was started elsewhere is known by its old address for a moment, and one whose
//! connection to the masters broke still serves where it did. So an address that is not connected
//! is tried, and while nobody answers there the next registration is waited for.

use std::time::Duration;

use allotment_proto::allot::operator_client::OperatorClient;
use allotment_proto::allot::{FrameworkView, ListFrameworksRequest};
use tokio::net::TcpStream;
use tonic::transport::Channel;

use crate::clock;
use crate::context::{Context, base_url};
use crate::exit::Failure;
use crate::rpc::Peer;

/// How long the masters may take to say where a framework serves before the default is used.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a framework that is not connected is waited for: a restart takes less.
const RETURN_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a connection to an old address may take.
const TRY_TIMEOUT: Duration = Duration::from_millis(500);

/// What the masters know of a framework's address.
#[derive(Debug, PartialEq)]
enum Known {
    /// It is connected and serves there.
    Here(String),
    /// It served there when it was last connected.
    Before(String),
    /// Nothing.
    Nothing,
}

/// The address of the framework `name`, or the default on this machine when no master answers or
/// none knows such a framework.
///
/// # Errors
/// [`Failure::Unreachable`] when it is known, but is not there any more.
pub(crate) async fn framework(
    ctx: &Context,
    peer: Peer,
    name: &str,
    port: u16,
) -> Result<String, Failure> {
    let default = || format!("http://127.0.0.1:{port}");
    let begun = clock::now();
    let operator = tokio::time::timeout(ANSWER_TIMEOUT, ctx.operator()).await;
    let Ok(Ok(mut operator)) = operator else {
        return Ok(default());
    };
    loop {
        let before = match ask(&mut operator, name).await {
            Known::Here(url) => return Ok(url),
            Known::Nothing => return Ok(default()),
            Known::Before(url) => url,
        };
        if answers(&before).await {
            return Ok(before);
        }
        if begun.elapsed() >= RETURN_TIMEOUT {
            return Err(peer.unreachable(
                &before,
                "nobody answers there since it lost its connection to the master",
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(operator: &mut OperatorClient<Channel>, name: &str) -> Known {
    let listed = operator.list_frameworks(ListFrameworksRequest {});
    match tokio::time::timeout(ANSWER_TIMEOUT, listed).await {
        Ok(Ok(listed)) => known(&listed.into_inner().frameworks, name),
        _ => Known::Nothing,
    }
}

fn known(frameworks: &[FrameworkView], name: &str) -> Known {
    let named = frameworks.iter().filter(|f| f.name == name);
    let serving = named.filter_map(|f| Some((f, f.webui_url.as_deref().map(base_url)?)));
    // The connected one; else the one that was there last.
    let best = serving.max_by(|(a, _), (b, _)| {
        let connected = |f: &FrameworkView| f.state == "connected";
        connected(a)
            .cmp(&connected(b))
            .then(a.since.total_cmp(&b.since))
    });
    match best {
        Some((framework, url)) if framework.state == "connected" => Known::Here(url),
        Some((_, url)) => Known::Before(url),
        None => Known::Nothing,
    }
}

/// Whether somebody listens at `http://host:port`.
async fn answers(url: &str) -> bool {
    let place = url.split_once("://").map_or(url, |(_, place)| place);
    let place = place.split('/').next().unwrap_or(place);
    let tried = tokio::time::timeout(TRY_TIMEOUT, TcpStream::connect(place)).await;
    matches!(tried, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framework(name: &str, state: &str, since: f64, url: Option<&str>) -> FrameworkView {
        FrameworkView {
            name: name.to_owned(),
            state: state.to_owned(),
            since,
            webui_url: url.map(str::to_owned),
            ..FrameworkView::default()
        }
    }

    #[test]
    fn the_connected_framework_counts_and_else_the_one_that_was_there_last() {
        let old = framework("batch", "disconnected", 1.0, Some("http://a:1/"));
        let newer = framework("batch", "disconnected", 2.0, Some("http://a:2"));
        let silent = framework("batch", "connected", 3.0, None);
        let other = framework("services", "connected", 4.0, Some("http://a:4"));
        let here = framework("batch", "connected", 0.5, Some("http://a:3"));
        let mut all = vec![other];
        assert_eq!(known(&all, "batch"), Known::Nothing);
        all.extend([newer, old, silent]);
        assert_eq!(known(&all, "batch"), Known::Before("http://a:2".to_owned()));
        all.push(here);
        assert_eq!(known(&all, "batch"), Known::Here("http://a:3".to_owned()));
    }
}
