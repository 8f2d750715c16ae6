//! A small language of sentences about a cluster, spoken over the pure core.
//!
//! Every step checks the invariants. Whatever the master says to a framework or an agent must be
//! heard by the test: what is left unheard at the end fails it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use allotment_allocator::{Drf, Settings};
use allotment_master::core::registry::{Registry, StoreRecord};
use allotment_master::core::{
    ConnId, Core, CoreConfig, Effect, Input, Refusal, Reply, Request, RequestId,
};
use allotment_proto::allot::agent_message::Message as Says;
use allotment_proto::allot::master_message::Message;
use allotment_proto::mesos::framework_info::capability;
use allotment_proto::mesos::task_status::Reason;
use allotment_proto::mesos::{self, TaskState};
use allotment_proto::scheduler::{Call, Event, call, event};
use allotment_proto::{allot, convert};
use allotment_types::{Effects, Resources, Timestamp};
use bytes::Bytes;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) struct Cluster {
    module: Settings,
    pub(crate) core: Core,
    pub(crate) now: Timestamp,
    pub(crate) registry: Registry,
    /// Whether the invariants are checked after every step; a test of a large cluster may check
    /// them itself now and then.
    pub(crate) checked: bool,
    run: u32,
    next: u64,
    framework_inbox: BTreeMap<ConnId, VecDeque<Event>>,
    agent_inbox: BTreeMap<ConnId, VecDeque<Message>>,
    closed: BTreeMap<ConnId, String>,
    pub(crate) events: Vec<allot::ClusterEvent>,
    /// What watchers of the store would hear.
    pub(crate) store_news: Vec<StoreRecord>,
    replies: BTreeMap<RequestId, Result<Reply, Refusal>>,
}

/// A framework's instance: its info, and the connection it has now.
#[derive(Clone, Debug)]
pub(crate) struct Fw {
    pub(crate) conn: ConnId,
    pub(crate) id: String,
    pub(crate) info: mesos::FrameworkInfo,
}

/// An agent, and the connection it has now.
#[derive(Clone, Debug)]
pub(crate) struct Ag {
    pub(crate) conn: ConnId,
    pub(crate) id: String,
    pub(crate) register: allot::Register,
}

pub(crate) fn resources(text: &str) -> Resources {
    text.parse().unwrap()
}

