//! The store's gRPC service, and who watches its keys.
//!
//! The core says what changed, in order and once it is durable; here it is shown to those whose
//! keys it concerns. A watcher is among them from the moment its first answer is given, so that it
//! misses nothing and hears nothing twice.

use std::sync::Arc;

use allotment_proto::allot;
use allotment_proto::allot::store_server::Store;
use allotment_proto::allot::store_watch_event::Event as Told;
use futures_util::StreamExt as _;
use tonic::{Request as Wire, Response, Status};

use super::grpc::{BoxStream, Door, mismatch, refused, stopping};
use super::outbox::{Bound, Outbox, outbox};
use super::turn::{Answer, Event};
use crate::core::registry::{StoreRecord, StoredEntry};
use crate::core::{Reply, Request};

/// The most watches at once. Each standby of a framework has one, so this is far away; past it new
/// ones are refused, because those that are there depend on theirs.
const WATCHERS_MAX: usize = 1000;

impl Bound {
    /// Some seconds of the busiest store; the values are shared with the store itself.
    pub(super) const STORE_WATCHER: Self = Self {
        items: 16_384,
        bytes: 64 * 1024 * 1024,
    };
}

/// What waits to be read by a watcher; becomes messages as it is read.
#[derive(Debug)]
pub(super) enum StoreNews {
    /// What is there: bounded by the size of a namespace, and shared with it.
    Present(Vec<(Arc<str>, StoredEntry)>, u64),
    /// A commit that changed some of its keys.
    Changed(Arc<StoreRecord>, Arc<str>),
}

/// One who watches.
#[derive(Debug)]
pub(super) struct Watcher {
    namespace: String,
    prefix: Arc<str>,
    outbox: Outbox<StoreNews>,
}

/// All who watch.
#[derive(Debug, Default)]
pub(super) struct Watchers(Vec<Watcher>);

impl Watcher {
    pub(super) fn new(request: &allot::StoreWatchRequest, outbox: Outbox<StoreNews>) -> Self {
        Self {
            namespace: request.namespace.clone(),
            prefix: request.prefix.as_str().into(),
            outbox,
        }
    }

    /// Ends it with what is wrong.
    pub(super) fn end(&self, why: Status) {
        self.outbox.end(Err(why));
    }

    fn concerns(&self, change: &StoreRecord) -> bool {
        let here = |key: &str| key.starts_with(&*self.prefix);
        self.namespace == change.namespace && change.changes.iter().any(|c| here(&c.key))
    }
}

impl Watchers {
    /// Begins with the core's answer.
    pub(super) fn add(&mut self, watcher: Watcher, answer: Answer) {
        let (entries, version) = match answer {
            Ok(Reply::Watched { entries, version }) => (entries, version),
            Ok(_) => return watcher.end(mismatch()),
            Err(refusal) => return watcher.end(refused(refusal)),
        };
        self.0.retain(|watcher| !watcher.outbox.is_gone());
        if self.0.len() >= WATCHERS_MAX {
            return watcher.end(Status::resource_exhausted(format!(
                "{WATCHERS_MAX} watches are open already; end one before opening another"
            )));
        }
        // An empty queue has room.
        let _ = watcher.outbox.push(StoreNews::Present(entries, version), 0);
        self.0.push(watcher);
    }

    /// Shows a commit to those whose keys it changes.
    pub(super) fn show(&mut self, change: &Arc<StoreRecord>) {
        self.0.retain(|watcher| {
            if watcher.outbox.is_gone() {
                return false;
            }
            if !watcher.concerns(change) {
                return true;
            }
            let values = change.changes.iter().flat_map(|change| &change.value);
            let bytes = values.map(|value| value.len()).sum();
            let news = StoreNews::Changed(Arc::clone(change), Arc::clone(&watcher.prefix));
            watcher.outbox.push(news, bytes) == Ok(())
        });
    }

    /// Ends all at once.
    pub(super) fn cut(&mut self, why: impl Fn() -> Status) {
        for watcher in self.0.drain(..) {
            watcher.outbox.cut(why());
        }
    }
}

fn entry(key: String, entry: StoredEntry) -> allot::StoreEntry {
    allot::StoreEntry {
        key,
        value: entry.value,
        version: entry.version,
    }
}

/// The messages that a piece of news becomes.
fn told(news: StoreNews) -> BoxStream<allot::StoreWatchEvent> {
    let message = |event| Ok(allot::StoreWatchEvent { event: Some(event) });
    match news {
        StoreNews::Present(entries, version) => {
            let mark = Told::Mark(allot::StoreMark { version });
            let entries = entries.into_iter();
            let present = entries.map(|(key, held)| Told::Entry(entry(key.to_string(), held)));
            let all = present.chain(std::iter::once(mark)).map(message);
            Box::pin(futures_util::stream::iter(all))
        }
        StoreNews::Changed(record, prefix) => {
            let version = record.version;
            let concerned = record
                .changes
                .iter()
                .filter(|change| change.key.starts_with(&*prefix));
            let told: Vec<_> = concerned
                .map(|change| {
                    let key = change.key.clone();
                    message(match &change.value {
                        Some(value) => Told::Entry(allot::StoreEntry {
                            key,
                            value: value.clone(),
                            version,
                        }),
                        None => Told::Deleted(allot::StoreDeletion { key, version }),
                    })
                })
                .collect();
            Box::pin(futures_util::stream::iter(told))
        }
    }
}

