//! The scheduler's side of a subscription as a pure state machine.
//!
//! [`Session`] turns [`Call`]s into wire messages and wire messages into [`Event`]s, keeps the
//! framework's id over reconnections, and decides when to connect where. It knows neither
//! sockets nor clocks: [`crate::driver`] gives it both, and so may a simulator.
//!
//! What it promises a framework:
//! - The first master that answers SUBSCRIBED is kept until its stream breaks or goes silent;
//!   then the masters are tried in turn, forever, with growing pauses.
//! - A task that was passed to [`Call::Accept`] is heard of: a launch that could not be sent ends
//!   in TASK_DROPPED at once, one that was in flight when the stream broke is reconciled, again
//!   and again until the master answers.
//! - A status update that was acknowledged does not come twice.
//! - A malformed event is refused with a reason and changes nothing; a malformed offer is given
//!   back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::time::Duration;

use allotment_proto::mesos::TaskState;
use allotment_proto::mesos::task_status::{Reason, Source};
use allotment_proto::{allot, mesos, scheduler};
use allotment_types::{AgentId, Effects, FrameworkId, OfferId, Resources, Role, TaskId, Timestamp};
use bytes::Bytes;

use crate::api::{Call, Event, Operation, Task, Update};
use crate::carve::carve;
use crate::config::{Config, ConfigError, master_url};
use crate::launched::Launched;
use crate::wants::Wants;
use crate::wire;

/// From opening a connection to SUBSCRIBED; a master that recovers its registry answers later,
/// and is then tried again.
pub const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Missed heartbeats after which a stream counts as dead: Mesos' five.
pub const HEARTBEATS_MISSED_MAX: u32 = 5;
/// The first pause between two rounds over all masters.
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two rounds.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// For each of these that a subscription lived, one that broke before is forgiven: a cluster whose
/// leader changes every few seconds is no reason to stay away from it, a master that drops every
/// subscription at once is.
const FORGIVEN_AFTER: Duration = Duration::from_secs(1);
/// How many acknowledged updates are remembered: what a cluster of a few thousand tasks can send
/// twice after a reconnection. Beyond it an update may be delivered again, as Mesos allows.
const ACKNOWLEDGED_MAX: usize = 16_384;
/// How many different reasons are told between two subscriptions.
const TOLD_MAX: usize = 64;

/// What a session is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The clock moved; due at [`Session::next_deadline`].
    Tick,
    /// A message came over connection number `connection`.
    Received {
        /// From [`Effect::Connect`].
        connection: u64,
        /// The message.
        event: Box<scheduler::Event>,
    },
    /// The connection could not be opened, or ended.
    Closed {
        /// From [`Effect::Connect`].
        connection: u64,
        /// Why, in words; with the address and what to check when it could not be opened.
        reason: String,
        /// The master ended the stream in good order.
        clean: bool,
    },
    /// The framework says something.
    Call(Call),
}

/// What a session asks of whoever drives it.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Open a stream to `master` and send `subscribe` as its first message. Any earlier
    /// connection is closed by now.
    Connect {
        /// Names the connection in [`Input`]s; stale ones are ignored.
        connection: u64,
        /// `http://host:port`.
        master: String,
        /// The first message.
        subscribe: Box<scheduler::Call>,
    },
    /// Close the connection; nothing that still comes from it matters.
    Disconnect,
    /// Send over the current connection.
    Send(Box<scheduler::Call>),
    /// Hand to the framework.
    Deliver(Event),
    /// The master sent something malformed; log it.
    Refused(String),
    /// The session is over: after [`Event::Error`], or after a teardown went through.
    End,
}

/// What one step asks; a session keeps nothing durable.
pub type Step = Effects<Infallible, Effect>;

#[derive(Debug)]
enum Link {
    /// Between connections.
    Waiting { until: Timestamp },
    /// SUBSCRIBE was sent, or is about to be.
    Subscribing { connection: u64, until: Timestamp },
    /// Events flow.
    Subscribed {
        connection: u64,
        since: Timestamp,
        heartbeat: Duration,
        silent_at: Timestamp,
    },
    /// Nothing more will happen.
    Ended,
}

