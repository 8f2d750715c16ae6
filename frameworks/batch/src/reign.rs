//! Of several batch processes with one data folder one has the queue; the life of this one.
//!
//! The lock of the database decides: whoever has it open serves, and a process that stands still
//! keeps it. The election over a key of the masters' store says who is to open it next, where
//! clients find it, and lets a process go that others have given up on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use allotment_framework_sdk::{self as sdk, Cluster, Election, Scheduler, Standing};
use allotment_types::FrameworkId;
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use crate::clock;
use crate::config::{Config, FAILOVER_TIMEOUT};
use crate::core::record::Durable;
use crate::core::{Core, Settings};
use crate::edge::serve::Server;
use crate::edge::spool::Spool;
use crate::edge::standby::Stage;
use crate::edge::transfer::Transfers;
use crate::edge::{self, Edge};
use crate::metrics::Metrics;
use crate::running::Died;
use crate::store::{Store, StoreError};

/// How often a lock that another process has is tried.
const LOCK_RETRY: Duration = Duration::from_millis(200);

/// The queue, open for this process alone.
pub(crate) type Opened = (Store, Durable);

/// What every reign of this process begins with.
pub(crate) struct Process {
    pub(crate) config: Config,
    pub(crate) cluster: Arc<Cluster>,
    /// Where others reach it, `http://host:port`.
    pub(crate) advertised: String,
    pub(crate) stage: watch::Sender<Stage>,
}

/// Why a reign ended.
enum End {
    Stopped,
    /// Another process waits for the queue.
    Deposed(String),
}

impl Process {
    pub(crate) fn subscription(&self, framework: Option<FrameworkId>) -> sdk::Config {
        let config = &self.config;
        sdk::Config {
            masters: config.masters.clone(),
            name: config.name.clone(),
            user: config.user.clone(),
            roles: vec![config.role.clone()],
            framework_id: framework,
            failover_timeout: FAILOVER_TIMEOUT,
            webui_url: Some(self.advertised.clone()),
            suppressed: true,
            // A turn acknowledges and launches thousands of tasks without waiting for room.
            calls_max: 65_536,
            ..sdk::Config::default()
        }
    }

    pub(crate) async fn open(&self) -> Result<Opened, StoreError> {
        let (folder, history_max) = (self.config.data_dir.clone(), self.config.history_max);
        let opening = tokio::task::spawn_blocking(move || Store::open(&folder, history_max));
        opening.await.unwrap_or_else(|error| {
            Err(StoreError::Io {
                what: "cannot open",
                path: self.config.data_dir.clone(),
                source: std::io::Error::other(error),
            })
        })
    }

    /// Serves when it may and stands by when it may not, until it is told to stop.
    ///
    /// # Errors
    /// Why it cannot go on.
    pub(crate) async fn live(
        self,
        mut election: Election,
        mut opened: Option<Opened>,
        mut stop: oneshot::Receiver<()>,
    ) -> Result<(), Died> {
        let ended = loop {
            if let Standing::Follows(leader) = election.standing() {
                // It may be waiting for the lock.
                drop(opened.take());
                let leader = leader.url;
                info!(
                    leader,
                    "another process serves this queue; this one stands by"
                );
                self.stage.send_replace(Stage::Standby(leader));
                tokio::select! {
                    _ = election.changed() => continue,
                    _ = &mut stop => break Ok(()),
                }
            }
            let queue = match opened.take() {
                Some(queue) => queue,
                None => match self.open().await {
                    Ok(queue) => queue,
                    Err(error) if error.is_in_use() => {
                        self.wait();
                        tokio::select! {
                            () = tokio::time::sleep(LOCK_RETRY) => continue,
                            _ = &mut stop => break Ok(()),
                        }
                    }
                    Err(error) => {
                        let reason = error.to_string();
                        break Err(Died { reason });
                    }
                },
            };
            match self.reign(queue, &mut election, &mut stop).await {
                Ok(End::Stopped) => break Ok(()),
                Ok(End::Deposed(leader)) => {
                    warn!(
                        leader,
                        "another process was elected; this one gives the queue up"
                    );
                }
                Err(died) => break Err(died),
            }
        };
        election.leave().await;
        ended
    }

    /// The lock is not free.
    fn wait(&self) {
        let reason = format!(
            "another process keeps the lock of {} although this one may have the queue: it stands \
             still, cannot reach the masters, or its machine just died; wake or end it, and this \
             one takes over",
            self.config.data_dir.display()
        );
        self.stage.send_if_modified(|stage| {
            let known = matches!(stage, Stage::Waiting(known) if *known == reason);
            if !known {
                warn!(reason, "the queue cannot be taken over yet");
                *stage = Stage::Waiting(reason);
            }
            !known
        });
    }

    /// Serves the queue until another process is to do so.
    async fn reign(
        &self,
        (store, durable): Opened,
        election: &mut Election,
        stop: &mut oneshot::Receiver<()>,
    ) -> Result<End, Died> {
        let config = &self.config;
        let framework = Arc::new(Mutex::new(durable.framework.clone()));
        let subscription = self.subscription(durable.framework.clone());
        let settings = Settings {
            hostname: config.hostname.clone(),
            default_memory_mib: config.default_memory_mib,
            queue_max: config.queue_max,
            zone: jiff::tz::TimeZone::system(),
            seed: uuid::Uuid::new_v4().as_u64_pair().0,
            role: config.role.clone(),
        };
        let core = Core::recover(settings, durable, clock::now());
        let scheduler = Scheduler::connect(subscription).map_err(|error| Died {
            reason: error.to_string(),
        })?;
        let (requests, received) = edge::requests();
        let metrics = Arc::new(Metrics::new());
        metrics.update(&core);
        let spool = Arc::new(Spool::new(self.advertised.clone()));
        let server = Server {
            requests,
            reader: store.reader(),
            framework: Arc::clone(&framework),
            cluster: Arc::clone(&self.cluster),
            spool: Arc::clone(&spool),
            metrics: Arc::clone(&metrics),
            default_memory_mib: config.default_memory_mib,
        };
        let edge = Edge {
            core,
            store,
            scheduler,
            requests: received,
            transfers: Transfers::new(Arc::clone(&framework)),
            framework,
            spool,
            metrics,
        };
        self.stage.send_replace(Stage::Serving(server.router()));
        let (end, ended) = oneshot::channel();
        let mut serving = std::pin::pin!(edge.run(ended));
        let why = tokio::select! {
            ended = &mut serving => return ended.map(|()| End::Stopped),
            leader = election.follows() => End::Deposed(leader.url),
            _ = stop => End::Stopped,
        };
        let giving_up = "the queue is given up".to_owned();
        self.stage.send_replace(Stage::Waiting(giving_up));
        let _ = end.send(());
        serving.await?;
        Ok(why)
    }
}
