//! The bounded queue between the loop and one peer.
//!
//! The loop never waits for a peer. A peer that lets more than the bound pile up is cut off and
//! what was queued for it is dropped, so memory stays bounded whatever peers do.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use tokio::sync::oneshot;
use tonic::Status;

/// How much may await a peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    pub(super) items: usize,
    pub(super) bytes: usize,
}

impl Bound {
    /// A reconciliation of 50,000 tasks fits, as does a minute of a busy agent's launches.
    pub(super) const PEER: Self = Self {
        items: 65_536,
        bytes: 64 * 1024 * 1024,
    };
    /// The whole replay and some time to read it.
    pub(super) const WATCHER: Self = Self {
        items: 20_000,
        bytes: 16 * 1024 * 1024,
    };
}

#[derive(Debug)]
struct State<T> {
    queue: VecDeque<(T, usize)>,
    bytes: usize,
    /// The loop has said its last word; `Err` is told to the peer after the queue.
    end: Option<Result<(), Status>>,
    waker: Option<Waker>,
    /// The peer's side is gone.
    gone: bool,
}

type Shared<T> = Arc<Mutex<State<T>>>;

fn lock<T>(shared: &Shared<T>) -> MutexGuard<'_, State<T>> {
    // Nothing here panics while it holds the lock.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The loop's end.
#[derive(Debug)]
pub(super) struct Outbox<T> {
    shared: Shared<T>,
    bound: Bound,
}

/// The peer's end: what tonic sends.
#[derive(Debug)]
pub(super) struct Outgoing<T> {
    shared: Shared<T>,
    /// Dropped with this stream, which ends the task that reads from the peer.
    _alive: oneshot::Sender<()>,
}

/// The queue was full: the peer is cut off.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overflow;

/// A queue; the receiver resolves when the peer's end is dropped.
pub(super) fn outbox<T>(bound: Bound) -> (Outbox<T>, Outgoing<T>, oneshot::Receiver<()>) {
    let shared = Arc::new(Mutex::new(State {
        queue: VecDeque::new(),
        bytes: 0,
        end: None,
        waker: None,
        gone: false,
    }));
    let (alive, dead) = oneshot::channel();
    let outgoing = Outgoing {
        shared: Arc::clone(&shared),
        _alive: alive,
    };
    (Outbox { shared, bound }, outgoing, dead)
}

impl<T> Outbox<T> {
    /// Queues an item of about `bytes`; on overflow drops the queue and ends the stream with
    /// RESOURCE_EXHAUSTED.
    pub(super) fn push(&self, item: T, bytes: usize) -> Result<(), Overflow> {
        let mut state = lock(&self.shared);
        if state.gone || state.end.is_some() {
            return Ok(());
        }
        if state.queue.len() >= self.bound.items || state.bytes + bytes > self.bound.bytes {
            let message = format!(
                "{} messages with {} bytes were waiting to be read, at most {} with {} bytes may; \
                 read faster and reconnect",
                state.queue.len(),
                state.bytes,
                self.bound.items,
                self.bound.bytes
            );
            state.queue = VecDeque::new();
            state.bytes = 0;
            state.end = Some(Err(Status::resource_exhausted(message)));
            wake(&mut state);
            return Err(Overflow);
        }
        state.queue.push_back((item, bytes));
        state.bytes += bytes;
        wake(&mut state);
        Ok(())
    }

    /// Ends the stream after what is queued.
    pub(super) fn end(&self, how: Result<(), Status>) {
        let mut state = lock(&self.shared);
        if state.end.is_none() {
            state.end = Some(how);
            wake(&mut state);
        }
    }

    /// Ends the stream now: what is queued is not said any more.
    pub(super) fn cut(&self, why: Status) {
        let mut state = lock(&self.shared);
        state.queue = VecDeque::new();
        state.bytes = 0;
        state.end = Some(Err(why));
        wake(&mut state);
    }

    /// Whether the peer's end was dropped.
    pub(super) fn is_gone(&self) -> bool {
        lock(&self.shared).gone
    }
}

impl<T> Drop for Outbox<T> {
    fn drop(&mut self) {
        self.end(Err(Status::unavailable(
            "the master is stopping; connect again",
        )));
    }
}

fn wake<T>(state: &mut State<T>) {
    if let Some(waker) = state.waker.take() {
        waker.wake();
    }
}

impl<T> Outgoing<T> {
    /// Waits until there is something to say, or nothing more will come.
    pub(super) async fn begun(&self) {
        std::future::poll_fn(|cx| {
            let mut state = lock(&self.shared);
            if !state.queue.is_empty() || state.end.is_some() {
                return Poll::Ready(());
            }
            state.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl<T> Stream for Outgoing<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = lock(&self.shared);
        if let Some((item, bytes)) = state.queue.pop_front() {
            state.bytes -= bytes;
            return Poll::Ready(Some(Ok(item)));
        }
        match &mut state.end {
            Some(end) => {
                let how = std::mem::replace(end, Ok(()));
                Poll::Ready(how.err().map(Err))
            }
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Outgoing<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.shared);
        state.gone = true;
        state.queue = VecDeque::new();
        state.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt};

    const SMALL: Bound = Bound {
        items: 2,
        bytes: 10,
    };

    async fn drain(mut outgoing: Outgoing<u8>) -> Vec<Result<u8, tonic::Code>> {
        let mut all = Vec::new();
        while let Some(item) = outgoing.next().await {
            all.push(item.map_err(|status| status.code()));
        }
        all
    }

    #[tokio::test]
    async fn a_peer_that_reads_too_slowly_is_cut_off_with_a_reason() {
        for sizes in [[1, 1, 1], [1, 9, 1]] {
            let (outbox, outgoing, _dead) = outbox(SMALL);
            let results: Vec<_> = sizes.iter().map(|size| outbox.push(7, *size)).collect();
            assert_eq!(results, [Ok(()), Ok(()), Err(Overflow)]);
            assert_eq!(drain(outgoing).await, [Err(tonic::Code::ResourceExhausted)]);
        }
    }

    #[tokio::test]
    async fn a_stream_has_begun_with_its_first_item_or_its_end() {
        for say in [
            |outbox: &Outbox<u8>| outbox.push(1, 1).unwrap(),
            |outbox: &Outbox<u8>| outbox.end(Ok(())),
        ] {
            let (outbox, outgoing, _dead) = outbox(SMALL);
            assert!(outgoing.begun().now_or_never().is_none());
            say(&outbox);
            outgoing.begun().await;
        }
    }

    #[tokio::test]
    async fn what_was_queued_arrives_before_the_end() {
        let (outbox, outgoing, _dead) = outbox(SMALL);
        outbox.push(1, 1).unwrap();
        outbox.end(Err(Status::aborted("over")));
        assert_eq!(drain(outgoing).await, [Ok(1), Err(tonic::Code::Aborted)]);
    }
}
