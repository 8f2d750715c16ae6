//! A whole cluster in this process: one master, agents, both frameworks, one folder.
//!
//! - [`plan`]: what each agent may hand out.
//! - [`lock`]: one cluster per folder.
//! - [`ports`], [`machine`]: what this machine has free.
//!
//! Used by `allot local` and `allot demo`, which choose folder, ports and sizes and do the
//! talking.

pub(crate) mod lock;
pub(crate) mod machine;
pub(crate) mod plan;
pub(crate) mod ports;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use allotment_agent::Attributes;
use allotment_proto::allot::ListFrameworksRequest;
use allotment_proto::allot::operator_client::OperatorClient;
use allotment_types::{FaultDomain, Resources};
use anyhow::Context as _;
use futures_util::future::{join_all, select_all};

use crate::roles::{self, Role, make_folder};
use crate::rpc;
use lock::Lock;

/// Everything listens here: a local cluster is nobody else's.
const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Holds everything that is durable; made when missing.
    pub(crate) folder: PathBuf,
    /// Who decides who is offered what.
    pub(crate) allocator: roles::allocator::Choice,
    /// Where the master stands.
    pub(crate) domain: Option<FaultDomain>,
    /// How long a framework may hold an offer; `None`: the master's default.
    pub(crate) offer_timeout: Option<Duration>,
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
    /// What frameworks may choose it by.
    pub(crate) attributes: Attributes,
    /// Where it stands.
    pub(crate) domain: Option<FaultDomain>,
}

/// How long frameworks may take to subscribe to a master in the same process.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits until `n` frameworks are subscribed, so that "ready" means ready for work.
async fn subscribed(master: &str, n: usize) -> anyhow::Result<()> {
    let channel = rpc::connect(rpc::Peer::Master, master).await?;
    let mut operator = OperatorClient::new(channel);
    let looking = async {
        loop {
            let listed = operator.list_frameworks(ListFrameworksRequest {}).await?;
            let frameworks = listed.into_inner().frameworks;
            if frameworks.iter().filter(|f| f.state == "connected").count() >= n {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let seconds = SUBSCRIBE_TIMEOUT.as_secs();
    tokio::time::timeout(SUBSCRIBE_TIMEOUT, looking)
        .await
        .with_context(|| format!("the frameworks did not subscribe within {seconds} s"))?
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

    async fn start_roles(
        &mut self,
        settings: &Settings,
        on_ready: &mut impl FnMut(&Role) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut config = allotment_master::Config {
            listen: SocketAddr::new(IP, settings.master_port),
            domain: settings.domain.clone(),
            data_dir: settings.folder.join("master"),
            ..Default::default()
        };
        if let Some(timeout) = settings.offer_timeout {
            config.offer_timeout = timeout;
        }
        config.validate().map_err(roles::usage)?;
        let make = settings.allocator.make()?;
        let master = allotment_master::start_with(config, move || make()).await?;
        let master_url = master.url().to_owned();
        self.add(Role::Master(master), on_ready)?;
        for (agent, i) in settings.agents.iter().zip(1..) {
            let agent = allotment_agent::start(allotment_agent::Config {
                listen: SocketAddr::new(IP, agent.port),
                // A name by which people and health checks reach what tasks serve.
                hostname: Some("localhost".to_owned()),
                masters: vec![master_url.clone()],
                work_dir: settings.folder.join(format!("agent-{i}")),
                resources: Some(agent.resources.clone()),
                attributes: agent.attributes.clone(),
                domain: agent.domain.clone(),
                // A local cluster is one process, and what it started ends with it, also when it
                // is killed: nobody looks for the rest of it on a laptop.
                tasks_outlive_agent: false,
                ..Default::default()
            })
            .await
            .with_context(|| format!("agent {i} cannot start"))?;
            self.add(Role::Agent(agent), on_ready)?;
        }
        let services = allotment_services::start(allotment_services::Config {
            master: master_url.clone(),
            ip: IP,
            port: settings.services_port,
            user: roles::user(),
            // The folder's lock says so.
            alone: true,
            ..Default::default()
        })
        .await?;
        // Both are kept before anything else can fail, so that they are stopped then.
        self.roles.push(Role::Services(services));
        let batch = allotment_batch::start(allotment_batch::Config {
            listen: SocketAddr::new(IP, settings.batch_port),
            data_dir: settings.folder.join("batch"),
            masters: vec![master_url.clone()],
            user: roles::user(),
            hostname: roles::hostname(),
            alone: true,
            ..Default::default()
        })
        .await?;
        self.roles.push(Role::Batch(batch));
        subscribed(&master_url, 2).await?;
        for role in &mut self.roles {
            // One that died meanwhile tells why when it is waited for.
            role.serves().await;
        }
        self.roles.iter().rev().take(2).rev().try_for_each(on_ready)
    }

    fn add(
        &mut self,
        role: Role,
        on_ready: &mut impl FnMut(&Role) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let announced = on_ready(&role);
        self.roles.push(role);
        announced
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

    /// Ends all roles, frameworks first and the master last. Agents end together: each waits for
    /// its tasks.
    pub(crate) async fn stop(mut self) {
        for stage in [&["services", "batch"][..], &["agent"], &["master"]] {
            let ending = self
                .roles
                .extract_if(.., |role| stage.contains(&role.name()));
            join_all(ending.map(Role::stop)).await;
        }
    }
}
