//! Of several services processes of one name one leads; the life of this one between the two.
//!
//! Leading begins by taking the fence over and reading the state, and ends by dropping both with
//! everything that was under way. The process itself goes on.

use allotment_framework_sdk::{Config, Election, Scheduler, Standing, Store, Terms};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::Message;
use super::driver::{Doors, Driver, End};
use super::http::Phase;
use super::state::State;
use crate::core::answer::Answer;
use crate::core::{Core, Settings};

/// What every reign of this process begins with.
pub(super) struct Process {
    pub(super) settings: Settings,
    pub(super) store: Store,
    pub(super) subscription: Config,
}

impl Process {
    /// Leads when it may and follows when it may not, until it is told to stop.
    ///
    /// # Errors
    /// Why no process of this name can go on.
    pub(super) async fn run(
        self,
        terms: Terms,
        mut doors: Doors,
        mut stop: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let mut election = Election::start(self.store.clone(), terms);
        let ended = loop {
            match election.standing() {
                Standing::Leads => match self.reign(&mut election, &mut doors, &stop).await {
                    Ok(End::Stopped) => break Ok(()),
                    Ok(End::Lost(reason)) => {
                        warn!(reason, "this process leads no more");
                        doors.phase.send_replace(Phase::Waiting(reason));
                        // Another may have taken over without having been elected.
                        election.abdicate().await;
                    }
                    Ok(End::Abdicated(asked)) => {
                        let reason = "leadership was given up".to_owned();
                        doors.phase.send_replace(Phase::Waiting(reason));
                        election.abdicate().await;
                        let done = json!({ "message": "Leadership abdicated" });
                        let _ = asked.send(Answer::ok(done));
                    }
                    Err(error) => break Err(error),
                },
                Standing::Follows(leader) => {
                    let standby = Phase::Standby(leader.url);
                    if doors.phase.send_replace(standby.clone()) != standby
                        && let Phase::Standby(leader) = standby
                    {
                        info!(leader, "another process leads; this one stands by");
                    }
                }
                Standing::Unknown(reason) => {
                    let waiting = Phase::Waiting(reason.clone());
                    if doors.phase.send_replace(waiting.clone()) != waiting {
                        warn!(reason, "waiting for a master to say who leads");
                    }
                }
            }
            let stopped = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => true,
                _ = election.changed() => false,
                () = refuse(&mut doors.messages) => false,
            };
            if stopped {
                break Ok(());
            }
        };
        election.leave().await;
        ended
    }

    /// Leads, until it does no more.
    async fn reign(
        &self,
        election: &mut Election,
        doors: &mut Doors,
        stop: &watch::Receiver<bool>,
    ) -> anyhow::Result<End> {
        let taking_over = "this process is taking over".to_owned();
        doors.phase.send_replace(Phase::Waiting(taking_over));
        let on_wait = |reason: &str| {
            let waiting = Phase::Waiting(reason.to_owned());
            if doors.phase.send_replace(waiting.clone()) != waiting {
                warn!(reason, "waiting for a master");
            }
        };
        let mut stopped = stop.clone();
        let opened = tokio::select! {
            opened = State::open(self.store.clone(), on_wait) => opened,
            reason = election.lost() => return Ok(End::Lost(reason)),
            _ = stopped.wait_for(|stop| *stop) => return Ok(End::Stopped),
        };
        // From before it led, too: the first that is let in comes after the subscription.
        while doors.messages.try_recv().is_ok() {}
        let (state, entries) = opened?;
        let n_entries = entries.len();
        let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
        let core = Core::load(self.settings.clone(), seed, entries)?;
        info!(n_entries, framework = ?core.framework(), "this process leads; state loaded");
        let scheduler = Scheduler::connect(Config {
            framework_id: core.framework().cloned(),
            ..self.subscription.clone()
        })?;
        let subscribed = (scheduler, self.subscription.clone());
        let driver = Driver::new(core, subscribed, state, doors);
        driver.run(stop.clone(), election).await
    }
}

/// Drops what was meant for a core when it went: its absence is the answer. Nothing may wait here
/// for a later reign, when nobody expects it any more.
async fn refuse(messages: &mut mpsc::Receiver<Message>) {
    while messages.recv().await.is_some() {}
    std::future::pending().await
}
