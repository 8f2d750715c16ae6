//! What a watcher of the store hears.

use std::collections::VecDeque;

use allotment_proto::allot;
use allotment_proto::allot::store_client::StoreClient;
use allotment_proto::allot::store_watch_event::Event as Told;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::{Entry, StoreError};
use crate::channel;

/// Something that a watcher hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// An entry that was there when the watch began, or was written since.
    Put(Entry),
    /// A key was deleted, or its lease was over.
    Deleted {
        /// Which key.
        key: String,
        /// The version of the deletion.
        version: u64,
    },
    /// Once: what was there when the watch began has been said.
    CaughtUp,
}

/// Keys that are watched; ends with its master.
#[derive(Debug)]
pub struct Watch {
    events: Streaming<allot::StoreWatchEvent>,
    heard: VecDeque<WatchEvent>,
}

impl Watch {
    /// The next event.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the watch has ended, because the master leads no more or this
    /// reader was too slow. Watch again: that begins with what is there then, so what was deleted
    /// in between is not said but missing.
    pub async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        if let Some(event) = self.heard.pop_front() {
            return Ok(event);
        }
        loop {
            match self.events.message().await {
                Ok(Some(message)) => {
                    // A kind of event that a later version has is nothing to this one.
                    if let Some(event) = event(message) {
                        return Ok(event);
                    }
                }
                Ok(None) => return Err(ended("the master closed it".to_owned())),
                Err(status) => return Err(ended(channel::status_text(&status))),
            }
        }
    }
}

fn ended(reason: String) -> StoreError {
    StoreError::Unavailable {
        reason: format!("the watch ended: {reason}"),
        maybe_applied: false,
    }
}

fn event(message: allot::StoreWatchEvent) -> Option<WatchEvent> {
    Some(match message.event? {
        Told::Entry(entry) => WatchEvent::Put(entry.into()),
        Told::Deleted(deletion) => WatchEvent::Deleted {
            key: deletion.key,
            version: deletion.version,
        },
        Told::Mark(_) => WatchEvent::CaughtUp,
    })
}

/// Opens a watch, and waits for its first word: a master that refuses says so there.
pub(super) async fn open(
    mut client: StoreClient<Channel>,
    request: allot::StoreWatchRequest,
) -> Result<Watch, Status> {
    let mut events = client.watch(request).await?.into_inner();
    let first = events.message().await?;
    let first = first.ok_or_else(|| Status::unavailable("the watch ended before it began"))?;
    Ok(Watch {
        events,
        heard: event(first).into_iter().collect(),
    })
}
