//! Logs go to stderr, as lines for people; how much is chosen by `--log-level` or `ALLOT_LOG`.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::exit::Failure;
use crate::output;

/// Starts logging with a level (`warn`) or filter (`warn,allotment_master=debug`).
pub(crate) fn start(filter: &str) -> anyhow::Result<()> {
    let wrong = || {
        Failure::Usage(format!(
            "--log-level {filter:?} is no level or filter; use off, error, warn, info, debug, \
             trace, or a list such as warn,allotment_master=debug"
        ))
    };
    // A lone word would pass as a filter for a module of that name: it is a typo.
    if !filter.contains('=') && filter.parse::<LevelFilter>().is_err() {
        return Err(wrong().into());
    }
    let filter: EnvFilter = filter.parse().map_err(|_| wrong())?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && output::colours_wanted())
        .with_target(false)
        .try_init()
        .map_err(anyhow::Error::from_boxed)
        .context("cannot start logging")
}
