//! The `allot` binary: every role and every operator command.
//!
//! - [`cli`]: the tree of commands and flags.
//! - [`context`]: which cluster a command talks to.
//! - [`output`]: how anything is printed; [`exit`]: what exit codes mean.
//! - [`http`], [`rpc`]: the two ways to ask a role something.
//! - One module per command; the work itself is in the role crates.

mod app;
mod cli;
mod clock;
mod cluster;
mod completions;
mod context;
mod demo;
mod discover;
mod events;
mod exit;
mod framework;
mod http;
mod job;
mod local;
mod logging;
mod master;
mod node;
mod output;
mod role;
mod roles;
mod rpc;
mod run;
mod serve;
mod signals;
mod sim;
mod task;
mod view;
mod why;

use std::process::ExitCode;

/// Masters and agents make many small messages on several threads at once. Measured beside
/// glibc's and jemalloc in docs/benchmarks.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The launcher is one small process without threads: it must not get further than this.
    if let Some(socket) = cli::launcher_socket(std::env::args()) {
        return exit::status(allotment_agent::launcher_main(socket));
    }
    let cli = cli::parse();
    if let Err(error) = logging::start(&cli.log_level) {
        return exit::report(&error);
    }
    // A command asks a question or two: threads would cost more than they give.
    let mut runtime = if cli.serves() {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let done = match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(cli::run(cli)),
        Err(error) => Err(error.into()),
    };
    done.unwrap_or_else(|error| exit::report(&error))
}
