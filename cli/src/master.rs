//! `allot master list` and its siblings: the masters of a cluster, and the registry they keep.

mod check;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use allotment_proto::allot::change_masters_request::Change;
use allotment_proto::allot::masters_client::MastersClient;
use allotment_proto::allot::{
    AddMaster, BackupRequest, ChangeMastersRequest, GetMasterStatusRequest, MasterStatus,
    MasterView,
};
use anyhow::Context as _;

use crate::context::{Context, base_url};
use crate::exit::Failure;
use crate::output::{self, Cell, Row, Tone, Watch};
use crate::rpc::{self, Peer};

/// Commands about masters.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the masters
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        watch: Watch,
    },
    /// Note a master that will join, as a learner
    Add {
        /// Where it will serve, host:port
        address: String,
        /// Keep it a learner until it is promoted
        #[arg(long)]
        learner: bool,
    },
    /// Remove a master for good; its folder is worth nothing from then on
    #[command(visible_alias = "rm")]
    Remove {
        /// Its address or id
        master: String,
    },
    /// Make a learner vote
    Promote {
        /// Its address or id
        master: String,
    },
    /// Say whether the cluster is healthy and how many masters may fail (exit code 1: not healthy)
    Check,
    /// Write the whole registry into a file
    Backup {
        /// The file; - for standard output
        file: PathBuf,
    },
    /// Make a registry from a backup, for the first master of a new cluster
    Restore {
        /// The backup
        file: PathBuf,
        /// Folder of the new registry [default: allot/master in $XDG_STATE_HOME, which is
        /// ~/.local/state unless set]
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
}

/// Runs the command.
pub(crate) async fn run(ctx: &Context, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List { watch } => {
            output::listing(ctx.output, watch, async || masters(ctx).await).await?;
        }
        Command::Add { address, learner } => {
            let add = AddMaster {
                address,
                keep_learner: learner,
            };
            change(ctx, Change::Add(add)).await?;
        }
        Command::Remove { master } => change(ctx, Change::Remove(bare(&master))).await?,
        Command::Promote { master } => change(ctx, Change::Promote(bare(&master))).await?,
        Command::Check => return check(ctx).await,
        Command::Backup { file } => backup(ctx, file).await?,
        Command::Restore { file, data } => restore(file, data).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Addresses are named as listings print them.
fn bare(master: &str) -> String {
    let master = master.trim_end_matches('/');
    master.strip_prefix("http://").unwrap_or(master).to_owned()
}

async fn masters(ctx: &Context) -> anyhow::Result<Vec<MasterView>> {
    let mut client = ctx.leading_master().await?;
    let answer = client.get_status(GetMasterStatusRequest {}).await;
    let status = answer.map_err(|status| ctx.refused(&status))?;
    Ok(status.into_inner().masters)
}

async fn change(ctx: &Context, change: Change) -> anyhow::Result<()> {
    let mut client = ctx.leading_master().await?;
    let request = ChangeMastersRequest {
        change: Some(change),
    };
    let answer = client.change(request).await;
    let answer = answer.map_err(|status| match status.code() {
        // Not that the master cannot be reached: it says why it would not.
        tonic::Code::Unavailable => anyhow::anyhow!(status.message().to_owned()),
        _ => ctx.refused(&status),
    })?;
    output::line(&answer.into_inner().message)
}

/// A master that takes longer is of no use to the others either.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

async fn status_of(url: &str) -> Result<MasterStatus, String> {
    let asked = async {
        let channel = rpc::connect(Peer::Master, url)
            .await
            .map_err(|failure| failure.to_string())?;
        let mut client = MastersClient::new(channel);
        let answer = client.get_status(GetMasterStatusRequest {}).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| status.message().to_owned())
    };
    let asked = tokio::time::timeout(STATUS_TIMEOUT, asked).await;
    asked.unwrap_or_else(|_| Err(format!("no answer within {} s", STATUS_TIMEOUT.as_secs())))
}

async fn check(ctx: &Context) -> anyhow::Result<ExitCode> {
    let mut found = Err(Failure::Usage("no master is named".to_owned()));
    for master in &ctx.masters {
        found = status_of(master).await.map_err(Failure::Unreachable);
        if found.is_ok() {
            break;
        }
    }
    let first = found?;
    let mut answers = Vec::new();
    for master in &first.masters {
        answers.push((master.clone(), status_of(&base_url(&master.address)).await));
    }
    let verdict = check::verdict(&first, &answers);
    for line in &verdict.lines {
        output::line(line)?;
    }
    Ok(if verdict.healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn backup(ctx: &Context, file: PathBuf) -> anyhow::Result<()> {
    let mut client = ctx.leading_master().await?;
    let answer = client.backup(BackupRequest {}).await;
    let mut chunks = answer.map_err(|status| ctx.refused(&status))?.into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks
        .message()
        .await
        .map_err(|status| ctx.refused(&status))?
    {
        bytes.extend_from_slice(&chunk.data);
    }
    if file.as_os_str() == "-" {
        return output::bytes(&bytes);
    }
    // Whole or not at all, so that a backup is never a part of one.
    let mut unfinished = file.clone().into_os_string();
    unfinished.push(".new");
    let written = std::fs::File::create(&unfinished)
        .and_then(|mut out| {
            out.write_all(&bytes)?;
            out.sync_all()
        })
        .and_then(|()| std::fs::rename(&unfinished, &file));
    written.with_context(|| format!("cannot write {}", file.display()))?;
    output::line(&format!("{} bytes in {}", bytes.len(), file.display()))
}

async fn restore(file: PathBuf, data: Option<PathBuf>) -> anyhow::Result<()> {
    let data = data.map_or_else(|| crate::roles::state_folder("master"), Ok)?;
    let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let folder = data.clone();
    let restored = tokio::task::spawn_blocking(move || {
        // It notes its real address as soon as it serves.
        allotment_master::restore(&folder, bytes, "127.0.0.1:5050")
    });
    restored.await??;
    output::line(&format!(
        "the registry is in {}; start it with `allot master --bootstrap --data {}`, and let the \
         other masters join with empty folders",
        data.display(),
        data.display()
    ))
}

impl Row for MasterView {
    const COLUMNS: &'static [&'static str] = &["ID", "ADDRESS", "ROLE", "STATE", ">ENTRY"];

    fn cells(&self) -> Vec<Cell> {
        let state = match (self.leader, self.active) {
            (true, _) => Cell::new("leads", Tone::Good),
            (false, Some(true)) => Cell::new("follows", Tone::Plain),
            (false, Some(false)) => Cell::new("silent", Tone::Bad),
            (false, None) => Cell::new("-", Tone::Plain),
        };
        let entry = self
            .matched
            .map_or_else(|| "-".to_owned(), |n| n.to_string());
        vec![
            format!("{:x}", self.id).into(),
            self.address.as_str().into(),
            self.role.as_str().into(),
            state,
            entry.into(),
        ]
    }
}