/// One framework's subscription.
#[derive(Debug)]
pub struct Session {
    info: mesos::FrameworkInfo,
    roles: Vec<Role>,
    masters: Vec<String>,
    framework: Option<FrameworkId>,
    link: Link,
    /// Which of `masters` is being used or tried.
    master: usize,
    /// Masters tried in a row without a subscription.
    failures: u32,
    /// Subscriptions that broke and are not forgiven yet.
    broken: u32,
    connections: u64,
    /// Names this session to masters.
    process: u64,
    jitter: u64,
    suppressed: bool,
    /// What the latest SUBSCRIBE said of it; the framework may change its mind before the answer.
    subscribed_suppressed: bool,
    /// The framework wants to be gone; kept until the master confirmed it.
    tearing_down: bool,
    /// What the framework wants to be offered.
    wants: Wants,
    offers: BTreeMap<OfferId, Resources>,
    acknowledged: Acknowledged,
    launched: Launched,
    /// The reasons that the framework was told since it was last subscribed, so that it is not
    /// told the same every round.
    told: BTreeSet<String>,
}

impl Session {
    /// A session that connects at its first [`Input::Tick`]. `seed` is drawn at random for each
    /// session: it names it to masters, which tell by it a SUBSCRIBE that comes late from one of
    /// another process, and spreads reconnections of many frameworks over time.
    ///
    /// # Errors
    /// [`ConfigError`] from [`Config::validate`].
    pub fn new(config: &Config, seed: u64) -> Result<Self, ConfigError> {
        config.validate()?;
        let masters: Result<Vec<_>, _> = config.masters.iter().map(|m| master_url(m)).collect();
        Ok(Self {
            info: config.framework_info(),
            roles: config.roles.clone(),
            masters: masters?,
            framework: config.framework_id.clone(),
            link: Link::Waiting {
                until: Timestamp::ZERO,
            },
            master: 0,
            failures: 0,
            broken: 0,
            connections: 0,
            process: seed,
            jitter: seed,
            suppressed: config.suppressed,
            subscribed_suppressed: config.suppressed,
            tearing_down: false,
            wants: config.wants.clone(),
            offers: BTreeMap::new(),
            acknowledged: Acknowledged::default(),
            launched: Launched::default(),
            told: BTreeSet::new(),
        })
    }

    /// The framework's id, once a master gave it or when the configuration did.
    pub fn framework(&self) -> Option<&FrameworkId> {
        self.framework.as_ref()
    }

    /// Whether calls reach a master now.
    pub fn is_subscribed(&self) -> bool {
        matches!(self.link, Link::Subscribed { .. })
    }

