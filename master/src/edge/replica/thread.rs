//! Raft's own thread.

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// A runtime of one thread for Raft alone: were its votes and heartbeats to take turns with the
/// connections of ten thousand agents that lost their leader, they would come too late, and
/// another master would lead. What runs in it ends with it.
#[derive(Debug)]
pub(in crate::edge) struct RaftThread(Option<Runtime>);

impl RaftThread {
    pub(in crate::edge) fn start() -> std::io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("raft").enable_all();
        builder.build().map(|runtime| Self(Some(runtime)))
    }

    /// Tasks that `f` starts run in this thread.
    pub(in crate::edge) fn within<T>(&self, f: impl FnOnce() -> T) -> T {
        let _entered = self.0.as_ref().map(Runtime::enter);
        f()
    }

    pub(in crate::edge) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.within(|| tokio::spawn(task))
    }
}

impl Drop for RaftThread {
    fn drop(&mut self) {
        // Dropped as it is, a runtime waits for its thread, which no task of another one may.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
