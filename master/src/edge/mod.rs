//! Everything around the core that touches the world: sockets, disk and clock.
//!
//! [`start`] opens the registry, binds the port, and runs one loop that owns the core (`turn`)
//! beside a server (`grpc`, `http`) whose connections talk to the loop through bounded queues
//! (`outbox`). What to do is decided in [`crate::core`].

mod clock;
mod disk;
mod grpc;
mod http;
mod outbox;
mod turn;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use allotment_allocator::{Allocator, Drf};
use allotment_proto::{VERSION, mesos};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::config::{Config, ConfigError};
use crate::core::{Core, CoreConfig};
use clock::Clock;
use disk::Disk;
pub use disk::RegistryError;
use grpc::Door;
use turn::{Event, Loop};

/// A window of 1 MiB a stream and 4 MiB a connection lets a burst of launches or updates through
/// without a round trip for every 64 KiB.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Half-open connections are found by pings of HTTP/2.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long connections may take to close at a clean stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Why a master did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict each other.
    #[error("the master's settings do not go together")]
    Config(#[source] ConfigError),
    /// The registry cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The port cannot be had.
    #[error(
        "the master cannot listen on {listen}; stop what listens there or choose another port \
         (0 takes a free one)"
    )]
    Bind {
        /// The address asked for.
        listen: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A part of the master ended while it was starting.
    #[error("the master died while starting: {0}")]
    Died(String),
}

/// Why a running master ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// What must be durable cannot be written.
    #[error("the master stops because its registry cannot be written")]
    Registry(#[source] RegistryError),
    /// A part of it died; a bug.
    #[error("the master died: {0}")]
    Died(String),
}

/// A master that serves. Dropping it ends it at once, as a crash would.
#[derive(Debug)]
pub struct Running {
    url: String,
    events: mpsc::Sender<Event>,
    shutdown: Option<oneshot::Sender<()>>,
    core: JoinHandle<Result<(), RunError>>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// Starts a master with the default allocation module; returns once it serves.
///
/// # Errors
/// [`StartError`] when the settings contradict each other, the port is taken or the data folder
/// cannot be used.
pub async fn start(config: Config) -> Result<Running, StartError> {
    start_with(config, || Box::new(Drf::default())).await
}

/// The same with another module: `make` gives a fresh one whenever this master begins to decide.
///
/// # Errors
/// As [`start`].
pub async fn start_with(
    config: Config,
    make: impl Fn() -> Box<dyn Allocator> + Send + Sync + 'static,
) -> Result<Running, StartError> {
    config.validate().map_err(StartError::Config)?;
    let folder = config.data_dir.clone();
    let opened = tokio::task::spawn_blocking(move || Disk::open(&folder)).await;
    let (disk, registry) = opened.map_err(|join| StartError::Died(join.to_string()))??;
    let bind = |source| StartError::Bind {
        listen: config.listen,
        source,
    };
    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let host = advertised_host(&config, address);
    let url = format!("http://{host}:{}", address.port());

    let clock = Clock::start();
    let core = Core::new(
        core_config(&config, &host, address),
        clock.now(),
        registry,
        make(),
    );
    let (events, queue) = mpsc::channel(turn::QUEUE_MAX);
    let core = tokio::spawn(Loop::new(clock, core, disk).run(queue));

    let (shutdown, asked_to_stop) = oneshot::channel::<()>();
    let routes = tonic::service::Routes::from(http::router(Door::new(events.clone())));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, async {
            // Dropping the sender stops the server, too.
            let _ = asked_to_stop.await;
        });
    let server = tokio::spawn(serving);
    Ok(Running {
        url,
        events,
        shutdown: Some(shutdown),
        core,
        server,
    })
}

fn advertised_host(config: &Config, address: SocketAddr) -> String {
    if let Some(hostname) = &config.hostname {
        return hostname.clone();
    }
    match address.ip() {
        ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn core_config(config: &Config, host: &str, address: SocketAddr) -> CoreConfig {
    let ip = match address.ip() {
        IpAddr::V4(ip) if !ip.is_unspecified() => ip,
        IpAddr::V4(_) | IpAddr::V6(_) => Ipv4Addr::LOCALHOST,
    };
    let port = address.port();
    let info = mesos::MasterInfo {
        id: uuid::Uuid::new_v4().to_string(),
        // In network order, whatever the machine's own.
        ip: u32::from_ne_bytes(ip.octets()),
        port: port.into(),
        pid: Some(format!("master@{ip}:{port}")),
        hostname: Some(host.to_owned()),
        version: Some(VERSION.to_owned()),
        address: Some(mesos::Address {
            hostname: Some(host.to_owned()),
            ip: Some(ip.to_string()),
            port: port.into(),
        }),
        domain: None,
    };
    CoreConfig {
        info,
        heartbeat_interval: config.heartbeat_interval,
        agent_ping_interval: config.agent_ping_interval,
        agent_ping_misses: config.agent_ping_misses,
        agent_timeout: config.agent_timeout,
        offer_timeout: config.offer_timeout,
        allocation_coalesce: config.allocation_coalesce,
        allocation_interval: config.allocation_interval,
    }
}

impl Running {
    /// Where it serves, `http://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops cleanly: frameworks and agents see their streams end and keep their state.
    pub async fn stop(mut self) {
        let (done, stopped) = oneshot::channel();
        if self.events.send(Event::Stop(done)).await.is_ok() {
            // An error means that the loop is gone already.
            let _ = stopped.await;
        }
        drop(self.shutdown.take());
        // One that has ended may have been awaited by `wait` already.
        if !self.server.is_finished()
            && tokio::time::timeout(STOP_GRACE, &mut self.server)
                .await
                .is_err()
        {
            tracing::debug!("connections were still open at the stop and are cut");
        }
    }

    /// Returns only when the master ends by itself, with the reason.
    pub async fn wait(&mut self) -> RunError {
        tokio::select! {
            ended = &mut self.core => match ended {
                Ok(Ok(())) => RunError::Died("its loop ended".to_owned()),
                Ok(Err(error)) => error,
                Err(join) => RunError::Died(join.to_string()),
            },
            ended = &mut self.server => match ended {
                Ok(Ok(())) => RunError::Died("its server ended".to_owned()),
                Ok(Err(error)) => RunError::Died(error.to_string()),
                Err(join) => RunError::Died(join.to_string()),
            },
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.core.abort();
        self.server.abort();
    }
}