#[tonic::async_trait]
impl Store for Door {
    async fn commit(
        &self,
        request: Wire<allot::StoreCommitRequest>,
    ) -> Result<Response<allot::StoreCommitResponse>, Status> {
        match self.ask(Request::StoreCommit(request.into_inner())).await? {
            Reply::Committed(version) => Ok(Response::new(allot::StoreCommitResponse { version })),
            _ => Err(mismatch()),
        }
    }

    type ListStream = BoxStream<allot::StoreEntry>;

    async fn list(
        &self,
        request: Wire<allot::StoreListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        match self.ask(Request::StoreList(request.into_inner())).await? {
            Reply::Entries(entries) => {
                let entries = entries.into_iter();
                let entries = entries.map(|(key, held)| Ok(entry(key.to_string(), held)));
                Ok(Response::new(Box::pin(futures_util::stream::iter(entries))))
            }
            _ => Err(mismatch()),
        }
    }

    type WatchStream = BoxStream<allot::StoreWatchEvent>;

    async fn watch(
        &self,
        request: Wire<allot::StoreWatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.open()?;
        let (outbox, outgoing, _) = outbox(Bound::STORE_WATCHER);
        let watch = Event::StoreWatch(request.into_inner(), outbox);
        self.events.send(watch).await.map_err(|_| stopping())?;
        let messages = outgoing.flat_map(|news| match news {
            Ok(news) => told(news),
            Err(status) => Box::pin(futures_util::stream::iter([Err(status)])),
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::registry::StoreChange;
    use tonic::Code;

    use super::super::outbox::Outgoing;

    fn watcher(bound: Bound) -> (Watcher, Outgoing<StoreNews>) {
        let request = allot::StoreWatchRequest {
            namespace: "web".to_owned(),
            prefix: "a/".to_owned(),
        };
        let (outbox, outgoing, _) = outbox(bound);
        (Watcher::new(&request, outbox), outgoing)
    }

    fn present() -> Answer {
        Ok(Reply::Watched {
            entries: Vec::new(),
            version: 0,
        })
    }

    fn change(namespace: &str, keys: &[&str]) -> Arc<StoreRecord> {
        let changes = keys.iter().map(|key| StoreChange {
            key: (*key).to_owned(),
            value: None,
            lease_ms: None,
        });
        Arc::new(StoreRecord {
            namespace: namespace.to_owned(),
            version: 1,
            changes: changes.collect(),
        })
    }

    #[tokio::test]
    async fn a_watcher_hears_of_its_keys_alone_and_one_that_is_too_slow_is_ended() {
        let (first, mut outgoing) = watcher(Bound {
            items: 2,
            bytes: 1024,
        });
        let mut watchers = Watchers::default();
        watchers.add(first, present());
        watchers.show(&change("other", &["a/1"]));
        watchers.show(&change("web", &["b/1"]));
        watchers.show(&change("web", &["b/1", "a/1"]));
        let present = told(outgoing.next().await.unwrap().unwrap());
        assert_eq!(present.count().await, 1, "the mark");
        let changed: Vec<_> = told(outgoing.next().await.unwrap().unwrap())
            .collect()
            .await;
        let deleted = Told::Deleted(allot::StoreDeletion {
            key: "a/1".to_owned(),
            version: 1,
        });
        let heard: Vec<_> = changed.into_iter().map(|m| m.unwrap().event).collect();
        assert_eq!(heard, [Some(deleted)]);
        for _ in 0..3 {
            watchers.show(&change("web", &["a/1"]));
        }
        let end = outgoing.next().await.unwrap().unwrap_err();
        assert_eq!(end.code(), Code::ResourceExhausted);
        assert!(watchers.0.is_empty());
    }

    #[tokio::test]
    async fn watches_are_bounded_and_those_that_went_away_make_room() {
        let mut watchers = Watchers::default();
        let mut open: Vec<_> = (0..WATCHERS_MAX)
            .map(|_| {
                let (watcher, outgoing) = watcher(Bound::STORE_WATCHER);
                watchers.add(watcher, present());
                outgoing
            })
            .collect();
        let (one_more, mut outgoing) = watcher(Bound::STORE_WATCHER);
        watchers.add(one_more, present());
        let refused = outgoing.next().await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        open.pop();
        let (one_more, mut outgoing) = watcher(Bound::STORE_WATCHER);
        watchers.add(one_more, present());
        assert!(outgoing.next().await.unwrap().is_ok());
    }
}
