//! Everything around the core that touches the world: sockets, disk and clock.
//!
//! [`start`] opens the folder (`folder`), joins a cluster if told to (`join`), binds the port, and
//! runs two loops: `replica` owns this master's copy of the registry and decides with the other
//! masters who leads; `turn` owns the core while this one does (`reign`). Beside them a server
//! (`grpc`, `http`, `masters`) whose connections talk to the loops through bounded queues
//! (`outbox`). What to do is decided in [`crate::core`] and [`crate::replica`].

mod clock;
mod earlier;
mod folder;
mod grpc;
mod http;
mod join;
mod masters;
mod outbox;
mod pace;
mod replica;
mod store;
mod turn;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use allotment_allocator::{Allocator, Drf};
use allotment_proto::convert::domain_to_wire;
use allotment_proto::{VERSION, mesos};
use allotment_raft::MemberError;
use allotment_raft::store::StoreError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::config::{Config, ConfigError};
use crate::core::CoreConfig;
use clock::Clock;
use folder::{Folder, Home};
pub use folder::{RegistryError, restore};
use grpc::Door;
pub use join::JoinError;
use masters::Desk;
use replica::{Credentials, Handle, Parts, RaftThread, ToReplica};
use turn::{Event, Loop};

/// A window of 1 MiB a stream and 4 MiB a connection lets a burst of launches or updates through
/// without a round trip for every 64 KiB.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Half-open connections are found by pings of HTTP/2.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long another master may take to take over at a clean stop; less than it would need to find
/// out by itself.
const RESIGN_GRACE: Duration = Duration::from_millis(500);
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
    /// The cluster cannot be joined.
    #[error("this master cannot join the cluster")]
    Join(#[source] JoinError),
    /// A part of the master ended while it was starting.
    #[error("the master died while starting: {0}")]
    Died(String),
}

/// Why a running master ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// What must be durable cannot be written.
    #[error(
        "the master stops because its registry cannot be written; see to its disk and start it \
         again: nothing that it acknowledged is lost"
    )]
    Log(#[source] StoreError),
    /// The copy of the registry contradicts what the other masters have.
    #[error("the master stops because its copy of the registry cannot be trusted")]
    Member(#[source] MemberError),
    /// An operator removed it.
    #[error(
        "this master was removed from the cluster; start it with --join to come back as a new one"
    )]
    Removed,
    /// A part of it died; a bug.
    #[error("the master died: {0}")]
    Died(String),
}

/// A master that serves. Dropping it ends it at once, as a crash would.
#[derive(Debug)]
pub struct Running {
    url: String,
    secret: Option<String>,
    events: mpsc::Sender<Event>,
    handle: Handle,
    shutdown: Option<oneshot::Sender<()>>,
    core: JoinHandle<Result<(), RunError>>,
    replica: JoinHandle<Result<(), RunError>>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    _raft: RaftThread,
}

/// Starts a master with the default allocation module; returns once it serves. One that is alone
/// leads by then; others serve as soon as they can say who leads.
///
/// # Errors
/// [`StartError`] when the settings contradict each other, the port is taken, the data folder
/// cannot be used or the cluster cannot be joined.
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
    let (folder, found, secret) = open(&config).await?;
    let bind = |source| StartError::Bind {
        listen: config.listen,
        source,
    };
    let listener = listen(config.listen).map_err(bind)?;
    let bound = listener.local_addr().map_err(bind)?;
    let host = advertised_host(&config, bound);
    let address = format!("{host}:{}", bound.port());
    let home = if config.join.is_empty() {
        match found {
            Some(home) => home,
            None => folder.begin_alone(&address)?,
        }
    } else {
        join::join(&folder, found, &config.join, &address, secret.clone())
            .await
            .map_err(StartError::Join)?
    };

    let clock = Clock::start();
    let credentials = Credentials {
        cluster_id: home.identity.cluster_id.clone(),
        secret: secret.clone(),
        id: home.identity.id(),
        address: address.clone(),
    };
    let parts = Parts {
        clock,
        folder,
        home,
        credentials: credentials.clone(),
        election_timeout: config.election_timeout,
    };
    let raft = RaftThread::start().map_err(|source| RegistryError::Thread { source })?;
    let (replica, handle, news) = raft.within(|| replica::prepare(parts))?;
    let alone = handle.view.borrow().alone;
    let replica = raft.spawn(replica.run());
    let (events, queue) = mpsc::channel(turn::QUEUE_MAX);
    let turns = Loop::new(
        clock,
        core_config(&config, &host, bound),
        Box::new(make),
        handle.lease.clone(),
        handle.inbox.clone(),
    );
    let core = tokio::spawn(turns.run(queue, news));

    let (shutdown, asked_to_stop) = oneshot::channel::<()>();
    let door = Door::new(events.clone(), handle.view.clone(), &credentials);
    let desk = Desk::new(handle.clone(), credentials);
    let routes = tonic::service::Routes::from(http::router(door, desk));
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
    let mut running = Running {
        url: format!("http://{address}"),
        secret,
        events,
        handle,
        shutdown: Some(shutdown),
        core,
        replica,
        server,
        _raft: raft,
    };
    if alone {
        running.led().await?;
    }
    Ok(running)
}

