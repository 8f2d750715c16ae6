//! A whole cluster in this process: one master, agents, both frameworks, one folder.
//!
//! - [`plan`]: what each agent may hand out.
//! - [`lock`]: one cluster per folder.
//!
//! Used by `allot local` and `allot demo`, which choose folder, ports and sizes and do the
//! talking.

pub(crate) mod lock;
pub(crate) mod machine;
pub(crate) mod plan;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use allotment_types::Resources;
use anyhow::Context as _;
use futures_util::future::select_all;

use crate::roles::{Role, make_folder};
use lock::Lock;

/// Everything listens here: a local cluster is nobody else's.
const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Holds everything that is durable; made when missing.
    pub(crate) folder: PathBuf,
    /// The master's port; 0 picks a free one, as for the others.
    pub(crate) master_port: u16,
    /// The port of the services framework.
    pub(crate) services_port: u16,
    /// The port of the batch framework.
    pub(crate) batch_port: u16,
    /// The agents, in order.
    pub(crate) agents: Vec<AgentSettings>,
}

/// One agent of the cluster.
#[derive(Debug, Clone)]
pub(crate) struct AgentSettings {
    /// Its port; 0 picks a free one.
    pub(crate) port: u16,
    /// What it hands out.
    pub(crate) resources: Resources,
    /// `name:value;name:value`, for constraints.
    pub(crate) attributes: String,
}

/// A cluster that serves.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// In the order of starting: the master first, frameworks last.
    roles: Vec<Role>,
    _lock: Lock,
}

impl Cluster {
    /// Starts all roles; `on_ready` hears of each as it begins to serve.
    ///
    /// # Errors
    /// The first role that cannot start; those before it are stopped again.
    pub(crate) async fn start(
        settings: &Settings,
        mut on_ready: impl FnMut(&Role) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        make_folder(&settings.folder)?;
        let lock = Lock::take(&settings.folder)?;
        let mut cluster = Self {
            roles: Vec::new(),
            _lock: lock,
        };
        match cluster.start_roles(settings, &mut on_ready).await {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.stop().await;
                Err(error)
            }
        }
    }

    /// Where the role of this name serves; the first one, when there are several.
    pub(crate) fn url(&self, name: &str) -> &str {
        let found = self.roles.iter().find(|role| role.name() == name);
        found.map_or("", Role::url)
    }

    /// Waits until a role dies by itself, and says why.
    pub(crate) async fn died(&mut self) -> anyhow::Error {
        let deaths = self.roles.iter_mut().map(|role| {
            Box::pin(async {
                let error = role.died().await;
                error.context(format!("the {} died", role.name()))
            })
        });
        select_all(deaths).await.0
    }

    /// Ends all roles, frameworks first and the master last.
    pub(crate) async fn stop(self) {
        for role in self.roles.into_iter().rev() {
            role.stop().await;
        }
    }
}
