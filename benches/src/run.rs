//! `allot run -- true`: from the start of the command to its end, as a shell sees it.

use std::path::Path;

use crate::cluster::{Cluster, output};
use crate::report::{Number, clock, ms, percentile, table};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many times
    #[arg(long, default_value_t = Self::default().times)]
    times: usize,
}

impl Default for Args {
    fn default() -> Self {
        Self { times: 100 }
    }
}

/// Measures.
pub(crate) fn measure(allot: &Path, args: &Args) -> anyhow::Result<()> {
    let mut numbers = Vec::new();
    for isolation in ["none", "auto"] {
        let cluster = Cluster::start(allot, "cpus:2;mem:2048;disk:4096", isolation)?;
        let mut samples = Vec::with_capacity(args.times);
        // The first connects, warms caches and is not counted.
        for i in 0..=args.times {
            let command = cluster.allot(&["run", "--cpus", "0.5", "--mem", "64", "--", "true"])?;
            let start = clock();
            output(command)?;
            if i > 0 {
                samples.push(start.elapsed());
            }
        }
        let what = format!(
            "allot run -- true, isolation {isolation}, {} runs",
            args.times
        );
        numbers.push(Number::new(
            &format!("{what}, p50"),
            ms(percentile(&mut samples, 50)),
            "30 ms",
            "HyperQueue 64 ms, Dask 11 ms",
        ));
        numbers.push(Number::new(
            &format!("{what}, p99"),
            ms(percentile(&mut samples, 99)),
            "",
            "",
        ));
    }
    table(&numbers);
    Ok(())
}
