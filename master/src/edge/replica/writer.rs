//! The thread that writes the log: whatever waits becomes one sync.

use std::sync::mpsc;
use std::thread::JoinHandle;

use allotment_raft::store::Store;
use allotment_raft::{Input, Write};

use super::ToReplica;
use crate::edge::folder::Folder;

/// How many writes share one sync at most; more only make the first ones wait.
const GROUP_MAX: usize = 1024;

/// The thread's handle. It ends when this is dropped, after what was handed to it.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Write>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// The folder stays locked until the thread has ended.
    pub(super) fn start(
        folder: Folder,
        store: Store,
        replica: tokio::sync::mpsc::Sender<ToReplica>,
    ) -> std::io::Result<Self> {
        // Unbounded: Raft has a limited number of entries under way.
        let (queue, writes) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("registry-log".to_owned())
            .spawn(move || {
                write_all(store, &writes, &replica);
                drop(folder);
            })?;
        Ok(Self { queue, thread })
    }

    pub(super) fn write(&self, write: Write) {
        // The thread is gone only after it has said why.
        let _ = self.queue.send(write);
    }

    /// Waits until everything is written. Blocks.
    pub(super) fn finish(self) {
        drop(self.queue);
        // A panic in the thread was told by the silence that followed.
        let _ = self.thread.join();
    }
}

fn write_all(
    mut store: Store,
    writes: &mpsc::Receiver<Write>,
    replica: &tokio::sync::mpsc::Sender<ToReplica>,
) {
    let mut group: Vec<Write> = Vec::new();
    while let Ok(first) = writes.recv() {
        group.clear();
        group.push(first);
        group.extend(writes.try_iter().take(GROUP_MAX - 1));
        let number = group.last().map_or(0, |write| write.number);
        let said = match store.write(&group) {
            Ok(()) => ToReplica::Raft(Input::Persisted(number)),
            // Never tried again: a sync that failed once may have lost what came before.
            Err(error) => ToReplica::DiskFailed(error),
        };
        let failed = matches!(said, ToReplica::DiskFailed(_));
        if replica.blocking_send(said).is_err() || failed {
            return;
        }
    }
}
