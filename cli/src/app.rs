//! `allot app`: long-running apps, over the services framework's REST API.

use std::process::ExitCode;

use crate::context::Context;
use crate::exit::Failure;

/// Arguments of `allot app`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) async fn run(_ctx: &Context, _args: Args) -> anyhow::Result<ExitCode> {
    Err(Failure::Usage("`allot app` is not there yet".to_owned()).into())
}
