//! Which cluster a command talks to and how it answers.

use allotment_proto::allot::masters_client::MastersClient;
use allotment_proto::allot::operator_client::OperatorClient;
use tonic::transport::Channel;

use crate::discover;
use crate::exit::Failure;
use crate::output::Format;
use crate::rpc::{self, Peer};

/// Where the help of every command lists what all commands share.
pub(crate) const COMMON: &str = "Common options";

/// Flags that every command takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Connection {
    /// The masters' addresses, separated by commas; any one of them leads to the rest
    #[arg(
        long,
        global = true,
        help_heading = COMMON,
        env = "ALLOT_MASTER",
        default_value = "http://127.0.0.1:5050",
        value_name = "URL"
    )]
    pub(crate) master: String,

    /// The services framework's address [default: what the master knows, else
    /// http://127.0.0.1:8080]
    #[arg(long, global = true, help_heading = COMMON, env = "ALLOT_SERVICES", value_name = "URL")]
    pub(crate) services: Option<String>,

    /// The batch framework's address [default: what the master knows, else http://127.0.0.1:9618]
    #[arg(long, global = true, help_heading = COMMON, env = "ALLOT_BATCH", value_name = "URL")]
    pub(crate) batch: Option<String>,

    /// How to print the answer
    #[arg(
        long,
        short,
        global = true,
        help_heading = COMMON,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
}

/// What a command needs beside its own arguments.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The masters' addresses, `http://host:port` without a slash at the end, with commas between.
    pub(crate) master: String,
    /// The same as a list.
    pub(crate) masters: Vec<String>,
    /// How to print listings and single things.
    pub(crate) output: Format,
    services: Option<String>,
    batch: Option<String>,
}

impl Context {
    pub(crate) fn new(connection: Connection) -> Self {
        let given = connection.master.split(',').map(str::trim);
        let masters: Vec<String> = given.filter(|m| !m.is_empty()).map(base_url).collect();
        Self {
            master: masters.join(","),
            masters,
            output: connection.output,
            services: connection.services.as_deref().map(base_url),
            batch: connection.batch.as_deref().map(base_url),
        }
    }

    /// Where the services framework serves, without a slash at the end.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] when it served where the master says, and does not any more.
    pub(crate) async fn services_url(&self) -> Result<String, Failure> {
        match &self.services {
            Some(url) => Ok(url.clone()),
            None => discover::framework(self, Peer::Services, "services", 8080).await,
        }
    }

    /// Where the batch framework serves, without a slash at the end.
    ///
    /// # Errors
    /// As [`Self::services_url`].
    pub(crate) async fn batch_url(&self) -> Result<String, Failure> {
        match &self.batch {
            Some(url) => Ok(url.clone()),
            None => discover::framework(self, Peer::Batch, "batch", 9618).await,
        }
    }

    /// A client of the master's operator API.
    pub(crate) async fn operator(&self) -> anyhow::Result<OperatorClient<Channel>> {
        let channel = rpc::leader(&self.masters).await?;
        Ok(
            OperatorClient::new(channel)
                .max_decoding_message_size(allotment_proto::MESSAGE_LEN_MAX),
        )
    }

    /// A client of the leading master's membership API.
    pub(crate) async fn leading_master(&self) -> anyhow::Result<MastersClient<Channel>> {
        Ok(MastersClient::new(rpc::leader(&self.masters).await?))
    }

    /// What a call that the master refused means for the user.
    pub(crate) fn refused(&self, status: &tonic::Status) -> anyhow::Error {
        rpc::refused(Peer::Master, &self.master, status)
    }
}

/// `host:port`, `http://host:port/` and `http://host:port` are one address.
pub(crate) fn base_url(given: &str) -> String {
    let trimmed = given.trim_end_matches('/');
    if trimmed.contains("://") {
        trimmed.to_owned()
    } else {
        format!("http://{trimmed}")
    }
}

#[cfg(test)]
mod tests {
    use super::base_url;

    #[test]
    fn an_address_may_come_without_scheme_or_with_a_slash() {
        for given in [
            "10.0.0.1:5050",
            "http://10.0.0.1:5050/",
            "http://10.0.0.1:5050",
        ] {
            assert_eq!(base_url(given), "http://10.0.0.1:5050");
        }
    }
}