/// The folder with what is in it, and the secret.
async fn open(config: &Config) -> Result<(Folder, Option<Home>, Option<String>), StartError> {
    let (data_dir, given) = (config.data_dir.clone(), config.secret.clone());
    let bootstrap = config.bootstrap;
    let opened = tokio::task::spawn_blocking(move || {
        let folder = Folder::lock(&data_dir)?;
        let secret = if bootstrap {
            Some(folder.make_secret(given.as_deref())?)
        } else {
            folder.secret(given.as_deref())?
        };
        let found = folder.open()?;
        Ok((folder, found, secret))
    });
    opened
        .await
        .map_err(|join| StartError::Died(join.to_string()))?
        .map_err(StartError::Registry)
}

/// Agents and frameworks that lose their leader come to another master in one instant. Those that
/// find the kernel's queue full try again only after a second, so it is as long as the kernel
/// allows (`net.core.somaxconn`).
const BACKLOG: u32 = 65_535;

fn listen(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    // A master that restarts finds its port free although connections of the old one linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
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
        domain: config.domain.as_ref().map(domain_to_wire),
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

    /// Whether others may join, because there is a secret.
    pub fn is_joinable(&self) -> bool {
        self.secret.is_some()
    }

    /// Waits until this master leads.
    async fn led(&mut self) -> Result<(), StartError> {
        let mut view = self.handle.view.clone();
        tokio::select! {
            // An error means that the replica ended, which the other arm tells.
            Ok(_) = view.wait_for(|view| view.leading) => Ok(()),
            ended = &mut self.replica => Err(StartError::Died(match ended {
                Ok(Ok(())) => "its replica ended".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(join) => join.to_string(),
            })),
        }
    }

    /// Stops cleanly: another master leads if there is one, frameworks and agents see their
    /// streams end and keep their state, and all that was agreed on is on the disk.
    pub async fn stop(mut self) {
        self.resign().await;
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
        let (done, written) = oneshot::channel();
        if self.handle.inbox.send(ToReplica::Stop(done)).await.is_ok() {
            // An error means that the replica is gone already.
            let _ = written.await;
        }
    }

    /// Another master need not wait for an election timeout.
    async fn resign(&self) {
        let mut view = self.handle.view.clone();
        let others = {
            let view = view.borrow();
            view.leading && !view.alone
        };
        if !others || self.handle.inbox.send(ToReplica::Resign).await.is_err() {
            return;
        }
        // With nobody who answers it leads to its end.
        let _ = tokio::time::timeout(RESIGN_GRACE, view.wait_for(|view| !view.leading)).await;
    }

    /// Returns only when the master ends by itself, with the reason.
    pub async fn wait(&mut self) -> RunError {
        let why = |ended: Result<Result<(), RunError>, tokio::task::JoinError>| match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(join) => Some(RunError::Died(join.to_string())),
        };
        tokio::select! {
            // The replica knows best: the core's loop ends with it.
            biased;
            ended = &mut self.replica => {
                why(ended).unwrap_or_else(|| RunError::Died("its replica ended".to_owned()))
            }
            ended = &mut self.core => match why(ended) {
                Some(error) => error,
                // It ends with its replica, which is about to say why.
                None => match tokio::time::timeout(STOP_GRACE, &mut self.replica).await {
                    Ok(ended) => why(ended)
                        .unwrap_or_else(|| RunError::Died("its replica ended".to_owned())),
                    Err(_) => RunError::Died("its loop ended".to_owned()),
                },
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
        self.replica.abort();
        self.server.abort();
    }
}
