//! The launcher by itself, as tests and benchmarks of this crate start it: the same as
//! `allot launcher`. And an agent in a process of its own, for those that kill it:
//!
//! ```text
//! allotment-launcher agent MASTER WORK_DIR ISOLATION
//! allotment-launcher floor TIMES
//! ```

use std::process::ExitCode;

use allotment_agent::{Config, LauncherCommand};
use tokio::signal::unix::{SignalKind, signal};

/// As in `allot`, so that what is measured is what ships.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["launcher", "--socket-fd", fd] => fd.parse().map_or_else(|_| ExitCode::from(2), launcher),
        ["agent", master, work_dir, isolation] => agent(master, work_dir, isolation),
        ["floor", times] => match times.parse() {
            Ok(times) => ended(allotment_agent::run_floor(times).map_err(Into::into)),
            Err(_) => ExitCode::from(2),
        },
        _ => ExitCode::from(2),
    }
}

fn launcher(fd: i32) -> ExitCode {
    u8::try_from(allotment_agent::launcher_main(fd)).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Runs an agent until SIGTERM, after which its tasks go on, or SIGUSR1, with which they end.
fn agent(master: &str, work_dir: &str, isolation: &str) -> ExitCode {
    let done = (|| -> Result<(), Box<dyn std::error::Error>> {
        let config = Config {
            // The same again, when a test has executors that must find their agent.
            listen: match std::env::var("ALLOT_TEST_LISTEN") {
                Ok(address) => address.parse()?,
                Err(_) => "127.0.0.1:0".parse()?,
            },
            // However busy the machine that the tests run on.
            executor_reregistration_timeout: std::time::Duration::from_secs(30),
            masters: vec![master.to_owned()],
            work_dir: work_dir.into(),
            resources: Some("cpus:1000; mem:200000; ports:[31000-31999]".parse()?),
            isolation: isolation.parse()?,
            launcher: LauncherCommand {
                // A copy, when a test wants to do away with it.
                program: std::env::var_os("ALLOT_TEST_LAUNCHER")
                    .map_or_else(|| "/proc/self/exe".into(), Into::into),
                ..LauncherCommand::default()
            },
            ..Config::default()
        };
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut remove = signal(SignalKind::user_defined1())?;
            let mut agent = allotment_agent::start(config).await?;
            tokio::select! {
                error = agent.wait() => return Err(error.into()),
                _ = terminate.recv() => agent.leave().await,
                _ = remove.recv() => agent.stop().await,
            }
            Ok(())
        })
    })();
    ended(done)
}

fn ended(done: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}
