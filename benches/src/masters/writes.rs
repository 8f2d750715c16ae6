//! Registry writes: 64 small values are being committed at any time, by as many clients with a
//! connection each, and by one over a single connection.

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
    let span = Duration::from_secs(seconds);
    let many = (0..DEPTH).map(|_| Store::new(&masters, "bench"));
    let many: Vec<_> = many.collect::<Result<_, _>>()?;
    // Clones share a connection.
    let one = vec![Store::new(&masters, "bench")?; DEPTH];
    let mut numbers = place.runtime.block_on(written(&many, "64 clients", span))?;
    numbers.extend(place.runtime.block_on(written(&one, "one client", span))?);
    Ok(numbers)
}

/// Each of these stores commits one value after the other.
async fn written(stores: &[Store], whose: &str, span: Duration) -> anyhow::Result<Vec<Number>> {
    let begun = clock();
    let mut writers = Vec::new();
    for (key, store) in stores.iter().enumerate() {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            let mut each = Vec::new();
            let op = [StoreOp::put(format!("key-{key}"), vec![7; VALUE_LEN])];
            while begun.elapsed() < span {
                let one = clock();
                store.commit(&op).await?;
                each.push(one.elapsed());
            }
            Ok::<_, anyhow::Error>(each)
        }));
    }
    let mut each = Vec::new();
    for writer in writers {
        each.extend(writer.await??);
    }
    let rate = each.len() as f64 / begun.elapsed().as_secs_f64();
    let what = format!("registry writes, 3 masters on one disk, {DEPTH} in flight of {whose}");
    let (p50, p99) = (percentile(&mut each, 50), percentile(&mut each, 99));
    Ok(vec![
        number(&what, format!("{rate:.0} /s"), "5000 /s", ""),
        number(&format!("{what}: p50"), ms(p50), "5 ms", ""),
        number(&format!("{what}: p99"), ms(p99), "", ""),
    ])
}
