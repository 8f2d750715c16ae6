//! `allot node`: the agents of the cluster, and what operators want of them.

use std::process::ExitCode;
use std::time::Duration;

use allotment_proto::allot::set_agent_request::Activity;
use allotment_proto::allot::{
    AgentView, ListAgentsRequest, ReserveRequest, SetAgentRequest, SetMaintenanceRequest,
};
use allotment_proto::convert;
use allotment_types::{Resources, Role};

use crate::context::Context;
use crate::output::{self, Cell, Row, Watch};
use crate::roles::{duration, usage};
use crate::view;

/// Arguments of `allot node`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the agents
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        watch: Watch,
    },
    /// Show one agent
    Show {
        /// Its id, the beginning of it, or its host name
        node: String,
    },
    /// Offer an agent's resources no longer; its tasks go on
    Deactivate {
        /// Its id, the beginning of it, or its host name
        node: String,
    },
    /// Offer an agent's resources again; ends a drain
    Activate {
        /// Its id, the beginning of it, or its host name
        node: String,
    },
    /// Offer an agent's resources no longer and kill its tasks
    Drain {
        /// Its id, the beginning of it, or its host name
        node: String,
        /// The time between SIGTERM and SIGKILL [default: what each task says]
        #[arg(long, value_parser = duration, value_name = "DURATION")]
        grace: Option<Duration>,
    },
    /// Plan when an agent will be away; frameworks are asked to leave it before
    Maintenance {
        /// Its id, the beginning of it, or its host name
        node: String,
        /// When it begins, from now on [default: now]
        #[arg(long = "in", value_parser = duration, value_name = "DURATION")]
        after: Option<Duration>,
        /// When it begins, such as 2026-11-26T22:00:00Z
        #[arg(long, value_name = "TIME", conflicts_with = "after")]
        at: Option<jiff::Timestamp>,
        /// How long it takes [default: for good]
        #[arg(long = "for", value_parser = duration, value_name = "DURATION")]
        lasts: Option<Duration>,
        /// It stays after all
        #[arg(long, conflicts_with_all = ["after", "at", "lasts"])]
        cancel: bool,
    },
    /// Reserve unused resources of an agent for a role
    Reserve(Reserved),
    /// End a reservation made by `allot node reserve` or a framework
    Unreserve(Reserved),
}