pub(crate) fn task(id: &str, offer: &mesos::Offer, needs: &str) -> mesos::TaskInfo {
    mesos::TaskInfo {
        name: id.to_owned(),
        task_id: mesos::TaskId {
            value: id.to_owned(),
        },
        agent_id: offer.agent_id.clone(),
        resources: convert::resources_to_wire(&resources(needs), None),
        command: Some(mesos::CommandInfo {
            value: Some("true".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(crate) fn held(offer: &mesos::Offer) -> Resources {
    convert::resources_from_wire(&offer.resources).unwrap()
}

pub(crate) fn launch(tasks: Vec<mesos::TaskInfo>) -> mesos::offer::Operation {
    mesos::offer::Operation {
        r#type: Some(mesos::offer::operation::Type::Launch.into()),
        launch: Some(mesos::offer::operation::Launch { task_infos: tasks }),
        ..Default::default()
    }
}

pub(crate) fn call_of(kind: call::Type) -> Call {
    Call {
        r#type: Some(kind.into()),
        ..Default::default()
    }
}

pub(crate) fn info(name: &str) -> mesos::FrameworkInfo {
    use capability::Type::{MultiRole, PartitionAware, TaskKillingState};
    mesos::FrameworkInfo {
        user: "nobody".to_owned(),
        name: name.to_owned(),
        failover_timeout: Some(3600.0),
        capabilities: [MultiRole, PartitionAware, TaskKillingState]
            .into_iter()
            .map(|kind| mesos::framework_info::Capability {
                r#type: Some(kind.into()),
            })
            .collect(),
        roles: vec![name.to_owned()],
        ..Default::default()
    }
}

pub(crate) fn register(hostname: &str, has: &str) -> allot::Register {
    allot::Register {
        agent: mesos::AgentInfo {
            hostname: hostname.to_owned(),
            resources: convert::resources_to_wire(&resources(has), None),
            ..Default::default()
        },
        url: format!("http://{hostname}:5051"),
        version: "0.1.0".to_owned(),
        boot_id: "boot".to_owned(),
        ..Default::default()
    }
}

fn core(run: u32, now: Timestamp, registry: Registry, module: Settings) -> Core {
    let config = CoreConfig {
        info: mesos::MasterInfo {
            id: format!("m{run}"),
            ..Default::default()
        },
        heartbeat_interval: 15 * SECOND,
        agent_ping_interval: 15 * SECOND,
        agent_ping_misses: 5,
        agent_timeout: 75 * SECOND,
        offer_timeout: 300 * SECOND,
        allocation_coalesce: Duration::from_millis(1),
        allocation_interval: SECOND,
    };
    Core::new(config, now, registry, Box::new(Drf::new(module)))
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self::with_module(Settings::default())
    }

    /// A master whose allocation module is set like this.
    pub(crate) fn with_module(module: Settings) -> Self {
        let now = Timestamp::from_secs(1_000_000);
        Self {
            core: core(1, now, Registry::default(), module.clone()),
            module,
            now,
            registry: Registry::default(),
            checked: true,
            run: 1,
            next: 0,
            framework_inbox: BTreeMap::new(),
            agent_inbox: BTreeMap::new(),
            closed: BTreeMap::new(),
            events: Vec::new(),
            store_news: Vec::new(),
            replies: BTreeMap::new(),
        }
    }

    /// The master dies and another one starts on its registry; all connections are gone.
    pub(crate) fn master_restarts(&mut self) {
        self.run += 1;
        let registry = self.registry.clone();
        self.core = core(self.run, self.now, registry, self.module.clone());
        self.framework_inbox.clear();
        self.agent_inbox.clear();
    }

    // ---- time and steps ----

    pub(crate) fn step(&mut self, input: Input) {
        let Effects { persist, then } = self.core.step(self.now, input);
        for record in persist {
            self.registry.apply(record);
        }
        for effect in then {
            self.take(effect);
        }
        if self.checked {
            self.check();
        }
    }

    pub(crate) fn check(&self) {
        if let Err(wrong) = self.core.check() {
            panic!("invariant broken: {wrong}");
        }
    }

    fn take(&mut self, effect: Effect) {
        match effect {
            Effect::ToFramework { conn, event } => {
                self.framework_inbox
                    .entry(conn)
                    .or_default()
                    .push_back(*event);
            }
            Effect::ToAgent { conn, message } => {
                let message = message.message.unwrap();
                self.agent_inbox.entry(conn).or_default().push_back(message);
            }
            Effect::CloseFramework { conn, reason } | Effect::CloseAgent { conn, reason } => {
                assert_eq!(self.closed.insert(conn, reason), None, "closed twice");
            }
            Effect::Reply { to, reply } => {
                assert!(self.replies.insert(to, reply).is_none(), "replied twice");
            }
            Effect::Publish(event) => self.events.push((*event).clone()),
            Effect::StoreChanged(change) => self.store_news.push((*change).clone()),
        }
    }

    /// Runs what is due now: the master's next turn, once the coalescing time is over.
    pub(crate) fn turn(&mut self) {
        self.now = self.now + Duration::from_millis(1);
        self.step(Input::Tick);
    }

    /// Lets time pass, with every deadline on the way; agents answer pings, and heartbeats and
    /// pings are not for the test to hear.
    pub(crate) fn pass(&mut self, time: Duration, alive: &[&Ag]) {
        let end = self.now + time;
        while let Some(at) = self.core.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.step(Input::Tick);
            for ag in alive {
                self.answer_pings(ag);
            }
            self.skip_beats();
        }
        self.now = end;
    }

    fn answer_pings(&mut self, ag: &Ag) {
        let inbox = self.agent_inbox.entry(ag.conn).or_default();
        let pings: Vec<u64> = inbox
            .iter()
            .filter_map(|m| match m {
                Message::Ping(ping) => Some(ping.sequence),
                _ => None,
            })
            .collect();
        for sequence in pings {
            self.says(ag, Says::Pong(allot::Pong { sequence }));
        }
    }

    fn skip_beats(&mut self) {
        for inbox in self.framework_inbox.values_mut() {
            inbox.retain(|event| event.r#type() != event::Type::Heartbeat);
        }
        for inbox in self.agent_inbox.values_mut() {
            inbox.retain(|message| !matches!(message, Message::Ping(_)));
        }
    }

    pub(crate) fn conn(&mut self) -> ConnId {
        self.next += 1;
        ConnId(self.next)
    }

    // ---- frameworks ----

    pub(crate) fn framework(&mut self, name: &str) -> Fw {
        self.subscribe(info(name)).unwrap()
    }

    pub(crate) fn framework_with(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut mesos::FrameworkInfo),
    ) -> Fw {
        let mut info = info(name);
        change(&mut info);
        self.subscribe(info).unwrap()
    }

    /// Subscribes; `Err` with the ERROR event's message when refused.
    pub(crate) fn subscribe(&mut self, info: mesos::FrameworkInfo) -> Result<Fw, String> {
        let conn = self.conn();
        self.step(Input::FrameworkOpened { conn });
        self.subscribe_on(conn, info)
    }

    pub(crate) fn subscribe_on(
        &mut self,
        conn: ConnId,
        mut info: mesos::FrameworkInfo,
    ) -> Result<Fw, String> {
        let mut call = call_of(call::Type::Subscribe);
        call.framework_id = info.id.clone();
        call.subscribe = Some(Box::new(call::Subscribe {
            framework_info: info.clone(),
            ..Default::default()
        }));
        self.step(Input::FrameworkCall { conn, call });
        let first = self.framework_inbox.get_mut(&conn).unwrap().pop_front();
        let first = first.unwrap();
        match first.r#type() {
            event::Type::Subscribed => {
                let id = first.subscribed.unwrap().framework_id;
                info.id = Some(id.clone());
                Ok(Fw {
                    conn,
                    id: id.value,
                    info,
                })
            }
            event::Type::Error => {
                assert!(self.closed.remove(&conn).is_some(), "ERROR ends the stream");
                Err(first.error.unwrap().message)
            }
            other => panic!("heard {other:?} first"),
        }
    }

    /// That SUBSCRIBE of that process arrives, over a new stream; nothing is heard yet.
    pub(crate) fn attempts(
        &mut self,
        info: &mesos::FrameworkInfo,
        (process, number): (u64, u64),
    ) -> Fw {
        let conn = self.conn();
        self.step(Input::FrameworkOpened { conn });
        let mut call = call_of(call::Type::Subscribe);
        call.framework_id = info.id.clone();
        call.subscribe = Some(Box::new(call::Subscribe {
            framework_info: info.clone(),
            attempt: Some(allot::Attempt { process, number }),
            ..Default::default()
        }));
        self.step(Input::FrameworkCall { conn, call });
        let (id, info) = (String::new(), info.clone());
        Fw { conn, id, info }
    }

    /// The id that it hears first.
    pub(crate) fn subscribed(&mut self, fw: &mut Fw) {
        let event = self.hears_a(fw, event::Type::Subscribed);
        let id = event.subscribed.unwrap().framework_id;
        fw.id.clone_from(&id.value);
        fw.info.id = Some(id);
    }

    /// The framework's process starts anew and subscribes with its id.
    pub(crate) fn comes_back(&mut self, fw: &Fw) -> Fw {
        self.subscribe(fw.info.clone()).unwrap()
    }

    pub(crate) fn disconnects(&mut self, fw: &Fw) {
        self.step(Input::FrameworkClosed { conn: fw.conn });
    }

    pub(crate) fn calls(&mut self, fw: &Fw, mut call: Call) {
        call.framework_id = fw.info.id.clone();
        self.step(Input::FrameworkCall {
            conn: fw.conn,
            call,
        });
    }

    pub(crate) fn accepts(&mut self, fw: &Fw, offer: &mesos::Offer, tasks: Vec<mesos::TaskInfo>) {
        self.accepts_all(fw, std::slice::from_ref(offer), vec![launch(tasks)], None);
    }

    pub(crate) fn accepts_all(
        &mut self,
        fw: &Fw,
        offers: &[mesos::Offer],
        operations: Vec<mesos::offer::Operation>,
        refuse_seconds: Option<f64>,
    ) {
        let mut call = call_of(call::Type::Accept);
        call.accept = Some(call::Accept {
            offer_ids: offers.iter().map(|o| o.id.clone()).collect(),
            operations,
            filters: refuse_seconds.map(|s| mesos::Filters {
                refuse_seconds: Some(s),
            }),
        });
        self.calls(fw, call);
    }

    pub(crate) fn declines(&mut self, fw: &Fw, offer: &mesos::Offer, refuse_seconds: Option<f64>) {
        let mut call = call_of(call::Type::Decline);
        call.decline = Some(call::Decline {
            offer_ids: vec![offer.id.clone()],
            filters: refuse_seconds.map(|s| mesos::Filters {
                refuse_seconds: Some(s),
            }),
        });
        self.calls(fw, call);
    }

    pub(crate) fn kills(&mut self, fw: &Fw, id: &str) {
        let mut call = call_of(call::Type::Kill);
        call.kill = Some(Box::new(call::Kill {
            task_id: mesos::TaskId {
                value: id.to_owned(),
            },
            ..Default::default()
        }));
        self.calls(fw, call);
    }

    pub(crate) fn reconciles(&mut self, fw: &Fw, tasks: &[(&str, Option<&str>)]) {
        let mut call = call_of(call::Type::Reconcile);
        let tasks = tasks.iter().map(|(id, agent)| call::reconcile::Task {
            task_id: mesos::TaskId {
                value: (*id).to_owned(),
            },
            agent_id: agent.map(|value| mesos::AgentId {
                value: value.to_owned(),
            }),
        });
        call.reconcile = Some(call::Reconcile {
            tasks: tasks.collect(),
        });
        self.calls(fw, call);
    }

    pub(crate) fn acknowledges(&mut self, fw: &Fw, status: &mesos::TaskStatus) {
        let mut call = call_of(call::Type::Acknowledge);
        call.acknowledge = Some(call::Acknowledge {
            agent_id: status.agent_id.clone().unwrap(),
            task_id: status.task_id.clone(),
            uuid: status.uuid.clone().unwrap(),
        });
        self.calls(fw, call);
    }

    pub(crate) fn suppresses(&mut self, fw: &Fw) {
        self.calls(fw, call_of(call::Type::Suppress));
    }

    pub(crate) fn revives(&mut self, fw: &Fw) {
        self.calls(fw, call_of(call::Type::Revive));
    }

    // ---- what frameworks hear ----

    pub(crate) fn hears(&mut self, fw: &Fw) -> Event {
        let inbox = self.framework_inbox.get_mut(&fw.conn);
        inbox
            .and_then(VecDeque::pop_front)
            .unwrap_or_else(|| panic!("{} heard nothing", fw.info.name))
    }

    fn hears_a(&mut self, fw: &Fw, kind: event::Type) -> Event {
        let event = self.hears(fw);
        assert_eq!(event.r#type(), kind, "{event:?}");
        event
    }

    pub(crate) fn has_heard(&self, fw: &Fw) -> bool {
        let inbox = self.framework_inbox.get(&fw.conn);
        inbox.is_some_and(|inbox| !inbox.is_empty())
    }

    pub(crate) fn hears_nothing(&self, fw: &Fw) {
        let inbox = self.framework_inbox.get(&fw.conn);
        assert!(
            inbox.is_none_or(VecDeque::is_empty),
            "{} heard {inbox:?}",
            fw.info.name
        );
    }

    pub(crate) fn offers(&mut self, fw: &Fw) -> Vec<mesos::Offer> {
        self.hears_a(fw, event::Type::Offers).offers.unwrap().offers
    }

    /// A round, after which exactly this framework has exactly one new offer.
    pub(crate) fn only_offer_to(&mut self, fw: &Fw) -> mesos::Offer {
        self.turn();
        let mut offers = self.offers(fw);
        assert_eq!(offers.len(), 1, "{offers:?}");
        for (conn, inbox) in &self.framework_inbox {
            let offered = inbox.iter().any(|e| e.r#type() == event::Type::Offers);
            assert!(!offered, "{conn:?} was offered something, too");
        }
        offers.remove(0)
    }

    /// Hears an update; the task, its state and the reason.
    pub(crate) fn update(&mut self, fw: &Fw) -> (String, TaskState, Option<Reason>) {
        let status = self.status(fw);
        let reason = status.reason.is_some().then(|| status.reason());
        (status.task_id.value.clone(), status.state(), reason)
    }

    pub(crate) fn status(&mut self, fw: &Fw) -> mesos::TaskStatus {
        self.hears_a(fw, event::Type::Update).update.unwrap().status
    }

    pub(crate) fn rescinded(&mut self, fw: &Fw) -> mesos::OfferId {
        self.hears_a(fw, event::Type::Rescind)
            .rescind
            .unwrap()
            .offer_id
    }

    pub(crate) fn rejected(&mut self, fw: &Fw) -> String {
        self.hears_a(fw, event::Type::CallRejected)
            .call_rejected
            .unwrap()
            .message
    }

    pub(crate) fn lost_agent(&mut self, fw: &Fw) -> String {
        let failure = self.hears_a(fw, event::Type::Failure).failure.unwrap();
        failure.agent_id.unwrap().value
    }

    pub(crate) fn error(&mut self, fw: &Fw) -> String {
        self.hears_a(fw, event::Type::Error).error.unwrap().message
    }

    // ---- agents ----

    pub(crate) fn agent(&mut self, hostname: &str, has: &str) -> Ag {
        self.registers(register(hostname, has)).unwrap()
    }

    /// Registers; `Err` with the reason when rejected, or closed without a word.
    pub(crate) fn registers(&mut self, mut register: allot::Register) -> Result<Ag, String> {
        let conn = self.conn();
        self.step(Input::AgentOpened { conn });
        self.step(Input::AgentMessage {
            conn,
            message: allot::AgentMessage {
                message: Some(Says::Register(register.clone())),
            },
        });
        let first = self
            .agent_inbox
            .get_mut(&conn)
            .and_then(VecDeque::pop_front);
        let Some(first) = first else {
            return Err(self.closed(conn));
        };
        match first {
            Message::Registered(registered) => {
                let id = registered.agent_id.value;
                register.agent.id = Some(mesos::AgentId { value: id.clone() });
                Ok(Ag { conn, id, register })
            }
            Message::Rejected(rejected) => {
                assert!(self.closed.remove(&conn).is_some(), "rejected is closed");
                Err(rejected.message)
            }
            other => panic!("heard {other:?} first"),
        }
    }

    /// The agent opens a new session and reports these tasks.
    pub(crate) fn returns(&mut self, ag: &Ag, tasks: Vec<allot::TaskRecord>, fws: &[&Fw]) -> Ag {
        self.registers(allot::Register {
            tasks,
            frameworks: fws.iter().map(|fw| fw.info.clone()).collect(),
            ..ag.register.clone()
        })
        .unwrap()
    }

    pub(crate) fn loses_session(&mut self, ag: &Ag) {
        self.step(Input::AgentClosed { conn: ag.conn });
    }

    pub(crate) fn says(&mut self, ag: &Ag, message: Says) {
        self.step(Input::AgentMessage {
            conn: ag.conn,
            message: allot::AgentMessage {
                message: Some(message),
            },
        });
    }

    /// The agent reports a task's state; returns the status it sent.
    pub(crate) fn reports(
        &mut self,
        ag: &Ag,
        fw: &Fw,
        id: &str,
        state: TaskState,
    ) -> mesos::TaskStatus {
        self.reports_late(ag, fw, id, state, state)
    }

    /// The same while the task has already got to `latest`.
    pub(crate) fn reports_late(
        &mut self,
        ag: &Ag,
        fw: &Fw,
        id: &str,
        state: TaskState,
        latest: TaskState,
    ) -> mesos::TaskStatus {
        self.next += 1;
        let mut uuid = [0_u8; 16];
        uuid[..8].copy_from_slice(&self.next.to_le_bytes());
        let status = mesos::TaskStatus {
            task_id: mesos::TaskId {
                value: id.to_owned(),
            },
            state: state.into(),
            agent_id: Some(mesos::AgentId {
                value: ag.id.clone(),
            }),
            source: Some(mesos::task_status::Source::Agent.into()),
            uuid: Some(Bytes::copy_from_slice(&uuid)),
            ..Default::default()
        };
        let update = allot::StatusUpdate {
            framework_id: fw.info.id.clone().unwrap(),
            status: status.clone(),
            latest_state: latest.into(),
        };
        self.says(ag, Says::Update(update));
        status
    }

    /// The agent reports, the framework hears and acknowledges, the agent hears that.
    pub(crate) fn goes(&mut self, ag: &Ag, fw: &Fw, id: &str, state: TaskState) {
        let sent = self.reports(ag, fw, id, state);
        let heard = self.status(fw);
        assert_eq!(heard, sent);
        self.acknowledges(fw, &heard);
        assert_eq!(self.acknowledged(ag), (id.to_owned(), sent.uuid.unwrap()));
    }

    // ---- what agents hear ----

    pub(crate) fn agent_hears(&mut self, ag: &Ag) -> Message {
        let inbox = self.agent_inbox.get_mut(&ag.conn);
        inbox
            .and_then(VecDeque::pop_front)
            .unwrap_or_else(|| panic!("agent {} heard nothing", ag.id))
    }

    pub(crate) fn launched(&mut self, ag: &Ag) -> Vec<String> {
        match self.agent_hears(ag) {
            Message::Launch(launch) => launch
                .tasks
                .into_iter()
                .map(|task| task.task_id.value)
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn killed(&mut self, ag: &Ag) -> String {
        match self.agent_hears(ag) {
            Message::Kill(kill) => kill.task_id.value,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn acknowledged(&mut self, ag: &Ag) -> (String, Bytes) {
        match self.agent_hears(ag) {
            Message::Acknowledge(ack) => (ack.task_id.value, ack.uuid),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn shut_down(&mut self, ag: &Ag) -> String {
        match self.agent_hears(ag) {
            Message::ShutdownFramework(shutdown) => shutdown.framework_id.value,
            other => panic!("{other:?}"),
        }
    }

    // ---- for histories that nobody wrote down ----

    pub(crate) fn all_heard_by(&mut self, fw: &Fw) -> Vec<Event> {
        let inbox = self.framework_inbox.get_mut(&fw.conn);
        inbox.map(std::mem::take).unwrap_or_default().into()
    }

    pub(crate) fn all_heard_by_agent(&mut self, ag: &Ag) -> Vec<Message> {
        let inbox = self.agent_inbox.get_mut(&ag.conn);
        inbox.map(std::mem::take).unwrap_or_default().into()
    }

    pub(crate) fn was_closed(&mut self, conn: ConnId) -> bool {
        self.closed.remove(&conn).is_some()
    }

    pub(crate) fn closed(&mut self, conn: ConnId) -> String {
        self.closed.remove(&conn).expect("the stream is closed")
    }

    // ---- operators ----

    pub(crate) fn ask(&mut self, request: Request) -> Result<Reply, Refusal> {
        self.next += 1;
        let id = RequestId(self.next);
        self.step(Input::Request { id, request });
        self.replies.remove(&id).expect("a reply")
    }

    pub(crate) fn why(&mut self, subject: &str) -> allot::WhyResponse {
        let subject = subject.to_owned();
        match self.ask(Request::Why(allot::WhyRequest {
            subject,
            kind: None,
        })) {
            Ok(Reply::Why(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn tasks(&mut self, ended: bool) -> Vec<(String, String)> {
        let request = allot::ListTasksRequest {
            ended,
            ..Default::default()
        };
        match self.ask(Request::ListTasks(request)) {
            Ok(Reply::Tasks(tasks)) => tasks.into_iter().map(|t| (t.id, t.state)).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// Cores of an agent: total, allocated, offered.
    pub(crate) fn cpus(&mut self, ag: &Ag) -> [f64; 3] {
        let Ok(Reply::Agents(agents)) = self.ask(Request::ListAgents) else {
            panic!("no agents");
        };
        let view = agents.into_iter().find(|a| a.id == ag.id).unwrap();
        [view.total, view.allocated, view.offered].map(|resources| {
            let cpus = resources.scalars.iter().find(|s| s.name == "cpus");
            cpus.map_or(0.0, |s| s.value)
        })
    }

    // ---- the end ----

    /// Nobody has heard anything that the test did not speak of.
    pub(crate) fn nothing_else(&self) {
        for (conn, inbox) in &self.framework_inbox {
            assert!(
                inbox.is_empty(),
                "framework on {conn:?} also heard {inbox:?}"
            );
        }
        for (conn, inbox) in &self.agent_inbox {
            assert!(inbox.is_empty(), "agent on {conn:?} also heard {inbox:?}");
        }
        assert!(self.closed.is_empty(), "also closed: {:?}", self.closed);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.nothing_else();
        }
    }
}

/// A task as its agent reports it when it registers.
pub(crate) fn record(fw: &Fw, info: &mesos::TaskInfo, state: TaskState) -> allot::TaskRecord {
    let mut task = info.clone();
    for resource in &mut task.resources {
        resource.allocation_info = Some(mesos::resource::AllocationInfo {
            role: fw.info.roles.first().cloned(),
        });
    }
    allot::TaskRecord {
        framework_id: fw.info.id.clone().unwrap(),
        task,
        state: state.into(),
    }
}
