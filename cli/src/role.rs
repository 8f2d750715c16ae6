//! `allot role`: who shares the cluster, how it is shared at this moment, and how it should be.

use std::process::ExitCode;

use allotment_proto::allot::{
    ListRolesRequest, RoleView, ScalarView, SetQuotaRequest, SetWeightRequest,
};

use crate::context::Context;
use crate::exit::Failure;
use crate::output::{self, Cell, Row, Watch};
use crate::view;

/// Arguments of `allot role`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the roles
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        watch: Watch,
    },
    /// Show one role
    Show {
        /// Its name, such as eng/web
        role: String,
    },
    /// Set how much a role's share counts; offers to the roles it competes with are rescinded
    Weight {
        /// Its name, such as eng/web
        role: String,
        /// From 0.001 up; roles have weight 1 unless set
        weight: f64,
    },
    /// What roles may have at most and are promised at least
    Quota {
        #[command(subcommand)]
        command: Quota,
    },
}

#[derive(Debug, clap::Subcommand)]
enum Quota {
    /// Show the quota of a role; without a name, of every role that has one
    Show {
        /// Its name, such as eng/web
        role: Option<String>,
    },
    /// Replace the quota of a role
    Set {
        /// Its name, such as eng/web
        role: String,
        /// Never more than this, for the role and those below it: cpus=8,mem=16384
        #[arg(long, value_parser = amounts, value_name = "AMOUNTS")]
        limit: Option<Amounts>,
        /// Kept available for the role: cpus=2
        #[arg(long, value_parser = amounts, value_name = "AMOUNTS")]
        guarantee: Option<Amounts>,
        /// Limit the role although it uses more: it gets nothing until it is below
        #[arg(long)]
        force: bool,
    },
    /// Remove the quota of a role
    Rm {
        /// Its name, such as eng/web
        role: String,
    },
}

/// `cpus=8,mem=16384`.
#[derive(Debug, Clone, PartialEq)]
struct Amounts(Vec<ScalarView>);

fn amounts(text: &str) -> Result<Amounts, String> {
    let wrong = || "write name=amount, separated by commas, such as cpus=8,mem=16384 (MiB)";
    let one = |part: &str| {
        let (name, amount) = part.split_once('=')?;
        let value: f64 = amount.trim().parse().ok()?;
        let name = name.trim();
        (!name.is_empty() && value.is_finite() && value >= 0.0).then(|| ScalarView {
            name: name.to_owned(),
            value,
            lot: None,
        })
    };
    let parts: Option<Vec<_>> = text.split(',').map(one).collect();
    parts.map(Amounts).ok_or_else(|| wrong().to_owned())
}

