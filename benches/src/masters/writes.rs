//! Registry writes: 64 clients commit one small value each, again and again.

use std::time::Duration;

use allotment_framework_sdk::{Store, StoreOp};

use super::trio::Trio;
use super::{Place, number};
use crate::report::{Number, clock, ms, percentile};

const DEPTH: usize = 64;
/// A small record.
const VALUE_LEN: usize = 256;

pub(super) fn measure(place: &Place<'_>, seconds: u64) -> anyhow::Result<Vec<Number>> {
    let trio = Trio::start(place.allot, place.folder)?;
    let masters = trio.addresses();
    let begun = clock();
    let until = Duration::from_secs(seconds);
    let mut each = place.runtime.block_on(async {
        let mut writers = Vec::new();
        for key in 0..DEPTH {
            let store = Store::new(&masters, "bench")?;
            writers.push(tokio::spawn(async move {
                let mut each = Vec::new();
                let op = [StoreOp::put(format!("key-{key}"), vec![7; VALUE_LEN])];
                while begun.elapsed() < until {
                    let one = clock();
                    store.commit(&op).await?;
                    each.push(one.elapsed());
                }
                Ok::<_, anyhow::Error>(each)
            }));
        }
        let mut all = Vec::new();
        for writer in writers {
            all.extend(writer.await??);
        }
        Ok::<_, anyhow::Error>(all)
    })?;
    let rate = each.len() as f64 / begun.elapsed().as_secs_f64();
    let what = "registry writes, 3 masters on one disk, 64 in flight";
    Ok(vec![
        number(what, format!("{rate:.0} /s"), "5000 /s", ""),
        number(
            &format!("{what}: p50"),
            ms(percentile(&mut each, 50)),
            "5 ms",
            "",
        ),
        number(
            &format!("{what}: p99"),
            ms(percentile(&mut each, 99)),
            "",
            "",
        ),
    ])
}
