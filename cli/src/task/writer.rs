//! Writes what a task says to our own stdout and stderr, from a thread that nobody waits for:
//! a reader that never reads holds back the task, but neither signals nor heartbeats nor our end.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::output;

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Stdout,
    Stderr,
}

/// Pieces on their way.
#[derive(Debug, Clone)]
pub(super) struct Writer(mpsc::Sender<(To, Bytes)>);

/// Tells when everything was written, or that nobody reads any more.
pub(super) type Written = tokio::sync::oneshot::Receiver<anyhow::Result<()>>;

/// Begins; what is written is all there once the last writer is dropped and the second half says
/// so.
pub(super) fn start() -> (Writer, Written) {
    let (pieces, mut queue) = mpsc::channel::<(To, Bytes)>(1);
    let (done, written) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut result = Ok(());
        while let Some((to, piece)) = queue.blocking_recv() {
            match to {
                To::Stdout => result = output::bytes(&piece),
                To::Stderr => output::error_bytes(&piece),
            }
            if result.is_err() {
                break;
            }
        }
        drop(queue);
        // Nobody asks when something else ended the command first.
        let _ = done.send(result);
    });
    (Writer(pieces), written)
}

impl Writer {
    /// Hands a piece over; false when nobody reads any more.
    pub(super) async fn write(&self, to: To, piece: Bytes) -> bool {
        self.0.send((to, piece)).await.is_ok()
    }
}
