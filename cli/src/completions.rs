//! `allot completions`: what a shell needs to complete commands and flags.

use std::process::ExitCode;

use clap_complete::Shell;

use crate::output;

/// Arguments of `allot completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For which shell
    shell: Shell,
}

/// Prints the script for `command` on stdout.
pub(crate) fn run(args: &Args, mut command: clap::Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "allot", &mut script);
    output::bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}
