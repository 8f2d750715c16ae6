//! Nested containers as the loop keeps them: ordered, looked at, waited for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tonic::Status;

use super::driver::{Query, Until};
use super::exec::refused;
use crate::containerizer::nest::Nest;
use crate::core::{
    Command, Done, Harshness, Input, NestedId, NestedOrder, NestedState, NestedView, NoEntry,
};

/// Where orders about nested containers come in; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Inner {
    orders: Arc<Mutex<Orders>>,
    queries: mpsc::Sender<Query>,
    inputs: mpsc::Sender<Input>,
    work_dir: PathBuf,
}

/// Orders that the core has not answered yet.
#[derive(Debug, Default)]
struct Orders {
    n_orders: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Done, NoEntry>>>,
}

fn stopping() -> Status {
    Status::unavailable("the agent is stopping; ask again once it is back")
}

impl Inner {
    pub(super) fn new(
        queries: mpsc::Sender<Query>,
        inputs: mpsc::Sender<Input>,
        work_dir: PathBuf,
    ) -> Self {
        Self {
            orders: Arc::default(),
            queries,
            inputs,
            work_dir,
        }
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The core has decided about an order.
    pub(super) fn answer(&self, number: u64, answer: Result<Done, NoEntry>) {
        if let Some(waiting) = self.orders().waiting.remove(&number) {
            let _ = waiting.send(answer);
        }
    }

    /// Brings an order to the core.
    async fn order(&self, id: &NestedId, order: NestedOrder) -> Result<Done, Status> {
        let (reply, answer) = oneshot::channel();
        let number = {
            let mut orders = self.orders();
            orders.n_orders += 1;
            let number = orders.n_orders;
            orders.waiting.insert(number, reply);
            number
        };
        let id = id.clone();
        let sent = self.inputs.send(Input::Nested { number, id, order }).await;
        if sent.is_err() {
            self.orders().waiting.remove(&number);
            return Err(stopping());
        }
        answer.await.map_err(|_| stopping())?.map_err(refused)
    }

    /// Begins one; returns once its program runs or has run.
    pub(super) async fn launch(&self, id: &NestedId, command: Command) -> Result<Done, Status> {
        let order = NestedOrder::Launch(Box::new(command));
        let done = self.order(id, order).await?;
        if done == Done::Already {
            return Ok(done);
        }
        match self.look(id, Until::Begun).await? {
            Some(NestedView {
                state: NestedState::Ended(end),
                ..
            }) if end.refused => {
                // Whoever asked is told right now, and nobody else knows of it.
                let _ = self.order(id, NestedOrder::Remove).await;
                Err(Status::failed_precondition(end.message.unwrap_or_default()))
            }
            Some(_) => Ok(done),
            None => Err(Status::unavailable(
                "the agent lost its launcher before the container began; launch it again",
            )),
        }
    }

    /// What is known of one, once it has come so far; `None`: nothing.
    pub(super) async fn look(
        &self,
        id: &NestedId,
        until: Until,
    ) -> Result<Option<NestedView>, Status> {
        let (reply, answer) = oneshot::channel();
        let query = Query::Nested(id.clone(), until, reply);
        self.queries.send(query).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Ends one that runs; one that has ended stays as it is.
    pub(super) async fn end(&self, id: &NestedId, how: Harshness) -> Result<Done, Status> {
        self.order(id, NestedOrder::End(how)).await
    }

    /// Removes the sandbox of one that has ended, and forgets it.
    pub(super) async fn remove(&self, id: &NestedId) -> Result<Done, Status> {
        if let Some(view) = self.look(id, Until::Now).await?
            && let NestedState::Ended(_) = view.state
        {
            let nest = Nest::of(&self.work_dir, &view.sandbox, &view.nesting);
            let removed = spawn_blocking(move || nest.remove()).await;
            let removed = removed.map_err(|error| Status::internal(error.to_string()))?;
            removed.map_err(|error| {
                Status::internal(format!(
                    "the sandbox of container {} cannot be removed: {error}",
                    id.name
                ))
            })?;
        }
        self.order(id, NestedOrder::Remove).await
    }
}
