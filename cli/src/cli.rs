//! The tree of commands and flags, and the one `match` that leads to each command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::context::{Connection, Context};
use crate::{app, job, run};

/// A cluster manager in the two-level style of Apache Mesos.
#[derive(Debug, Parser)]
#[command(name = "allot", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    connection: Connection,

    /// How much to log on stderr: error, warn, info, debug, trace, or a filter list
    #[arg(
        long,
        global = true,
        env = "ALLOT_LOG",
        default_value = "warn",
        value_name = "LEVEL"
    )]
    pub(crate) log_level: String,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one task, stream its output, exit with its code
    Run(run::Args),
    /// Long-running apps
    App(app::Args),
    /// The batch queue
    Job(job::Args),
}

/// Parses the command line; on wrong usage prints why and exits with 2.
pub(crate) fn parse() -> Cli {
    Cli::parse()
}

/// Runs the command.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let ctx = Context::new(cli.connection);
    match cli.command {
        Command::Run(args) => run::run(&ctx, args).await,
        Command::App(args) => app::run(&ctx, args).await,
        Command::Job(args) => job::run(&ctx, args).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_tree_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