    /// When [`Input::Tick`] is due next; `None` once the session has ended.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        match self.link {
            Link::Waiting { until } | Link::Subscribing { until, .. } => Some(until),
            Link::Subscribed { silent_at, .. } => {
                let again = self.launched.again_at();
                Some(again.map_or(silent_at, |again| again.min(silent_at)))
            }
            Link::Ended => None,
        }
    }

    /// Takes one input and says what follows.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Step {
        let mut out = Vec::new();
        match input {
            Input::Tick => self.on_tick(now, &mut out),
            Input::Received { connection, event } => {
                if self.is_current(connection) {
                    self.on_event(now, connection, *event, &mut out);
                }
            }
            Input::Closed {
                connection,
                reason,
                clean,
            } => {
                if self.is_current(connection) {
                    self.on_closed(now, reason, clean, &mut out);
                }
            }
            Input::Call(call) => self.on_call(now, call, &mut out),
        }
        Effects {
            persist: Vec::new(),
            then: out,
        }
    }

    fn is_current(&self, number: u64) -> bool {
        match self.link {
            Link::Subscribing { connection, .. } | Link::Subscribed { connection, .. } => {
                connection == number
            }
            Link::Waiting { .. } | Link::Ended => false,
        }
    }

    fn on_tick(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        match self.link {
            Link::Waiting { until } if until <= now => self.connect(now, out),
            Link::Subscribing { until, .. } if until <= now => {
                out.push(Effect::Disconnect);
                let reason = format!(
                    "master {} took the connection but did not answer SUBSCRIBE within {} s; \
                     check its log",
                    self.master_name(),
                    SUBSCRIBE_TIMEOUT.as_secs()
                );
                self.lost(now, reason, out);
            }
            Link::Subscribed {
                silent_at,
                heartbeat,
                ..
            } if silent_at <= now => {
                out.push(Effect::Disconnect);
                let reason = format!(
                    "master {} has been silent for {} s ({HEARTBEATS_MISSED_MAX} heartbeats); \
                     check that it runs and that the network to it is up",
                    self.master_name(),
                    (heartbeat * HEARTBEATS_MISSED_MAX).as_secs_f64()
                );
                self.lost(now, reason, out);
            }
            Link::Subscribed { .. } => {
                let unanswered = self.launched.ask_again(now);
                self.reconcile(unanswered, out);
            }
            Link::Waiting { .. } | Link::Subscribing { .. } | Link::Ended => {}
        }
    }

    fn connect(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        self.connections += 1;
        let connection = self.connections;
        self.link = Link::Subscribing {
            connection,
            until: now + SUBSCRIBE_TIMEOUT,
        };
        let mut info = self.info.clone();
        info.id = self.framework.as_ref().map(Into::into);
        self.subscribed_suppressed = self.suppressed;
        let suppressed_roles = if self.suppressed {
            info.roles.clone()
        } else {
            Vec::new()
        };
        let mut subscribe = scheduler::Call {
            framework_id: info.id.clone(),
            subscribe: Some(Box::new(scheduler::call::Subscribe {
                framework_info: info,
                suppressed_roles,
                offer_constraints: wire::wants::constraints(&self.wants),
                attempt: Some(allot::Attempt {
                    process: self.process,
                    number: connection,
                }),
            })),
            ..Default::default()
        };
        subscribe.set_type(scheduler::call::Type::Subscribe);
        out.push(Effect::Connect {
            connection,
            master: self.masters.get(self.master).cloned().unwrap_or_default(),
            subscribe: Box::new(subscribe),
        });
    }

    /// The master in use or being tried, `host:port`.
    pub fn master_name(&self) -> &str {
        let url = self.masters.get(self.master).map_or("", String::as_str);
        url.strip_prefix("http://").unwrap_or(url)
    }

    fn on_closed(&mut self, now: Timestamp, reason: String, clean: bool, out: &mut Vec<Effect>) {
        if self.tearing_down && clean && self.is_subscribed() {
            return self.end(out);
        }
        self.lost(now, reason, out);
    }

    /// The connection is gone: void what depended on it and decide when to try whom.
    fn lost(&mut self, now: Timestamp, reason: String, out: &mut Vec<Effect>) {
        self.offers.clear();
        let until = match self.link {
            Link::Subscribed { since, .. } => {
                let forgiven = now.since(since).as_secs() / FORGIVEN_AFTER.as_secs();
                let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
                self.broken = self.broken.saturating_sub(forgiven);
                self.told.clear();
                // The same master first: a broken stream is no reason to suspect it. A fleet of
                // frameworks must not come back in the same instant.
                let pause = BACKOFF_MIN * 2u32.saturating_pow(self.broken.min(16));
                self.broken = self.broken.saturating_add(1);
                now + self.spread(pause.min(BACKOFF_MAX))
            }
            Link::Waiting { .. } | Link::Subscribing { .. } | Link::Ended => {
                self.failures = self.failures.saturating_add(1);
                self.master = (self.master + 1) % self.masters.len().max(1);
                let masters = u32::try_from(self.masters.len().max(1)).unwrap_or(1);
                if self.failures.is_multiple_of(masters) {
                    let rounds = (self.failures / masters).saturating_sub(1).min(16);
                    let pause = BACKOFF_MIN * 2u32.saturating_pow(rounds);
                    now + self.spread(pause.min(BACKOFF_MAX))
                } else {
                    now
                }
            }
        };
        self.link = Link::Waiting { until };
        if self.told.len() < TOLD_MAX && self.told.insert(reason.clone()) {
            out.push(Effect::Deliver(Event::Disconnected { reason }));
        }
    }

    /// Between half of `pause` and all of it.
    fn spread(&mut self, pause: Duration) -> Duration {
        // splitmix64: enough to keep frameworks apart, and the same for the same seed.
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let part = u32::try_from(z >> 32).unwrap_or(u32::MAX) >> 8;
        pause / 2 + (pause / 2).mul_f64(f64::from(part) / f64::from(1u32 << 24))
    }

    fn end(&mut self, out: &mut Vec<Effect>) {
        self.link = Link::Ended;
        self.offers.clear();
        out.push(Effect::Disconnect);
        out.push(Effect::End);
    }

    fn on_event(
        &mut self,
        now: Timestamp,
        connection: u64,
        event: scheduler::Event,
        out: &mut Vec<Effect>,
    ) {
        use scheduler::event::Type;
        if let Link::Subscribed {
            heartbeat,
            silent_at,
            ..
        } = &mut self.link
        {
            *silent_at = now + *heartbeat * HEARTBEATS_MISSED_MAX;
        }
        let kind = event.r#type();
        let subscribed = self.is_subscribed();
        let before_subscribed = matches!(kind, Type::Subscribed | Type::Error | Type::CallRejected);
        if !subscribed && !before_subscribed && kind != Type::Heartbeat {
            let text = format!("a {} event came before SUBSCRIBED", kind.as_str_name());
            out.push(Effect::Refused(text));
            return;
        }
        match kind {
            Type::Subscribed => {
                self.on_subscribed(now, connection, event.subscribed.map(|s| *s), out)
            }
            Type::Offers => self.on_offers(event.offers, out),
            Type::Rescind => match event
                .rescind
                .as_ref()
                .map(|r| OfferId::try_from(&r.offer_id))
            {
                Some(Ok(offer)) => {
                    self.offers.remove(&offer);
                    out.push(Effect::Deliver(Event::Rescinded(offer)));
                }
                Some(Err(error)) => out.push(Effect::Refused(format!("RESCIND: {error}"))),
                None => out.push(no_body(kind)),
            },
            Type::Update => match event.update {
                Some(update) => self.on_update(update.status, out),
                None => out.push(no_body(kind)),
            },
            Type::Failure => match event.failure {
                Some(failure) => match wire::executors::failure(&failure) {
                    Ok(event) => out.push(Effect::Deliver(event)),
                    Err(error) => out.push(Effect::Refused(format!("FAILURE: {error}"))),
                },
                None => out.push(no_body(kind)),
            },
            Type::Error => {
                let message = event.error.map_or_else(
                    || "the master ended the subscription without a reason".to_owned(),
                    |error| error.message,
                );
                // A teardown that was sent again finds the framework gone: what was wanted.
                if !self.tearing_down {
                    out.push(Effect::Deliver(Event::Error(message)));
                }
                self.end(out);
            }
            Type::CallRejected => match event.call_rejected {
                Some(rejected) => self.on_rejected(now, &rejected, out),
                None => out.push(no_body(kind)),
            },
            Type::Heartbeat => {}
            Type::InverseOffers => match event.inverse_offers {
                Some(asked) => self.on_inverse_offers(&asked.inverse_offers, out),
                None => out.push(no_body(kind)),
            },
            Type::RescindInverseOffer => match event
                .rescind_inverse_offer
                .as_ref()
                .map(|r| OfferId::try_from(&r.inverse_offer_id))
            {
                Some(Ok(id)) => out.push(Effect::Deliver(Event::InverseRescinded(id))),
                Some(Err(error)) => {
                    out.push(Effect::Refused(format!("RESCIND_INVERSE_OFFER: {error}")));
                }
                None => out.push(no_body(kind)),
            },
            Type::Message => match event.message.map(|m| wire::executors::message(*m)) {
                Some(Ok(event)) => out.push(Effect::Deliver(event)),
                Some(Err(error)) => out.push(Effect::Refused(format!("MESSAGE: {error}"))),
                None => out.push(no_body(kind)),
            },
            Type::Unknown | Type::UpdateOperationStatus => {
                let text = format!(
                    "an event of type {} is not supported; it was ignored",
                    event.r#type.unwrap_or_default()
                );
                out.push(Effect::Refused(text));
            }
        }
    }

    fn on_subscribed(
        &mut self,
        now: Timestamp,
        connection: u64,
        subscribed: Option<scheduler::event::Subscribed>,
        out: &mut Vec<Effect>,
    ) {
        if self.is_subscribed() {
            out.push(Effect::Refused("SUBSCRIBED came twice".to_owned()));
            return;
        }
        let given = subscribed
            .as_ref()
            .map(|s| FrameworkId::try_from(&s.framework_id).map_err(|e| e.to_string()))
            .unwrap_or_else(|| Err("SUBSCRIBED has no body".to_owned()));
        let framework = match (given, &self.framework) {
            (Ok(given), Some(ours)) if given != *ours => {
                Err(format!("it subscribed {given} although we are {ours}"))
            }
            (Ok(given), _) => Ok(given),
            (Err(problem), _) => Err(problem),
        };
        let framework = match framework {
            Ok(framework) => framework,
            Err(problem) => {
                out.push(Effect::Disconnect);
                let reason = format!(
                    "master {} cannot be trusted: {problem}; check which cluster it belongs to",
                    self.master_name()
                );
                return self.lost(now, reason, out);
            }
        };
        let heartbeat = subscribed
            .and_then(|s| s.heartbeat_interval_seconds)
            .filter(|seconds| seconds.is_finite() && *seconds > 0.0)
            .map_or(Duration::from_secs(15), |seconds| {
                Duration::from_secs_f64(seconds.clamp(0.1, 3600.0))
            });
        self.framework = Some(framework.clone());
        self.failures = 0;
        self.link = Link::Subscribed {
            connection,
            since: now,
            heartbeat,
            silent_at: now + heartbeat * HEARTBEATS_MISSED_MAX,
        };
        self.told.clear();
        out.push(Effect::Deliver(Event::Subscribed { framework }));
        if self.tearing_down {
            self.send(&Call::Teardown, out);
            return;
        }
        if self.suppressed != self.subscribed_suppressed {
            let wish = if self.suppressed {
                Call::Suppress
            } else {
                Call::Revive
            };
            self.send(&wish, out);
        }
        self.reconcile_launched(now, out);
    }

    /// Asks for every task whose launch may have been lost.
    fn reconcile_launched(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let doubted = self.launched.doubt_all(now);
        self.reconcile(doubted, out);
    }

    fn reconcile(&self, tasks: Vec<(TaskId, Option<AgentId>)>, out: &mut Vec<Effect>) {
        // Without a task it would ask for all there are.
        if !tasks.is_empty() {
            self.send(&Call::Reconcile(tasks), out);
        }
    }

    fn on_offers(&mut self, offers: Option<scheduler::event::Offers>, out: &mut Vec<Effect>) {
        let (Some(offers), Some(framework)) = (offers, self.framework.clone()) else {
            out.push(no_body(scheduler::event::Type::Offers));
            return;
        };
        let mut good = Vec::with_capacity(offers.offers.len());
        for mut offer in offers.offers {
            match wire::offer(&framework, &self.roles, &mut offer) {
                Ok(offer) => {
                    self.offers
                        .insert(offer.id.clone(), offer.resources.clone());
                    good.push(offer);
                }
                Err(problem) => {
                    out.push(Effect::Refused(format!("{problem}; it was declined")));
                    // Held, it would be lost to everybody.
                    if let Ok(id) = OfferId::try_from(&offer.id) {
                        let decline = Call::Decline {
                            offers: vec![id],
                            refuse_for: Some(Duration::from_secs(60)),
                        };
                        self.send(&decline, out);
                    }
                }
            }
        }
        if !good.is_empty() {
            out.push(Effect::Deliver(Event::Offers(good)));
        }
    }

    fn on_inverse_offers(&self, asked: &[mesos::InverseOffer], out: &mut Vec<Effect>) {
        let mut good = Vec::with_capacity(asked.len());
        for wire in asked {
            match wire::wants::inverse_offer(wire) {
                Ok(offer) => good.push(offer),
                Err(problem) => out.push(Effect::Refused(problem)),
            }
        }
        if !good.is_empty() {
            out.push(Effect::Deliver(Event::InverseOffers(good)));
        }
    }

    fn on_update(&mut self, status: mesos::TaskStatus, out: &mut Vec<Effect>) {
        let update = match wire::update(status) {
            Ok(update) => update,
            Err(problem) => {
                out.push(Effect::Refused(problem));
                return;
            }
        };
        // Its agent may return without it, and then nobody tells unless asked.
        if update.state != TaskState::TaskUnreachable {
            self.launched.heard(&update.task);
        }
        if let Some(uuid) = &update.uuid
            && self.acknowledged.contains(&update.task, uuid)
        {
            if let Some(again) = update.acknowledgement() {
                self.send(&again, out);
            }
            return;
        }
        out.push(Effect::Deliver(Event::Update(update)));
    }

    fn on_rejected(
        &mut self,
        now: Timestamp,
        rejected: &scheduler::event::CallRejected,
        out: &mut Vec<Effect>,
    ) {
        use scheduler::call::Type;
        let kind = rejected.call();
        if kind == Type::Subscribe {
            // The same words would be refused again, by every master.
            out.push(Effect::Deliver(Event::Error(rejected.message.clone())));
            return self.end(out);
        }
        out.push(Effect::Deliver(Event::Rejected {
            call: kind.as_str_name().to_owned(),
            message: rejected.message.clone(),
        }));
        if kind == Type::Accept && self.is_subscribed() {
            // The rejection does not say which launch it means; the answers do.
            self.reconcile_launched(now, out);
        }
    }

    fn send(&self, call: &Call, out: &mut Vec<Effect>) {
        if let Some(framework) = &self.framework {
            let mut call = wire::call(framework, call);
            if let Some(update) = &mut call.update_framework {
                update.framework_info = self.info.clone();
                update.framework_info.id = Some(framework.into());
                if self.suppressed {
                    update.suppressed_roles.clone_from(&self.info.roles);
                }
            }
            out.push(Effect::Send(Box::new(call)));
        }
    }

    /// Takes over what the framework wants from now on, for this subscription and later ones.
    fn want(&mut self, roles: &[Role], wants: &Wants) {
        self.roles = roles.to_vec();
        self.wants = wants.clone();
        self.info.roles = roles.iter().map(|role| role.as_str().to_owned()).collect();
        self.info.offer_filters = wire::wants::offer_filters(wants);
    }

    /// Serves plain amounts of tasks from what the offers hold reserved, too.
    fn carve(&self, offers: &[OfferId], tasks: &mut [Task]) {
        let mut pool = Resources::EMPTY;
        for resources in offers.iter().filter_map(|offer| self.offers.get(offer)) {
            pool.add(resources);
        }
        if pool == pool.plain() {
            return;
        }
        for task in tasks {
            // What does not fit goes as it is, for the master to say so.
            if let Some(carved) = carve(&mut pool, &task.resources) {
                task.resources = carved;
            }
        }
    }

    fn on_call(&mut self, now: Timestamp, mut call: Call, out: &mut Vec<Effect>) {
        if matches!(self.link, Link::Ended) {
            return;
        }
        if let Call::Accept { offers, tasks, .. } = &mut call {
            self.carve(offers, tasks);
        }
        let subscribed = self.is_subscribed();
        match &call {
            Call::Accept { offers, .. } | Call::Operate { offers, .. } => {
                let taken = offers.iter().filter_map(|offer| self.offers.remove(offer));
                let known = taken.count();
                if !subscribed || known == 0 {
                    let problem = if subscribed {
                        "none of its offers is outstanding; they were rescinded, used or voided \
                         by a reconnection"
                    } else {
                        "there is no connection to a master, which voids all offers"
                    };
                    self.drop_launch(now, &call, problem, out);
                    return;
                }
                for (agent, task) in launches(&call) {
                    self.launched.add(&task.id, agent);
                }
            }
            Call::Decline { offers, .. } => {
                for offer in offers {
                    self.offers.remove(offer);
                }
            }
            Call::Revive => self.suppressed = false,
            Call::Suppress => self.suppressed = true,
            Call::Acknowledge { task, uuid, .. } => {
                self.acknowledged.insert(task.clone(), uuid.clone());
            }
            Call::Teardown => {
                self.tearing_down = true;
                if self.framework.is_none() {
                    return self.end(out);
                }
            }
            Call::Update { roles, wants } => self.want(roles, wants),
            Call::Kill { .. }
            | Call::Message { .. }
            | Call::ShutdownExecutor { .. }
            | Call::Reconcile(_)
            | Call::Demand { .. }
            | Call::AcceptInverse { .. }
            | Call::DeclineInverse { .. } => {
                if !subscribed {
                    out.push(Effect::Deliver(Event::Rejected {
                        call: wire::call_name(&call).to_owned(),
                        message: "there is no connection to a master; say it again after the \
                                  next Subscribed"
                            .to_owned(),
                    }));
                }
            }
        }
        if subscribed {
            if let Call::Reconcile(tasks) = &mut call {
                self.launched.ask(now, tasks);
            }
            self.send(&call, out);
        }
    }

    /// A launch that cannot be sent ends in TASK_DROPPED, as in Mesos' own scheduler library.
    fn drop_launch(&self, now: Timestamp, call: &Call, problem: &str, out: &mut Vec<Effect>) {
        for (agent, task) in launches(call) {
            out.push(Effect::Deliver(Event::Update(Update {
                task: task.id.clone(),
                agent: Some(agent.clone()),
                state: TaskState::TaskDropped,
                message: Some(format!("task {} was not launched: {problem}", task.id)),
                reason: Some(if self.is_subscribed() {
                    Reason::InvalidOffers
                } else {
                    Reason::MasterDisconnected
                }),
                source: Source::Master,
                exit: None,
                sandbox: None,
                healthy: None,
                timestamp: now.as_secs_f64(),
                uuid: None,
            })));
        }
    }
}

