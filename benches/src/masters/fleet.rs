//! Agents without machines: they speak the agents' protocol over real gRPC, and their tasks cost
//! nothing. A task whose name begins with [`BRIEF`] has finished when it is launched, any other
//! runs on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use allotment_proto::allot::agent_message::Message as Said;
use allotment_proto::allot::master_message::Message as Heard;
use allotment_proto::mesos::{TaskState, task_status};
use allotment_proto::{allot, convert, mesos};
use allotment_types::Resources;
use bytes::Bytes;
use tokio::task::JoinSet;

use super::encoded;
use super::line::{Line, Place};
use super::wire::{Next, Session};
use crate::report::clock;

/// How the names of tasks begin that finish at once.
pub(super) const BRIEF: &str = "brief-";
/// Beyond so many connections, agents share them. Each takes a file here and one at the master.
const CONNECTIONS_MAX: usize = 5_000;

/// The pause after a session, twice as long after each that came to nothing.
const BACK_OFF: Duration = Duration::from_millis(100);

type Out = h2::SendStream<Bytes>;

/// What all agents of a fleet count together.
#[derive(Debug, Default)]
pub(super) struct Counts {
    registered: Mutex<BTreeMap<String, Reign>>,
    /// Tasks that arrived.
    pub(super) launched: AtomicU64,
    /// Acknowledgements of an end.
    pub(super) closed: AtomicU64,
    /// Tasks that run on, and whose first update was acknowledged.
    pub(super) settled: AtomicU64,
}

/// One leader's time, as agents see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reign {
    /// When its first agent registered.
    pub(super) since: Instant,
    /// How many did so far.
    pub(super) n_agents: usize,
}

impl Counts {
    /// All reigns so far, by the ids that they gave themselves.
    pub(super) fn reigns(&self) -> BTreeMap<String, Reign> {
        let registered = self.registered.lock();
        registered.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Many agents; they end with it.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) counts: Arc<Counts>,
    _agents: JoinSet<()>,
}

impl Fleet {
    /// Starts `n` agents with these resources each. Must be called within a runtime.
    pub(super) fn start(masters: &[String], n: usize, resources: &Resources) -> Self {
        let counts = Arc::new(Counts::default());
        let per_line = n.div_ceil(CONNECTIONS_MAX).max(1);
        let mut agents = JoinSet::new();
        let mut line = Arc::new(Line::new(masters));
        for number in 0..n {
            if number % per_line == 0 {
                line = Arc::new(Line::new(masters));
            }
            let agent = Agent::new(number, resources, Arc::clone(&counts));
            agents.spawn(agent.live(Arc::clone(&line)));
        }
        let _agents = agents;
        Self { counts, _agents }
    }
}

type TaskKey = (String, String);

struct Agent {
    number: u64,
    info: mesos::AgentInfo,
    counts: Arc<Counts>,
    /// As it will report them.
    tasks: BTreeMap<TaskKey, Bytes>,
    frameworks: BTreeMap<String, mesos::FrameworkInfo>,
    /// Updates that await their acknowledgement, with them.
    unacknowledged: BTreeMap<TaskKey, allot::StatusUpdate>,
    n_updates: u64,
    n_sessions: u64,
    /// Where to go when the session ends, and over what time all agents do.
    next: Option<Next>,
    spread: Duration,
    /// Sessions since it was last registered.
    n_failures: u32,
}

impl Agent {
    fn new(number: usize, resources: &Resources, counts: Arc<Counts>) -> Self {
        let info = mesos::AgentInfo {
            hostname: format!("agent-{number}"),
            resources: convert::resources_to_wire(resources, None),
            ..Default::default()
        };
        Self {
            number: number as u64,
            info,
            counts,
            tasks: BTreeMap::new(),
            frameworks: BTreeMap::new(),
            unacknowledged: BTreeMap::new(),
            n_updates: 0,
            n_sessions: 0,
            next: None,
            spread: Duration::ZERO,
            n_failures: 0,
        }
    }

