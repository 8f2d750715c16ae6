//! Fine-grained sharing in the simulator, at a size that no one machine has.
//!
//! The load and what is measured are described in `allotment_sim`; the run is deterministic.

use std::path::PathBuf;

use crate::report::clock;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Machines
    #[arg(long, default_value_t = Self::default().agents)]
    agents: usize,
    /// The root seed of the load and the cluster
    #[arg(long, default_value_t = Self::default().seed)]
    seed: u64,
    /// Write the plot here
    #[arg(
        long,
        default_value = "target/sharing-simulated.svg",
        value_name = "FILE"
    )]
    svg: PathBuf,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            agents: 1000,
            seed: 1,
            svg: "target/sharing-simulated.svg".into(),
        }
    }
}

/// Measures.
pub(crate) fn measure(args: &Args) -> anyhow::Result<()> {
    println!("fine-grained sharing, simulated, seed {}", args.seed);
    let start = clock();
    let report = allotment_sim::sharing::sharing_experiment(args.seed, args.agents)
        .map_err(anyhow::Error::msg)?;
    let took = start.elapsed().as_secs_f64();
    println!("{}", report.table());
    if let Some(folder) = args.svg.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&args.svg, report.svg())?;
    println!("plot: {} (simulated in {took:.0} s)\n", args.svg.display());
    Ok(())
}
