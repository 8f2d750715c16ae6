//! `allot demo`: a local cluster that does the main job in front of the user's eyes.
//!
//! - [`screen`]: what a person sees.
//! - [`story`]: the cluster's events, told while something is awaited.
//! - [`service`] and [`batch`]: the two halves of the job, each with its checks.
//! - [`files`]: the examples that are submitted, shipped inside the binary.
//!
//! It uses what users use: `allot app add`, `allot job submit` and the public APIs.

mod batch;
mod files;
mod screen;
mod service;
mod story;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use allotment_proto::allot::ListAgentsRequest;
use allotment_types::{Fixed, Name, Ranges, Resources};
use anyhow::Context as _;

use crate::cluster::{AgentSettings, Cluster, Settings, ports};
use crate::context::{Connection, Context};
use crate::output::Format;
use crate::roles::{Role, make_folder};
use crate::{output, signals};
use screen::Screen;
use story::Story;

/// Arguments of `allot demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Stop at the end instead of staying up; exit with 0 only if every check held
    #[arg(long)]
    exit: bool,
    /// Folder to work in, which is kept [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Cores and MiB of memory of the three agents: different, so that it matters who is offered
/// what, and small, so that any machine can keep the promise for the demo's small tasks.
const AGENTS: [(u64, u64); 3] = [(1, 1024), (2, 1536), (2, 2048)];

/// Ports that each agent offers.
const PORTS_EACH: u16 = 10;

/// Runs the demo.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut ended = std::pin::pin!(signals::ended()?);
    let temporary = tempfile::Builder::new()
        .prefix("allot-demo-")
        .tempdir()
        .context("cannot make a temporary folder; choose one with --data")?;
    let folder = match &args.data {
        Some(folder) => {
            make_folder(folder)?;
            folder.canonicalize()?
        }
        None => temporary.path().to_owned(),
    };
    let screen = Screen::new();
    screen.section(&format!("Allotment {}", env!("CARGO_PKG_VERSION")));
    screen.say(&format!(
        "a cluster of one machine, in {}",
        folder.display()
    ));
    let settings = settings(folder.join("cluster"))?;
    let mut missing_walls = None;
    let on_ready = |role: &Role| {
        screen.say(&format!("{:9} {}", role.name(), role.url()));
        missing_walls = missing_walls.take().or_else(|| role.missing_walls());
        Ok(())
    };
    let mut cluster = tokio::select! {
        cluster = Cluster::start(&settings, on_ready) => cluster?,
        () = &mut ended => return Ok(ExitCode::SUCCESS),
    };
    if let Some(missing_walls) = missing_walls {
        screen.say(&missing_walls);
    }
    let ctx = Context::new(Connection {
        master: cluster.url("master").to_owned(),
        services: Some(cluster.url("services").to_owned()),
        batch: Some(cluster.url("batch").to_owned()),
        output: Format::Table,
    });
    let outcome = tokio::select! {
        outcome = show(&ctx, screen, &folder, args.exit) => outcome,
        error = cluster.died() => Err(error),
        () = &mut ended => {
            output::line("\nStopping: tasks first, then the cluster")?;
            Ok(ExitCode::SUCCESS)
        }
    };
    // Frameworks first; agents then end every task, and nothing is left behind.
    cluster.stop().await;
    outcome
}

fn settings(folder: PathBuf) -> anyhow::Result<Settings> {
    let blocks = ports::free(AGENTS.len(), PORTS_EACH)?;
    let agents = AGENTS
        .iter()
        .zip(blocks)
        .map(|((cpus, mem), (begin, end))| {
            let ports = Ranges::new([(begin.into(), end.into())]);
            AgentSettings {
                port: 0,
                resources: Resources::cpus_mem(Fixed::units(*cpus), Fixed::units(*mem))
                    .with_scalar(Name::DISK, Fixed::units(1024))
                    .with_ranges(Name::PORTS, ports),
                attributes: allotment_agent::Attributes::default(),
                domain: None,
            }
        });
    Ok(Settings {
        allocator: crate::roles::allocator::Choice::default(),
        domain: None,
        offer_timeout: None,
        folder,
        master_port: 0,
        services_port: 0,
        batch_port: 0,
        agents: agents.collect(),
    })
}

/// The story from the first agent to the verdict; without `exit` it then waits for ever.
async fn show(
    ctx: &Context,
    screen: Screen,
    folder: &Path,
    exit: bool,
) -> anyhow::Result<ExitCode> {
    let files = folder.join("examples");
    files::write(&files)?;
    let mut story = Story::begin(ctx, screen, &files).await?;
    agents_register(&mut story).await?;
    service::tell(&mut story).await?;
    batch::tell(&mut story).await?;
    let held = verdict(&mut story);
    if exit {
        return Ok(if held {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    invite(&story, ctx).await;
    std::future::pending().await
}

async fn agents_register(story: &mut Story) -> anyhow::Result<()> {
    story
        .screen
        .section("Agents register and declare what they have");
    let mut operator = story.ctx.operator().await?;
    let registered = story
        .until("three agents to register", async {
            loop {
                let listed = operator.list_agents(ListAgentsRequest {}).await?;
                let agents = listed.into_inner().agents;
                if agents.iter().filter(|a| a.state == "registered").count() == AGENTS.len() {
                    return Ok(agents);
                }
                story::pause().await;
            }
        })
        .await;
    let agents = match registered {
        Ok(agents) => agents,
        Err(error) => {
            story.screen.check(Err(format!("{error:#}")));
            return Ok(());
        }
    };
    for agent in &agents {
        let attributes = agent.attributes.join(", ");
        let resources = crate::view::resources(&agent.total);
        story
            .screen
            .say(&format!("{}  {resources}  [{attributes}]", agent.url));
    }
    story
        .screen
        .check(Ok(format!("{} agents are registered", agents.len())));
    Ok(())
}

/// Says whether everything held.
fn verdict(story: &mut Story) -> bool {
    let elapsed = story.screen.elapsed();
    let (held, failed) = story.screen.verdict();
    let (held, failed) = (held, failed.to_vec());
    if failed.is_empty() {
        story
            .screen
            .section(&format!("All {held} checks held, after {elapsed}"));
    } else {
        story.screen.section(&format!(
            "{} of {} checks did not hold, after {elapsed}",
            failed.len(),
            held + failed.len()
        ));
        for failure in &failed {
            story.screen.say(&format!("✗ {failure}"));
        }
    }
    failed.is_empty()
}

async fn invite(story: &Story, ctx: &Context) {
    let screen = &story.screen;
    if let Ok(services) = ctx.services_url().await {
        screen.say(&format!("apps   {services}/v2/apps"));
    }
    for url in &story.instances {
        screen.say(&format!("web    {url}"));
    }
    screen.say("The cluster stays up until Ctrl-C. In another terminal:");
    if let Ok(program) = std::env::current_exe() {
        screen.command(&format!("alias allot={}", program.display()));
    }
    screen.command(&format!("export ALLOT_MASTER={}", ctx.master));
    for command in [
        "allot node list",
        "allot task list --all",
        "allot app scale /web 5",
        "allot why /web",
        "allot events --follow",
        "allot run --cpus 0.5 --mem 64 -- echo hello",
    ] {
        screen.command(command);
    }
}