/// Runs the command.
pub(crate) async fn run(ctx: &Context, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List { watch } => {
            output::listing(ctx.output, watch, async || roles(ctx).await).await?;
        }
        Command::Show { role } => show(ctx, &find(ctx, &role).await?)?,
        Command::Weight { role, weight } => {
            let request = SetWeightRequest { role, weight };
            let answer = ctx.operator().await?.set_weight(request).await;
            let set = answer.map_err(|status| ctx.refused(&status))?;
            show(ctx, &set.into_inner())?;
        }
        Command::Quota { command } => quota(ctx, command).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn quota(ctx: &Context, command: Quota) -> anyhow::Result<()> {
    let request = match command {
        Quota::Show { role: Some(role) } => return show(ctx, &find(ctx, &role).await?),
        Quota::Show { role: None } => {
            let mut roles = roles(ctx).await?;
            roles.retain(|role| !role.guarantees.is_empty() || !role.limits.is_empty());
            let quotas: Vec<QuotaRow> = roles.into_iter().map(QuotaRow).collect();
            return output::rows(ctx.output, &quotas);
        }
        Quota::Set {
            role,
            limit,
            guarantee,
            force,
        } => {
            if limit.is_none() && guarantee.is_none() {
                return Err(Failure::Usage(format!(
                    "the quota of role {role} would be empty; give --limit or --guarantee, or \
                     remove it with `allot role quota rm {role}`"
                ))
                .into());
            }
            SetQuotaRequest {
                role,
                guarantees: guarantee.map_or_else(Vec::new, |amounts| amounts.0),
                limits: limit.map_or_else(Vec::new, |amounts| amounts.0),
                force: Some(force),
            }
        }
        Quota::Rm { role } => {
            let known = find(ctx, &role).await?;
            if known.guarantees.is_empty() && known.limits.is_empty() {
                return Err(Failure::NotFound(format!(
                    "role {role} has no quota; see `allot role quota show`"
                ))
                .into());
            }
            SetQuotaRequest {
                role,
                ..Default::default()
            }
        }
    };
    let answer = ctx.operator().await?.set_quota(request).await;
    let set = answer.map_err(|status| ctx.refused(&status))?.into_inner();
    for warning in &set.warnings {
        output::note(warning);
    }
    show(ctx, &set.role)
}

async fn roles(ctx: &Context) -> anyhow::Result<Vec<RoleView>> {
    let answer = ctx.operator().await?.list_roles(ListRolesRequest {}).await;
    let answer = answer.map_err(|status| ctx.refused(&status))?;
    Ok(answer.into_inner().roles)
}

async fn find(ctx: &Context, name: &str) -> anyhow::Result<RoleView> {
    let roles = roles(ctx).await?.into_iter();
    let found = roles.into_iter().find(|role| role.name == name);
    found.ok_or_else(|| {
        Failure::NotFound(format!(
            "there is no role {name:?}: no framework, reservation, weight or quota names it; see \
             `allot role list`"
        ))
        .into()
    })
}

fn show(ctx: &Context, role: &RoleView) -> anyhow::Result<()> {
    let frameworks = if role.frameworks.is_empty() {
        "-".to_owned()
    } else {
        role.frameworks.join(", ")
    };
    output::one(
        ctx.output,
        role,
        &[
            ("role", role.name.as_str().into()),
            ("weight", output::short(role.weight).into()),
            ("share", view::percent(role.dominant_share).into()),
            ("guarantee", view::scalars(&role.guarantees).into()),
            ("limit", view::scalars(&role.limits).into()),
            ("consumed", view::scalars(&role.consumed).into()),
            ("allocated", view::resources(&role.allocated).into()),
            ("offered", view::resources(&role.offered).into()),
            ("frameworks", frameworks.into()),
        ],
    )
}

impl Row for RoleView {
    const COLUMNS: &'static [&'static str] = &[
        "ROLE",
        ">WEIGHT",
        ">FRAMEWORKS",
        ">CPUS",
        ">MEM",
        ">SHARE",
        "OFFERED",
        "GUARANTEE",
        "LIMIT",
    ];

    fn cells(&self) -> Vec<Cell> {
        vec![
            self.name.as_str().into(),
            output::short(self.weight).into(),
            self.frameworks.len().to_string().into(),
            output::short(view::scalar(&self.allocated, "cpus")).into(),
            output::mib(view::scalar(&self.allocated, "mem")).into(),
            view::percent(self.dominant_share).into(),
            view::resources(&self.offered).into(),
            view::scalars(&self.guarantees).into(),
            view::scalars(&self.limits).into(),
        ]
    }
}

/// A role as far as its quota goes.
#[derive(Debug, serde::Serialize)]
#[serde(transparent)]
struct QuotaRow(RoleView);

impl Row for QuotaRow {
    const COLUMNS: &'static [&'static str] = &["ROLE", "GUARANTEE", "LIMIT", "CONSUMED"];

    fn cells(&self) -> Vec<Cell> {
        vec![
            self.0.name.as_str().into(),
            view::scalars(&self.0.guarantees).into(),
            view::scalars(&self.0.limits).into(),
            view::scalars(&self.0.consumed).into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::amounts;

    #[test]
    fn amounts_are_names_and_numbers() {
        let read = amounts("cpus=8, mem=16384").unwrap().0;
        let read: Vec<_> = read.iter().map(|s| (s.name.as_str(), s.value)).collect();
        assert_eq!(read, [("cpus", 8.0), ("mem", 16384.0)]);
        for wrong in ["", "cpus", "cpus=", "=4", "cpus=-1", "cpus=NaN", "cpus:4"] {
            assert!(amounts(wrong).is_err(), "{wrong}");
        }
    }
}
