//! The history as callers read it, beside the loop that writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use allotment_proto::allot::JobSelection;
use redb::{Database, ReadableDatabase as _};

use super::{CLUSTERS, HISTORY, ORDER, READ, StoreError, database, decode, key_of, pair};
use crate::core::job::JobKey;
use crate::core::record::{StoredCluster, StoredEnd};
use crate::core::view;

/// A job of the history, with its cluster.
#[derive(Debug, Clone)]
pub struct Past {
    /// Which.
    pub key: JobKey,
    /// Its end.
    pub end: StoredEnd,
    /// Its cluster.
    pub cluster: Arc<StoredCluster>,
}

/// The reading side; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(super) db: Arc<Database>,
}

impl Reader {
    /// One job of the history.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn show(&self, key: JobKey) -> Result<Option<Past>, StoreError> {
        let read: Result<_, redb::Error> = (|| {
            let txn = self.db.begin_read()?;
            let Some(end) = txn.open_table(HISTORY)?.get(pair(key))? else {
                return Ok(None);
            };
            let cluster = txn.open_table(CLUSTERS)?.get(key.cluster)?;
            let cluster = cluster.map(|c| c.value().to_vec()).unwrap_or_default();
            Ok(Some((end.value().to_vec(), cluster)))
        })();
        let Some((end, cluster)) = read.map_err(database(READ))? else {
            return Ok(None);
        };
        Ok(Some(Past {
            key,
            end: decode("job of the history", &end)?,
            cluster: Arc::new(decode("cluster", &cluster)?),
        }))
    }

    /// A page of the history, newest first, from before `before`, and whether there is more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn history(
        &self,
        selection: Option<&JobSelection>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<Past>, bool), StoreError> {
        let txn = self.db.begin_read().map_err(database(READ))?;
        let mut clusters: BTreeMap<u32, Arc<StoredCluster>> = BTreeMap::new();
        let mut page = Vec::new();
        let order = txn.open_table(ORDER).map_err(database(READ))?;
        let history = txn.open_table(HISTORY).map_err(database(READ))?;
        let table = txn.open_table(CLUSTERS).map_err(database(READ))?;
        let range = order
            .range(..before.unwrap_or(u64::MAX))
            .map_err(database(READ))?;
        for row in range.rev() {
            let key = key_of(row.map_err(database(READ))?.1.value());
            if selection.is_some_and(|s| !view::means(s, key)) {
                continue;
            }
            if page.len() == limit {
                return Ok((page, true));
            }
            let Some(end) = history.get(pair(key)).map_err(database(READ))? else {
                continue;
            };
            let cluster = match clusters.get(&key.cluster) {
                Some(cluster) => Arc::clone(cluster),
                None => {
                    let bytes = table.get(key.cluster).map_err(database(READ))?;
                    let bytes = bytes.map(|c| c.value().to_vec()).unwrap_or_default();
                    let cluster: Arc<StoredCluster> = Arc::new(decode("cluster", &bytes)?);
                    clusters.insert(key.cluster, Arc::clone(&cluster));
                    cluster
                }
            };
            page.push(Past {
                key,
                end: decode("job of the history", end.value())?,
                cluster,
            });
        }
        Ok((page, false))
    }

    /// How many jobs of a cluster are in the history, and how many of them failed or were
    /// removed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn ended(&self, cluster: u32) -> Result<(u32, u32), StoreError> {
        let txn = self.db.begin_read().map_err(database(READ))?;
        let history = txn.open_table(HISTORY).map_err(database(READ))?;
        let range = history
            .range((cluster, 0)..=(cluster, u32::MAX))
            .map_err(database(READ))?;
        let (mut all, mut failed) = (0, 0);
        for row in range {
            let bytes = row.map_err(database(READ))?.1;
            let end: StoredEnd = decode("job of the history", bytes.value())?;
            all += 1;
            failed += u32::from(!end.success);
        }
        Ok((all, failed))
    }
}