/// The tasks that a call starts, with their agent.
fn launches(call: &Call) -> Vec<(&AgentId, &Task)> {
    match call {
        Call::Accept { agent, tasks, .. } => tasks.iter().map(|task| (agent, task)).collect(),
        Call::Operate {
            agent, operations, ..
        } => {
            let tasks = operations.iter().filter_map(|operation| match operation {
                Operation::Launch(tasks) | Operation::LaunchGroup { tasks, .. } => Some(tasks),
                _ => None,
            });
            tasks.flatten().map(|task| (agent, task)).collect()
        }
        _ => Vec::new(),
    }
}

fn no_body(kind: scheduler::event::Type) -> Effect {
    Effect::Refused(format!("a {} event has no body", kind.as_str_name()))
}

/// The updates that were acknowledged lately, oldest forgotten first.
#[derive(Debug, Default)]
struct Acknowledged {
    known: BTreeSet<(TaskId, Bytes)>,
    order: VecDeque<(TaskId, Bytes)>,
}

impl Acknowledged {
    fn insert(&mut self, task: TaskId, uuid: Bytes) {
        // A copy: the uuid is a slice that keeps the whole received message alive.
        let key = (task, Bytes::copy_from_slice(&uuid));
        if self.known.insert(key.clone()) {
            self.order.push_back(key);
        }
        if self.order.len() > ACKNOWLEDGED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn contains(&self, task: &TaskId, uuid: &Bytes) -> bool {
        self.known.contains(&(task.clone(), uuid.clone()))
    }
}
