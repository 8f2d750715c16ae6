//! The tree of commands and flags, and the one `match` that leads to each command.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::context::{COMMON, Connection, Context};
use crate::{
    app, completions, demo, events, framework, job, local, node, role, roles, run, serve, sim,
    task, why,
};

/// A cluster manager in the two-level style of Apache Mesos.
#[derive(Debug, Parser)]
#[command(name = "allot", version)]
pub(crate) struct Cli {
    #[command(flatten)]
    connection: Connection,

    /// How much to log on stderr: error, warn, info, debug, trace, or a filter list
    #[arg(
        long,
        global = true,
        help_heading = COMMON,
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
    /// Run a master: collect resources, offer them; or look after the masters
    Master(roles::master::Args),
    /// Run an agent: run tasks in containers
    Agent(roles::agent::Args),
    /// Run the services framework: Marathon's API over long-running apps
    Services(roles::services::Args),
    /// Run the batch framework: HTCondor's submit files over a durable queue
    Batch(roles::batch::Args),
    /// Run a whole cluster in this process
    Local(local::Args),
    /// Show the main job on a local cluster
    Demo(demo::Args),
    /// Run one task, stream its output, exit with its code
    Run(run::Args),
    /// Long-running apps
    App(app::Args),
    /// The batch queue
    Job(job::Args),
    /// The agents of the cluster
    Node(node::Args),
    /// The frameworks and what they hold
    Framework(framework::Args),
    /// The tasks of all frameworks
    Task(task::Args),
    /// The roles and their shares
    Role(role::Args),
    /// What happens in the cluster
    Events(events::Args),
    /// Why something stands as it does
    Why(why::Args),
    /// Simulate whole clusters on virtual time
    Sim(sim::Args),
    /// Serve the files of a directory over HTTP
    Serve(serve::Args),
    /// Print the completion script of a shell
    Completions(completions::Args),
}

impl Cli {
    /// Whether the command is a server.
    pub(crate) const fn serves(&self) -> bool {
        if let Command::Master(args) = &self.command {
            return args.serves();
        }
        matches!(
            self.command,
            Command::Agent(_)
                | Command::Services(_)
                | Command::Batch(_)
                | Command::Local(_)
                | Command::Demo(_)
                | Command::Serve(_)
        )
    }
}

/// The socket of `allot launcher --socket-fd N`, which agents start and people do not.
pub(crate) fn launcher_socket(mut args: impl Iterator<Item = String>) -> Option<i32> {
    let [command, flag, socket] = [args.nth(1)?, args.next()?, args.next()?];
    (command == "launcher" && flag == "--socket-fd").then(|| socket.parse().ok())?
}

/// Parses the command line; on wrong usage prints why and exits with 2.
pub(crate) fn parse() -> Cli {
    Cli::parse()
}

/// Runs the command.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let ctx = Context::new(cli.connection);
    match cli.command {
        Command::Master(args) => roles::master::run(&ctx, args).await,
        Command::Agent(args) => roles::agent::run(&ctx, args).await,
        Command::Local(args) => local::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Services(args) => roles::services::run(&ctx, args).await,
        Command::Batch(args) => roles::batch::run(&ctx, args).await,
        Command::Run(args) => run::run(&ctx, args).await,
        Command::App(args) => app::run(&ctx, args).await,
        Command::Job(args) => job::run(&ctx, args).await,
        Command::Node(args) => node::run(&ctx, args).await,
        Command::Framework(args) => framework::run(&ctx, args).await,
        Command::Task(args) => task::run(&ctx, args).await,
        Command::Role(args) => role::run(&ctx, args).await,
        Command::Events(args) => events::run(&ctx, &args).await,
        Command::Why(args) => why::run(&ctx, &args).await,
        Command::Sim(args) => sim::run(&ctx, &args),
        Command::Serve(args) => serve::run(&args).await,
        Command::Completions(args) => completions::run(&args, Cli::command()),
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
