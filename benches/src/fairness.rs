//! Who gets what over hours, and how long anybody waits: frameworks of different manners in the
//! simulator, once stating their demands and once, like those written for Mesos, only declining.

use std::path::PathBuf;
use std::time::Duration;

use allotment_allocator::Settings;
use allotment_sim::fairness::{Speech, fairness_experiment};

/// Arguments.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Machines
    #[arg(long, default_value_t = Self::default().agents)]
    agents: usize,
    /// Hours of virtual time
    #[arg(long, default_value_t = Self::default().hours)]
    hours: u64,
    /// The root seed
    #[arg(long, default_value_t = Self::default().seed)]
    seed: u64,
    /// Write the plot here
    #[arg(long, default_value = "target/fairness.svg", value_name = "FILE")]
    svg: PathBuf,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            agents: 50,
            hours: 8,
            seed: 1,
            svg: "target/fairness.svg".into(),
        }
    }
}

/// Measures.
pub(crate) fn measure(args: &Args) -> anyhow::Result<()> {
    let lasting = Duration::from_secs(args.hours * 3600);
    let never_aside = Settings {
        decline_patience: u32::MAX,
        ..Settings::default()
    };
    let ways = [
        ("demands", Speech::Demands, Settings::default()),
        ("only declines", Speech::Declines, Settings::default()),
        (
            "only declines, nobody steps aside",
            Speech::Declines,
            never_aside,
        ),
    ];
    for (n, (words, speech, settings)) in ways.into_iter().enumerate() {
        println!(
            "fairness, simulated: {} machines, {} h, seed {}; {words}",
            args.agents, args.hours, args.seed
        );
        let report = fairness_experiment(args.seed, args.agents, lasting, speech, settings)
            .map_err(anyhow::Error::msg)?;
        println!("{}{} rounds\n", report.table(), report.rounds);
        if n == 0 {
            if let Some(folder) = args.svg.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::write(&args.svg, report.svg())?;
            println!("plot: {}\n", args.svg.display());
        }
    }
    Ok(())
}
