//! `disk/du`: measures the sandboxes of running tasks and ends those that hold more than they
//! asked for.
//!
//! Between two looks a task may exceed its limit, as in Mesos: a project quota would be exact,
//! but few file systems are mounted with one. What a task deleted but holds open is not seen.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::handle::Order;
use super::live::Live;

/// Looks at every sandbox with a limit, one after the other, again and again.
pub(super) async fn watch(live: Arc<Mutex<Live>>, orders: mpsc::Sender<Order>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let limited = live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .with_disk_limit();
        for (id, sandbox, limit) in limited {
            let Ok(used) = spawn_blocking(move || used_bytes(&sandbox)).await else {
                continue;
            };
            if used <= limit {
                continue;
            }
            tracing::info!(container = %id, limit, used, "a sandbox holds too much");
            let noted = live
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .note_disk(&id, (limit, used));
            if noted && orders.send(Order::Destroy(id)).await.is_err() {
                return;
            }
        }
    }
}

/// What a folder holds on its own file system, in bytes as the disk counts them; several names
/// of one file count once.
fn used_bytes(folder: &Path) -> u64 {
    let Ok(root) = fs::symlink_metadata(folder) else {
        return 0;
    };
    let mut seen = BTreeSet::new();
    let mut open: Vec<PathBuf> = vec![folder.to_owned()];
    let mut used = 0_u64;
    while let Some(folder) = open.pop() {
        // Unreadable or just deleted: what cannot be seen is not counted.
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            // Of links themselves, not of what they point to.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.dev() != root.dev() {
                continue;
            }
            if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert(metadata.ino()) {
                continue;
            }
            used = used.saturating_add(metadata.blocks().saturating_mul(512));
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_nowhere_and_second_names_cost_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let data = vec![1; 100_000];
        fs::create_dir(folder.path().join("deep")).unwrap();
        fs::write(folder.path().join("deep/file"), &data).unwrap();
        let before = used_bytes(folder.path());
        assert!(before >= 100_000, "{before}");
        fs::hard_link(folder.path().join("deep/file"), folder.path().join("same")).unwrap();
        std::os::unix::fs::symlink("/usr", folder.path().join("usr")).unwrap();
        let after = used_bytes(folder.path());
        assert!(after < before + 20_000, "{before} {after}");
    }
}
