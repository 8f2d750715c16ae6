//! One connection to one master: bytes to events and effects to bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use allotment_proto::allot::agent_client::AgentClient;
use allotment_proto::{MESSAGE_LEN_MAX, allot};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use super::leader::{Fence, Leader};
use crate::core::Input;

/// Messages that may wait for a slow master; more end the connection, and registering again
/// makes good what was lost.
const QUEUE_LEN: usize = 8192;

/// A connection, or an attempt at one.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) session: u64,
    outgoing: mpsc::Sender<allot::AgentMessage>,
    /// Bytes of executors' messages on their way, which may get lost.
    unreliable: Arc<AtomicUsize>,
    /// The agent is on its way out: how the stream ends is no news then.
    leaving: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// Bytes of executors' messages that may wait; more are dropped.
const UNRELIABLE_MAX: usize = 16 << 20;

/// The size of what may get lost; `None` for what may not.
fn unreliable_len(message: &allot::AgentMessage) -> Option<usize> {
    match &message.message {
        Some(allot::agent_message::Message::ExecutorMessage(message)) => Some(message.data.len()),
        _ => None,
    }
}

/// The master is too slow or gone.
#[derive(Debug)]
pub(super) struct Full;

impl Link {
    /// Starts connecting; what becomes of it arrives at `inputs`.
    pub(super) fn open(
        session: u64,
        url: String,
        fence: Fence,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        let (outgoing, queue) = mpsc::channel(QUEUE_LEN);
        let leaving = Arc::new(AtomicBool::new(false));
        let left = Arc::clone(&leaving);
        let unreliable = Arc::new(AtomicUsize::new(0));
        let gone = Arc::clone(&unreliable);
        let task = tokio::spawn(async move {
            // Who was connected to may be another one than the list names.
            let mut at = url;
            match run(session, &mut at, &fence, (queue, gone), &inputs).await {
                Ok(()) => tracing::info!(url = %at, "the master closed the connection"),
                Err(_) if left.load(Ordering::Relaxed) => {}
                Err(Broken::Unreachable(error)) => tracing::warn!(
                    url = %at,
                    %error,
                    "no connection to the master; check that it runs and its address is right; \
                     trying again"
                ),
                Err(Broken::Elsewhere(answer)) => {
                    tracing::info!(url = %at, %answer, "another master was elected; going there");
                }
                Err(Broken::Lost(error)) => tracing::warn!(
                    url = %at,
                    %error,
                    "the connection to the master is lost; trying again"
                ),
            }
            // The loop is gone only when the agent stops.
            let _ = inputs.send(Input::Disconnected { session }).await;
        });
        Self {
            session,
            outgoing,
            unreliable,
            leaving,
            task,
        }
    }

    pub(super) fn send(&self, message: allot::AgentMessage) -> Result<(), Full> {
        if let Some(len) = unreliable_len(&message) {
            // No executor may cost the agent its connection by talking too much.
            let waiting = self.unreliable.load(Ordering::Relaxed);
            let crowded = self.outgoing.capacity() < QUEUE_LEN / 2;
            if crowded || waiting + len > UNRELIABLE_MAX {
                tracing::debug!("an executor talks faster than the master hears; it is dropped");
                return Ok(());
            }
            self.unreliable.fetch_add(len, Ordering::Relaxed);
        }
        self.outgoing.try_send(message).map_err(|_| Full)
    }

    /// From now on the end of the stream is expected.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Drops the connection at once.
    pub(super) fn cut(self) {
        self.task.abort();
    }

    /// Lets what is queued go out first, for a while.
    pub(super) async fn close(self) {
        self.leave();
        let Self { outgoing, task, .. } = self;
        drop(outgoing);
        let abort = task.abort_handle();
        if tokio::time::timeout(Duration::from_secs(2), task)
            .await
            .is_err()
        {
            abort.abort();
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
enum Broken {
    /// Before the master answered.
    Unreachable(String),
    /// By the master whose turn it was to lead next, because another one leads.
    Elsewhere(String),
    /// It stood.
    Lost(String),
}

async fn run(
    session: u64,
    at: &mut String,
    fence: &Fence,
    (queue, unreliable): (mpsc::Receiver<allot::AgentMessage>, Arc<AtomicUsize>),
    inputs: &mpsc::Sender<Input>,
) -> Result<(), Broken> {
    let leader = Leader::find(at, fence).await;
    let leader = leader.map_err(Broken::Unreachable)?;
    at.clone_from(&leader.url);
    let mut client =
        AgentClient::new(leader.channel.clone()).max_decoding_message_size(MESSAGE_LEN_MAX);
    // The core answers with `register`, which has to be under way before the master replies.
    let _ = inputs.send(Input::Connected { session }).await;
    let queue = ReceiverStream::new(queue).inspect(move |message| {
        if let Some(len) = unreliable_len(message) {
            unreliable.fetch_sub(len, Ordering::Relaxed);
        }
    });
    let mut request = Request::new(queue);
    leader.introduce(request.metadata_mut());
    let response = client.connect(request).await.map_err(|status| {
        let text = status_text(&status);
        if leader.names_another(&status) {
            Broken::Elsewhere(text)
        } else {
            Broken::Unreachable(text)
        }
    })?;
    leader.accepted(response.metadata());
    let mut messages = response.into_inner();
    while let Some(message) = messages
        .message()
        .await
        .map_err(|status| Broken::Lost(status_text(&status)))?
    {
        if !leader.may_say(message.term) {
            let reason = "it was replaced by another leader and does not know it";
            return Err(Broken::Lost(reason.to_owned()));
        }
        let _ = inputs.send(Input::Master { session, message }).await;
    }
    Ok(())
}

pub(super) fn status_text(status: &tonic::Status) -> String {
    match status.message() {
        "" => status.code().to_string(),
        message => message.to_owned(),
    }
}

/// An error with its causes, which tonic hides.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
