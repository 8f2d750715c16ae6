//! The loop around the queue: events in, one durable write per turn, effects out.
//!
//! - [`serve`](mod@serve): gRPC and HTTP of the process that has the queue; [`standby`]: the door
//!   in front of it, which passes on what another process is to answer.
//! - [`transfer`]: output comes home.
//! - [`spool`]: input goes to agents on other machines.
//! - [`waiters`]: callers that wait for jobs to end; [`why`]: reasons in sentences.

pub(crate) mod serve;
pub(crate) mod spool;
pub(crate) mod standby;
pub(crate) mod transfer;
pub(crate) mod waiters;
pub(crate) mod why;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use allotment_framework_sdk::{Call, Event, Handle, Scheduler};
use allotment_proto::allot::{JobSelection, WaitJobsEvent};
use allotment_types::{FrameworkId, TaskId};
use futures_util::FutureExt as _;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::clock;
use crate::core::{Action, Answer, Core, Effect, Effects, Input, Record, Ticket, TransferProblem};
use crate::metrics::Metrics;
use crate::running::Died;
use crate::store::Store;
use spool::Spool;
use transfer::Transfers;
use waiters::Waiters;

/// How many requests wait for the loop; beyond it callers wait, too.
const REQUESTS_MAX: usize = 256;
/// How many inputs are taken in one turn.
const TURN: usize = 1024;

/// What a caller wants of the loop.
pub(crate) enum Request {
    /// Something the core answers.
    Core(Wish, oneshot::Sender<Answer>),
    /// A look at the queue.
    Look(Box<dyn FnOnce(&Core) + Send>),
    /// Hear of the ends of jobs.
    Wait {
        selection: JobSelection,
        events: mpsc::Sender<Result<WaitJobsEvent, Status>>,
        found: oneshot::Sender<waiters::Found>,
    },
}

/// A wish that the core answers.
pub(crate) enum Wish {
    Reserve(u32),
    Submit(allotment_proto::allot::SubmitJobsRequest),
    Act(Action, JobSelection, Option<String>),
}

/// What the loop is made of.
pub(crate) struct Edge {
    pub(crate) core: Core,
    pub(crate) store: Store,
    pub(crate) scheduler: Scheduler,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) transfers: Transfers,
    /// For those that read sandboxes.
    pub(crate) framework: Arc<Mutex<Option<FrameworkId>>>,
    pub(crate) spool: Arc<Spool>,
    pub(crate) metrics: Arc<Metrics>,
}

/// The way to the loop.
pub(crate) fn requests() -> (mpsc::Sender<Request>, mpsc::Receiver<Request>) {
    mpsc::channel(REQUESTS_MAX)
}

struct Turn {
    replies: BTreeMap<Ticket, oneshot::Sender<Answer>>,
    waiters: Waiters,
    next_ticket: Ticket,
    /// Calls that found no room yet.
    unsent: VecDeque<Call>,
}

impl Edge {
    /// Runs until stopped or until nothing more can come.
    pub(crate) async fn run(self, mut stop: oneshot::Receiver<()>) -> Result<(), Died> {
        let Self {
            mut core,
            store,
            mut scheduler,
            mut requests,
            mut transfers,
            framework,
            spool,
            metrics,
        } = self;
        let handle = scheduler.handle();
        let mut store = Some(store);
        let mut turn = Turn {
            replies: BTreeMap::new(),
            waiters: Waiters::default(),
            next_ticket: 0,
            unsent: VecDeque::new(),
        };
        let mut events = Vec::new();
        let mut done: Vec<(TaskId, Result<(), TransferProblem>)> = Vec::new();
        let outcome = loop {
            let mut effects = Effects::none();
            let mut died = None;
            let deadline = core.next_deadline();
            let pause = deadline.map(|at| at.since(clock::now()).max(Duration::from_millis(1)));
            let first_call = turn.unsent.front().cloned();
            let mut request = None;
            tokio::select! {
                n = scheduler.next_batch(&mut events) => {
                    if n == 0 {
                        break Err(Died {
                            reason: "the master ended the subscription; see its log".to_owned(),
                        });
                    }
                }
                some = requests.recv() => match some {
                    Some(some) => request = Some(some),
                    None => break Ok(()),
                },
                n = transfers.finished(&mut done) => {
                    if n == 0 {
                        break Ok(());
                    }
                }
                sent = say(&handle, first_call) => {
                    if sent {
                        turn.unsent.pop_front();
                    }
                }
                () = sleep(pause) => {}
                _ = &mut stop => break Ok(()),
            }
            let now = clock::now();
            let mut looks = Vec::new();
            // All that is here already belongs to this turn, so that one write serves it.
            while let Some(next) = request.take().or_else(|| requests.try_recv().ok()) {
                match next {
                    Request::Core(wish, reply) => {
                        let ticket = turn.next_ticket;
                        turn.next_ticket += 1;
                        turn.replies.insert(ticket, reply);
                        effects.append(core.step(now, wish.into_input(ticket)));
                    }
                    // Looks come after the write: nobody may see what is not durable.
                    look => looks.push(look),
                }
                if effects.persist.len() >= TURN {
                    break;
                }
            }
            if events.len() < TURN {
                let _more = scheduler.next_batch(&mut events).now_or_never();
            }
            for event in events.drain(..) {
                if let Some(input) = input(event, &mut died) {
                    effects.append(core.step(now, input));
                }
            }
            transfers.finished_now(&mut done);
            for (task, outcome) in done.drain(..) {
                effects.append(core.step(now, Input::Transferred { task, outcome }));
            }
            if deadline.is_some_and(|at| at <= now) {
                effects.append(core.step(now, Input::Tick));
            }
            if let Err(broken) = persist(&mut store, effects.persist).await {
                break Err(broken);
            }
            if let Ok(mut known) = framework.lock()
                && known.as_ref() != core.framework()
            {
                *known = core.framework().cloned();
            }
            turn.perform(effects.then, &handle, &mut transfers, &spool);
            for look in looks {
                match look {
                    Request::Look(look) => look(&core),
                    Request::Wait {
                        selection,
                        events,
                        found,
                    } => turn.waiters.add(&core, &selection, events, found),
                    Request::Core(..) => {}
                }
            }
            metrics.update(&core);
            if let Some(died) = died {
                break Err(died);
            }
        };
        transfers.stop();
        scheduler.stop().await;
        outcome
    }
}