    /// One session after the other, without end.
    async fn live(mut self, line: Arc<Line>) {
        let mut connection = 0;
        loop {
            let next = self.next.take();
            if let Some(Next::Heir(_)) = next {
                tokio::time::sleep(self.spread.mul_f64(fastrand::f64())).await;
            }
            let place = line.after(connection, next.as_ref()).await;
            connection = place.number;
            if next.is_none() && self.info.id.is_some() {
                tokio::time::sleep(place.spread.mul_f64(fastrand::f64())).await;
            }
            // However it ended: on to the next one.
            let _ = self.session(&place).await;
            let back_off = BACK_OFF * 2_u32.pow(self.n_failures.min(6));
            self.n_failures += 1;
            tokio::time::sleep(back_off.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }

    async fn session(&mut self, place: &Place) -> Result<(), h2::Error> {
        let registration = self.registration();
        let session = place.connection.connect(registration, place.lost()).await;
        let Some(session) = session else {
            return Ok(());
        };
        let Session {
            mut out,
            mut heard,
            next,
            spread,
        } = session;
        (self.next, self.spread) = (next, spread);
        while let Some(message) = heard.next::<allot::MasterMessage>().await {
            match message.message {
                Some(Heard::Registered(registered)) => {
                    self.info.id = Some(registered.agent_id);
                    self.n_failures = 0;
                    let registered_with = registered.master_id;
                    {
                        let counts = self.counts.registered.lock();
                        let mut counts = counts.unwrap_or_else(PoisonError::into_inner);
                        let reign = counts.entry(registered_with).or_insert_with(|| Reign {
                            since: clock(),
                            n_agents: 0,
                        });
                        reign.n_agents += 1;
                    }
                    for update in self.unacknowledged.values().cloned().collect::<Vec<_>>() {
                        say(&mut out, Said::Update(update))?;
                    }
                }
                Some(Heard::Launch(launch)) => self.on_launch(&mut out, launch)?,
                Some(Heard::Acknowledge(acknowledge)) => self.on_acknowledge(acknowledge),
                Some(Heard::Ping(ping)) => {
                    let sequence = ping.sequence;
                    say(&mut out, Said::Pong(allot::Pong { sequence }))?;
                }
                Some(Heard::ShutdownFramework(gone)) => {
                    let gone = &gone.framework_id.value;
                    self.tasks.retain(|(framework, _), _| framework != gone);
                    self.unacknowledged
                        .retain(|(framework, _), _| framework != gone);
                }
                Some(
                    Heard::Kill(_)
                    | Heard::Rejected(_)
                    | Heard::ApplyResources(_)
                    | Heard::ExecutorMessage(_)
                    | Heard::ShutdownExecutor(_),
                )
                | None => {}
            }
        }
        Ok(())
    }

    fn registration(&mut self) -> Bytes {
        self.n_sessions += 1;
        let register = allot::Register {
            agent: self.info.clone(),
            url: "http://127.0.0.1:1".to_owned(),
            version: "simulated".to_owned(),
            boot_id: "one".to_owned(),
            tasks: Vec::new(),
            frameworks: self.frameworks.values().cloned().collect(),
            executors: Vec::new(),
            attempt: Some(allot::Attempt {
                process: self.number,
                number: self.n_sessions,
            }),
        };
        encoded::registration(&register, self.tasks.values())
    }

    fn on_launch(&mut self, out: &mut Out, launch: allot::Launch) -> Result<(), h2::Error> {
        let framework = launch.framework;
        let Some(framework_id) = framework.id.clone() else {
            return Ok(());
        };
        let n = launch.tasks.len() as u64;
        self.counts.launched.fetch_add(n, Ordering::Relaxed);
        self.frameworks
            .entry(framework_id.value.clone())
            .or_insert(framework);
        for task in launch.tasks {
            let state = if task.name.starts_with(BRIEF) {
                TaskState::TaskFinished
            } else {
                TaskState::TaskRunning
            };
            let key = (framework_id.value.clone(), task.task_id.value.clone());
            let update = self.update(&framework_id, &task.task_id, state);
            say(out, Said::Update(update.clone()))?;
            self.unacknowledged.insert(key.clone(), update);
            let record = allot::TaskRecord {
                framework_id: framework_id.clone(),
                task,
                state: state.into(),
            };
            self.tasks.insert(key, encoded::task(record));
        }
        Ok(())
    }

    fn update(
        &mut self,
        framework_id: &mesos::FrameworkId,
        task_id: &mesos::TaskId,
        state: TaskState,
    ) -> allot::StatusUpdate {
        self.n_updates += 1;
        let mut uuid = self.number.to_be_bytes().to_vec();
        uuid.extend(self.n_updates.to_be_bytes());
        allot::StatusUpdate {
            framework_id: framework_id.clone(),
            status: mesos::TaskStatus {
                task_id: task_id.clone(),
                state: state.into(),
                source: Some(task_status::Source::Executor.into()),
                agent_id: self.info.id.clone(),
                uuid: Some(uuid.into()),
                ..Default::default()
            },
            latest_state: state.into(),
        }
    }

    fn on_acknowledge(&mut self, acknowledge: allot::Acknowledge) {
        let key = (acknowledge.framework_id.value, acknowledge.task_id.value);
        let known = self.unacknowledged.get(&key);
        let Some(update) = known.filter(|u| u.status.uuid.as_ref() == Some(&acknowledge.uuid))
        else {
            return;
        };
        let count = if convert::is_terminal(update.latest_state()) {
            self.tasks.remove(&key);
            &self.counts.closed
        } else {
            &self.counts.settled
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.unacknowledged.remove(&key);
    }
}

fn say(out: &mut Out, said: Said) -> Result<(), h2::Error> {
    out.send_data(encoded::message(said), false)
}
