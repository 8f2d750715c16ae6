//! What the cluster has: its agents, with everything and with what is free.
//!
//! For telling people why something waits. What may be launched where is told by offers alone.

use std::sync::Arc;
use std::time::Duration;

use allotment_proto::allot::operator_client::OperatorClient;
use allotment_proto::{MESSAGE_LEN_MAX, allot};
use allotment_types::{Fixed, Lot, Name, Resources, Value};
use tokio::sync::Mutex;
use tonic::transport::Channel;

use crate::channel;
use crate::config::{ConfigError, master_url};
use crate::leader;

/// Longer than a master needs; whoever asks why something waits should not wait for that too.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// One agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    /// Its id.
    pub id: String,
    /// Its host name.
    pub hostname: String,
    /// It is connected and takes part in allocation.
    pub active: bool,
    /// `name:value`, as declared.
    pub attributes: Vec<String>,
    /// Everything it has.
    pub total: Resources,
    /// What no task uses: free, or offered to somebody.
    pub unused: Resources,
}

/// A view of the cluster; cheap to clone.
#[derive(Debug, Clone)]
pub struct Cluster {
    masters: Arc<Vec<String>>,
    channel: Arc<Mutex<Option<Channel>>>,
}

impl Cluster {
    /// The cluster of these masters. Connects when it is first asked.
    ///
    /// # Errors
    /// [`ConfigError`] when no master is given or an address is malformed.
    pub fn new(masters: &[String]) -> Result<Self, ConfigError> {
        if masters.is_empty() {
            return Err(ConfigError::NoMaster);
        }
        let masters: Result<Vec<_>, _> = masters.iter().map(|m| master_url(m)).collect();
        Ok(Self {
            masters: Arc::new(masters?),
            channel: Arc::default(),
        })
    }

    /// The agents, by id.
    ///
    /// # Errors
    /// A sentence when no master answers within two seconds.
    pub async fn agents(&self) -> Result<Vec<Agent>, String> {
        let mut held = self.channel.lock().await;
        let mut reason = String::new();
        if let Some(channel) = held.take() {
            match ask(channel.clone()).await {
                Ok(agents) => {
                    *held = Some(channel);
                    return Ok(agents);
                }
                Err(error) => reason = error,
            }
        }
        for master in self.masters.iter() {
            let found = tokio::time::timeout(CALL_TIMEOUT, leader::connect(master)).await;
            let found = found.unwrap_or_else(|_| {
                let place = master.strip_prefix("http://").unwrap_or(master);
                Err(format!("master {place} does not say who leads"))
            });
            match found {
                Ok(leader) => match ask(leader.channel.clone()).await {
                    Ok(agents) => {
                        *held = Some(leader.channel);
                        return Ok(agents);
                    }
                    Err(error) => reason = error,
                },
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }
}

async fn ask(channel: Channel) -> Result<Vec<Agent>, String> {
    let mut client = OperatorClient::new(channel).max_decoding_message_size(MESSAGE_LEN_MAX);
    let asked = client.list_agents(allot::ListAgentsRequest {});
    let answer = tokio::time::timeout(CALL_TIMEOUT, asked)
        .await
        .map_err(|_| format!("no answer within {} s", CALL_TIMEOUT.as_secs()))?
        .map_err(|status| channel::status_text(&status))?;
    let mut agents: Vec<Agent> = answer.into_inner().agents.into_iter().map(agent).collect();
    agents.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(agents)
}

fn agent(view: allot::AgentView) -> Agent {
    Agent {
        active: view.state == "registered",
        total: resources(&view.total),
        unused: resources(&view.free).plus(&resources(&view.offered)),
        id: view.id,
        hostname: view.hostname,
        attributes: view.attributes,
    }
}

/// A view made for people, read back; what is reserved or a volume, and what cannot be read, is
/// left out: it is not there for everybody.
fn resources(view: &allot::ResourcesView) -> Resources {
    let mut resources = Resources::EMPTY;
    for scalar in view.scalars.iter().filter(|s| s.lot.is_none()) {
        if let Ok(amount) = Fixed::from_f64(scalar.value) {
            resources = resources.with_scalar(Name::from(scalar.name.as_str()), amount);
        }
    }
    for ranges in view.ranges.iter().filter(|r| r.lot.is_none()) {
        let text = ranges.value.trim();
        let text = match text.chars().next() {
            Some('[' | '{') => format!("x:{text}"),
            _ => format!("x:[{text}]"),
        };
        let parsed = text.parse::<Resources>().ok();
        let value: Option<Value> =
            parsed.and_then(|parsed| parsed.get(&Name::from("x"), &Lot::PLAIN).cloned());
        if let Some(value) = value {
            resources = resources.with(Name::from(ranges.name.as_str()), Lot::PLAIN, value);
        }
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_reads_back_as_the_resources_it_shows() {
        let all: Resources = "cpus:1.5; mem:64; ports:[1-2, 9-9]; tags:{a,b}"
            .parse()
            .unwrap();
        assert_eq!(
            resources(&allotment_proto::convert::resources_view(&all)),
            all
        );
    }
}
