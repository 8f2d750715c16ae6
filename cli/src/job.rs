//! `allot job`: the batch queue.

use std::process::ExitCode;

use crate::context::Context;
use crate::exit::Failure;

/// Arguments of `allot job`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) async fn run(_ctx: &Context, _args: Args) -> anyhow::Result<ExitCode> {
    Err(Failure::Usage("`allot job` is not there yet".to_owned()).into())
}