/// What is reserved where, and for whom.
#[derive(Debug, clap::Args)]
struct Reserved {
    /// The agent's id, the beginning of it, or its host name
    node: String,
    /// How much, such as 'cpus:2; mem:512'
    resources: Resources,
    /// For whom; given again, a role below it that refines the reservation
    #[arg(long, required = true, value_name = "ROLE")]
    role: Vec<Role>,
    /// Who made the reservation, where it names somebody
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List { watch } => {
            output::listing(ctx.output, watch, async || agents(ctx).await).await?;
        }
        Command::Show { node } => show(ctx, &find(ctx, &node).await?)?,
        Command::Deactivate { node } => {
            set(ctx, &node, Activity::Deactivated, None).await?;
        }
        Command::Activate { node } => set(ctx, &node, Activity::Active, None).await?,
        Command::Drain { node, grace } => set(ctx, &node, Activity::Drained, grace).await?,
        Command::Maintenance {
            node,
            after,
            at,
            lasts,
            cancel,
        } => {
            let start = if cancel { None } else { Some(start(after, at)) };
            let request = SetMaintenanceRequest {
                agent: find(ctx, &node).await?.id,
                start,
                duration_seconds: lasts.map(|lasts| lasts.as_secs_f64()),
            };
            let answer = ctx.operator().await?.set_maintenance(request).await;
            show(ctx, &answer.map_err(|s| ctx.refused(&s))?.into_inner())?;
        }
        Command::Reserve(reserved) => {
            let request = request(ctx, reserved).await?;
            let answer = ctx.operator().await?.reserve(request).await;
            show(ctx, &answer.map_err(|s| ctx.refused(&s))?.into_inner())?;
        }
        Command::Unreserve(reserved) => {
            let request = request(ctx, reserved).await?;
            let answer = ctx.operator().await?.unreserve(request).await;
            show(ctx, &answer.map_err(|s| ctx.refused(&s))?.into_inner())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn agents(ctx: &Context) -> anyhow::Result<Vec<AgentView>> {
    let answer = ctx
        .operator()
        .await?
        .list_agents(ListAgentsRequest {})
        .await;
    Ok(answer
        .map_err(|status| ctx.refused(&status))?
        .into_inner()
        .agents)
}

async fn find(ctx: &Context, node: &str) -> anyhow::Result<AgentView> {
    let agents = agents(ctx).await?;
    let found = view::pick("node", node, &agents, |a| (&a.id, &a.hostname))?;
    Ok(found.clone())
}

async fn set(
    ctx: &Context,
    node: &str,
    activity: Activity,
    grace: Option<Duration>,
) -> anyhow::Result<()> {
    let request = SetAgentRequest {
        agent: find(ctx, node).await?.id,
        activity: activity.into(),
        grace_seconds: grace.map(|grace| grace.as_secs_f64()),
    };
    let answer = ctx.operator().await?.set_agent(request).await;
    show(ctx, &answer.map_err(|s| ctx.refused(&s))?.into_inner())
}

/// Seconds since the Unix epoch.
fn start(after: Option<Duration>, at: Option<jiff::Timestamp>) -> f64 {
    let at = at.unwrap_or_else(jiff::Timestamp::now);
    at.as_duration().as_secs_f64() + after.unwrap_or_default().as_secs_f64()
}

async fn request(ctx: &Context, reserved: Reserved) -> anyhow::Result<ReserveRequest> {
    let Reserved {
        node,
        resources,
        role: roles,
        principal,
    } = reserved;
    if resources.is_empty() || resources != resources.plain() {
        return Err(usage(format!(
            "cannot use resources \"{resources}\" here; name plain amounts, such as \
             'cpus:2; mem:512', and the role in --role"
        )));
    }
    let held = roles.iter().fold(resources, |held, role| {
        held.reserved(role, principal.as_deref())
    });
    Ok(ReserveRequest {
        agent: find(ctx, &node).await?.id,
        resources: convert::resources_to_wire(&held, None),
    })
}

fn show(ctx: &Context, agent: &AgentView) -> anyhow::Result<()> {
    let listed = |items: &[String]| match items {
        [] => "-".to_owned(),
        items => items.join(", "),
    };
    let away = agent.unavailable_from.map_or_else(
        || "-".to_owned(),
        |from| match agent.unavailable_seconds {
            Some(seconds) => {
                let lasts = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                format!("{} for {lasts:?}", output::clock(from))
            }
            None => format!("{} for good", output::clock(from)),
        },
    );
    let answers: Vec<String> = agent
        .answers
        .iter()
        .map(|answer| format!("{} {}", answer.framework_name, answer.answer))
        .collect();
    output::one(
        ctx.output,
        agent,
        &[
            ("id", agent.id.as_str().into()),
            ("host", agent.hostname.as_str().into()),
            ("url", agent.url.as_str().into()),
            ("state", view::state(&agent.state)),
            ("since", output::clock(agent.since).into()),
            ("activity", view::state(agent.activity())),
            ("away", away.into()),
            ("asked to leave", listed(&answers).into()),
            ("version", agent.version.as_str().into()),
            ("domain", agent.domain.as_deref().unwrap_or("-").into()),
            ("attributes", listed(&agent.attributes).into()),
            ("tasks", agent.tasks_live.to_string().into()),
            ("total", view::resources(&agent.total).into()),
            ("allocated", view::resources(&agent.allocated).into()),
            ("offered", view::resources(&agent.offered).into()),
            ("free", view::resources(&agent.free).into()),
        ],
    )
}

impl Row for AgentView {
    const COLUMNS: &'static [&'static str] = &[
        "ID", "HOST", "STATE", "ACTIVITY", ">FOR", ">CPUS", ">MEM", ">TASKS", "URL",
    ];

    fn cells(&self) -> Vec<Cell> {
        vec![
            self.id.as_str().into(),
            self.hostname.as_str().into(),
            view::state(&self.state),
            view::state(self.activity()),
            output::age(self.since).into(),
            view::cpus_of(&self.allocated, &self.total).into(),
            view::mem_of(&self.allocated, &self.total).into(),
            self.tasks_live.to_string().into(),
            self.url.as_str().into(),
        ]
    }
}