impl Wish {
    fn into_input(self, ticket: Ticket) -> Input {
        match self {
            Self::Reserve(count) => Input::Reserve { ticket, count },
            Self::Submit(request) => Input::Submit { ticket, request },
            Self::Act(action, selection, reason) => Input::Act {
                ticket,
                action,
                selection,
                reason,
            },
        }
    }
}

/// What an event means for the core.
fn input(event: Event, died: &mut Option<Died>) -> Option<Input> {
    match event {
        Event::Subscribed { framework } => {
            tracing::info!(%framework, "subscribed");
            Some(Input::Subscribed(framework))
        }
        Event::Disconnected { reason } => {
            tracing::warn!(reason, "disconnected from the master");
            Some(Input::Disconnected)
        }
        Event::Offers(offers) => Some(Input::Offers(offers)),
        Event::Rescinded(offer) => Some(Input::Rescinded(offer)),
        Event::Update(update) => Some(Input::Update(update)),
        // The tasks of a lost agent have updates of their own.
        Event::AgentLost(agent) => {
            tracing::info!(%agent, "an agent is lost");
            None
        }
        // Jobs stay until their agent goes and run again elsewhere.
        Event::InverseOffers(asked) => {
            tracing::info!(n_agents = asked.len(), "agents will be away");
            None
        }
        // No job runs in an executor of its own making.
        Event::InverseRescinded(_) | Event::Executor { .. } => None,
        // What it concerned is reconciled: tasks that were never launched come back as lost.
        Event::Rejected { call, message } => {
            tracing::warn!(call, message, "the master refused a call");
            None
        }
        Event::Error(message) => {
            *died = Some(Died {
                reason: format!(
                    "the master ended the framework: {message}; its running jobs go back to \
                     idle, start it again to go on"
                ),
            });
            Some(Input::FrameworkEnded(message))
        }
    }
}

/// Says the oldest waiting call; never comes back when there is none.
async fn say(handle: &Handle, call: Option<Call>) -> bool {
    match call {
        // An ended subscription shows in its events, too.
        Some(call) => {
            let _ended = handle.call(call).await;
            true
        }
        None => std::future::pending().await,
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// Makes records durable without blocking the runtime.
async fn persist(store: &mut Option<Store>, records: Vec<Record>) -> Result<(), Died> {
    if records.is_empty() {
        return Ok(());
    }
    let Some(mut used) = store.take() else {
        return Err(Died {
            reason: "the database is gone".to_owned(),
        });
    };
    let written = tokio::task::spawn_blocking(move || {
        let written = used.commit(records);
        (used, written)
    });
    let problem = match written.await {
        Ok((used, Ok(()))) => {
            *store = Some(used);
            return Ok(());
        }
        Ok((_, Err(error))) => error.to_string(),
        Err(error) => error.to_string(),
    };
    Err(Died {
        reason: format!("{problem}; free space or repair the disk, then start it again"),
    })
}

impl Turn {
    fn perform(
        &mut self,
        effects: Vec<Effect>,
        handle: &Handle,
        transfers: &mut Transfers,
        spool: &Spool,
    ) {
        let mut orders = Vec::new();
        for effect in effects {
            match effect {
                Effect::Call(mut call) => {
                    spool.grant(&mut call);
                    self.say(handle, call);
                }
                Effect::Reply(ticket, answer) => {
                    if let Some(reply) = self.replies.remove(&ticket) {
                        let _gone = reply.send(answer);
                    }
                }
                Effect::Transfer(order) => orders.push(*order),
                Effect::Ended(ended) => self.waiters.ended(ended),
                Effect::RunOver(task) => spool.revoke(&task),
            }
        }
        self.waiters.flush();
        transfers.start(orders);
    }

    /// In order, never waiting: the loop must go on reading events.
    fn say(&mut self, handle: &Handle, call: Call) {
        if !self.unsent.is_empty() {
            self.unsent.push_back(call);
        } else if let Err(call) = handle.try_call(call) {
            self.unsent.push_back(call);
        }
    }
}
