//! Random histories: agents, frameworks and the master fail and return in any order.
//!
//! The model agents know what really runs. After every step the books must be right; no launch
//! may reach an agent that has no room for it; and once the faults stop, every task of every
//! framework has ended and everything is free.

use std::collections::BTreeMap;

use allotment_master::core::Request;
use allotment_proto::allot::agent_message::Message as Says;
use allotment_proto::allot::master_message::Message;
use allotment_proto::mesos::{self, TaskState};
use allotment_proto::scheduler::{Event, call, event};
use allotment_proto::{allot, convert};
use allotment_types::Resources;
use proptest::prelude::*;

use crate::cluster::{Ag, Cluster, Fw, SECOND, call_of, info, launch, resources, task};

type Key = (String, String);

struct RealTask {
    info: mesos::TaskInfo,
    state: TaskState,
    /// The update that awaits its acknowledgement.
    pending: Option<mesos::TaskStatus>,
}

struct ModelAgent {
    ag: Ag,
    connected: bool,
    total: Resources,
    tasks: BTreeMap<Key, RealTask>,
    frameworks: BTreeMap<String, mesos::FrameworkInfo>,
}

struct ModelFramework {
    fw: Fw,
    connected: bool,
    gone: bool,
    /// The faults are over and every agent is back.
    agents_back: bool,
    offers: Vec<mesos::Offer>,
    stale: Vec<mesos::Offer>,
    unacknowledged: Vec<mesos::TaskStatus>,
    /// Every task it launched and whether it heard of its end.
    tasks: BTreeMap<String, bool>,
}

struct World {
    c: Cluster,
    agents: Vec<ModelAgent>,
    frameworks: Vec<ModelFramework>,
    launches: u32,
}

const HAS: [&str; 3] = [
    "cpus:4; mem:1024; ports:[31000-31003]",
    "cpus:2; mem:4096",
    "cpus:9; mem:512; ports:[31000-31009]",
];
const NEEDS: [&str; 4] = [
    "cpus:1; mem:64",
    "cpus:0.5; mem:512; ports:[31001-31001]",
    "cpus:4; mem:1024",
    "cpus:0.001",
];

impl World {
    fn new() -> Self {
        let mut c = Cluster::new();
        let agents = HAS
            .iter()
            .enumerate()
            .map(|(i, has)| ModelAgent {
                ag: c.agent(&format!("node{i}"), has),
                connected: true,
                total: resources(has),
                tasks: BTreeMap::new(),
                frameworks: BTreeMap::new(),
            })
            .collect();
        let mut world = Self {
            c,
            agents,
            frameworks: Vec::new(),
            launches: 0,
        };
        for name in ["a", "b", "c"] {
            world.new_framework(name);
        }
        world
    }

    fn new_framework(&mut self, name: &str) {
        let mut info = info(name);
        match name {
            "b" => info.failover_timeout = Some(0.0),
            "c" => info.failover_timeout = Some(100.0),
            _ => {}
        }
        let fw = self.c.subscribe(info).unwrap();
        self.frameworks.push(ModelFramework {
            fw,
            connected: true,
            gone: false,
            agents_back: false,
            offers: Vec::new(),
            stale: Vec::new(),
            unacknowledged: Vec::new(),
            tasks: BTreeMap::new(),
        });
    }

    fn act(&mut self, kind: u8, x: u16, y: u16) {
        let (a, f) = (
            usize::from(x) % self.agents.len(),
            usize::from(x) % self.frameworks.len(),
        );
        match kind % 20 {
            0..=3 => self.accept(f, y),
            4 => self.decline(f, y),
            5..=8 => self.report(a, y),
            9 => self.acknowledge(f),
            10 => self.kill(f, y),
            11 if y.is_multiple_of(8) => self.agent_reboots(a),
            11 => self.agent_flips(a),
            12 => self.framework_flips(f),
            13 => {
                let alive: Vec<Ag> = self.connected_agents();
                let alive: Vec<&Ag> = alive.iter().collect();
                self.c.pass(u32::from(y % 40) * SECOND, &alive);
            }
            14 if y.is_multiple_of(4) => self.restart_master(),
            14 => self.silence(a),
            15 if y.is_multiple_of(4) => self.teardown(f),
            15 => self.reconcile(f),
            16 => self.repeat(a),
            17 if self.frameworks[f].connected => self.c.revives(&self.frameworks[f].fw.clone()),
            18 if self.frameworks[f].connected => self.c.suppresses(&self.frameworks[f].fw.clone()),
            19 if y.is_multiple_of(3) => self.operate(a, y / 3),
            _ => self.c.turn(),
        }
        // Now and then what was said is still on its way when the next thing happens.
        if !y.is_multiple_of(5) {
            self.settle();
        }
    }

    fn connected_agents(&self) -> Vec<Ag> {
        let connected = self.agents.iter().filter(|a| a.connected);
        connected.map(|a| a.ag.clone()).collect()
    }

    fn accept(&mut self, f: usize, y: u16) {
        let fw = &mut self.frameworks[f];
        if !fw.connected {
            return;
        }
        // Now and then one that is long gone.
        let offer = if y.is_multiple_of(7) && !fw.stale.is_empty() {
            fw.stale[usize::from(y) % fw.stale.len()].clone()
        } else if fw.offers.is_empty() {
            return;
        } else {
            fw.offers.remove(usize::from(y) % fw.offers.len())
        };
        let tasks: Vec<mesos::TaskInfo> = (0..y % 4)
            .map(|i| {
                self.launches += 1;
                let id = format!("t{}", self.launches);
                fw.tasks.insert(id.clone(), false);
                task(&id, &offer, NEEDS[usize::from(y / 4 + i) % NEEDS.len()])
            })
            .collect();
        let refuse = [None, Some(0.0), Some(3.0)][usize::from(y) % 3];
        fw.stale.push(offer.clone());
        let fw = fw.fw.clone();
        self.c
            .accepts_all(&fw, &[offer], vec![launch(tasks)], refuse);
    }

    fn decline(&mut self, f: usize, y: u16) {
        let fw = &mut self.frameworks[f];
        if fw.connected
            && let Some(offer) = fw.offers.pop()
        {
            let fw = fw.fw.clone();
            self.c.declines(&fw, &offer, Some(f64::from(y % 10)));
        }
    }

    /// One task of the agent goes on.
    fn report(&mut self, a: usize, y: u16) {
        let n = self.agents[a].tasks.len();
        if n == 0 {
            return;
        }
        let agent = &mut self.agents[a];
        let keys: Vec<Key> = agent.tasks.keys().cloned().collect();
        let key = keys[usize::from(y) % n].clone();
        let Some(real) = agent.tasks.get_mut(&key) else {
            return;
        };
        if convert::is_terminal(real.state) {
            return;
        }
        real.state = match y % 3 {
            0 => TaskState::TaskRunning,
            1 => TaskState::TaskFinished,
            _ => TaskState::TaskFailed,
        };
        if real.pending.is_none() {
            self.send_update(a, &key, u64::from(y));
        } else {
            self.repeat(a);
        }
    }

    fn send_update(&mut self, a: usize, key: &Key, salt: u64) {
        self.launches += 1;
        let agent = &mut self.agents[a];
        let Some(real) = agent.tasks.get_mut(key) else {
            return;
        };
        let mut uuid = [7_u8; 16];
        uuid[..4].copy_from_slice(&self.launches.to_le_bytes());
        uuid[8..].copy_from_slice(&salt.to_le_bytes());
        real.pending = Some(mesos::TaskStatus {
            task_id: real.info.task_id.clone(),
            state: real.state.into(),
            agent_id: agent.ag.register.agent.id.clone(),
            uuid: Some(uuid.to_vec().into()),
            ..Default::default()
        });
        self.repeat(a);
    }

    /// The agent sends every update that awaits its acknowledgement once more.
    fn repeat(&mut self, a: usize) {
        let agent = &self.agents[a];
        if !agent.connected {
            return;
        }
        let updates: Vec<allot::StatusUpdate> = agent
            .tasks
            .iter()
            .filter_map(|((framework, _), real)| {
                Some(allot::StatusUpdate {
                    framework_id: mesos::FrameworkId {
                        value: framework.clone(),
                    },
                    status: real.pending.clone()?,
                    latest_state: real.state.into(),
                })
            })
            .collect();
        let ag = agent.ag.clone();
        for update in updates {
            self.c.says(&ag, Says::Update(update));
        }
    }

    fn acknowledge(&mut self, f: usize) {
        let fw = &mut self.frameworks[f];
        if fw.connected {
            let fw_now = fw.fw.clone();
            for status in std::mem::take(&mut fw.unacknowledged) {
                self.c.acknowledges(&fw_now, &status);
            }
        }
    }

    fn kill(&mut self, f: usize, y: u16) {
        let fw = &self.frameworks[f];
        if fw.connected && !fw.tasks.is_empty() {
            let id = fw
                .tasks
                .keys()
                .nth(usize::from(y) % fw.tasks.len())
                .cloned();
            let fw = fw.fw.clone();
            self.c.kills(&fw, &id.unwrap());
        }
    }

    fn reconcile(&mut self, f: usize) {
        if self.frameworks[f].connected {
            let fw = self.frameworks[f].fw.clone();
            self.c.reconciles(&fw, &[]);
        }
    }

    fn agent_flips(&mut self, a: usize) {
        if self.agents[a].connected {
            self.agents[a].connected = false;
            let ag = self.agents[a].ag.clone();
            // What was on its way is lost.
            self.c.all_heard_by_agent(&ag);
            self.c.was_closed(ag.conn);
            self.c.loses_session(&ag);
        } else {
            self.agent_returns(a);
        }
    }

    /// An operator sets something; what contradicts how things stand is refused, and that is that.
    fn operate(&mut self, a: usize, y: u16) {
        let role = ["a", "b", "c"][usize::from(y / 4 % 3)];
        let request = match y % 4 {
            0 => Request::SetQuota(allot::SetQuotaRequest {
                role: role.to_owned(),
                guarantees: Vec::new(),
                limits: vec![allot::ScalarView {
                    name: "cpus".to_owned(),
                    value: f64::from(y / 12 % 9),
                    lot: None,
                }],
                force: Some(true),
            }),
            1 => Request::SetQuota(allot::SetQuotaRequest {
                role: role.to_owned(),
                ..Default::default()
            }),
            kind => {
                let cpus = resources(&format!("cpus:{}", y / 12 % 3 + 1));
                let reserved = cpus.reserved(&role.parse().unwrap(), None);
                let request = allot::ReserveRequest {
                    agent: self.agents[a].ag.id.clone(),
                    resources: convert::resources_to_wire(&reserved, None),
                };
                if kind == 2 {
                    Request::Reserve(request)
                } else {
                    Request::Unreserve(request)
                }
            }
        };
        let _refused = self.c.ask(request);
    }

    /// Nothing that ran there does any more, and nobody there knows what did.
    fn agent_reboots(&mut self, a: usize) {
        if self.agents[a].connected {
            self.agent_flips(a);
        }
        self.agents[a].tasks.clear();
        self.agent_returns(a);
    }

    fn agent_returns(&mut self, a: usize) {
        let agent = &mut self.agents[a];
        let tasks = agent
            .tasks
            .iter()
            .map(|((framework, _), real)| allot::TaskRecord {
                framework_id: mesos::FrameworkId {
                    value: framework.clone(),
                },
                task: real.info.clone(),
                state: real.state.into(),
            });
        let mut register = allot::Register {
            tasks: tasks.collect(),
            frameworks: agent.frameworks.values().cloned().collect(),
            ..agent.ag.register.clone()
        };
        register.agent.resources = convert::resources_to_wire(&agent.total, None);
        let id = agent.ag.id.clone();
        self.agents[a].ag = self.c.registers(register).unwrap();
        assert_eq!(self.agents[a].ag.id, id);
        self.agents[a].connected = true;
        self.repeat(a);
    }

    /// The agent hangs without its session ending.
    fn silence(&mut self, a: usize) {
        let others: Vec<Ag> = self
            .agents
            .iter()
            .enumerate()
            .filter(|(i, agent)| *i != a && agent.connected)
            .map(|(_, agent)| agent.ag.clone())
            .collect();
        let others: Vec<&Ag> = others.iter().collect();
        self.c.pass(95 * SECOND, &others);
    }

    fn framework_flips(&mut self, f: usize) {
        let fw = &mut self.frameworks[f];
        if fw.connected {
            fw.connected = false;
            let fw_now = fw.fw.clone();
            self.c.all_heard_by(&fw_now);
            self.c.disconnects(&fw_now);
        } else {
            self.framework_returns(f);
        }
    }

    fn framework_returns(&mut self, f: usize) {
        let fw = &mut self.frameworks[f];
        if fw.connected || fw.gone {
            return;
        }
        fw.offers.clear();
        fw.unacknowledged.clear();
        match self.c.subscribe(fw.fw.info.clone()) {
            Ok(now) => {
                fw.fw = now;
                fw.connected = true;
            }
            Err(_) => {
                fw.gone = true;
                let name = fw.fw.info.name.clone();
                self.new_framework(&name);
            }
        }
    }

    fn teardown(&mut self, f: usize) {
        if self.frameworks[f].connected {
            let fw = self.frameworks[f].fw.clone();
            self.c.calls(&fw, call_of(call::Type::Teardown));
            assert!(self.c.was_closed(fw.conn));
            self.frameworks[f].connected = false;
        }
    }

    fn restart_master(&mut self) {
        for agent in &self.agents {
            self.c.was_closed(agent.ag.conn);
        }
        self.c.master_restarts();
        for agent in &mut self.agents {
            agent.connected = false;
        }
        for fw in &mut self.frameworks {
            fw.connected = false;
        }
    }

    /// Everybody takes in what was said to them.
    fn settle(&mut self) {
        for agent in &mut self.agents {
            if agent.connected && self.c.was_closed(agent.ag.conn) {
                self.c.all_heard_by_agent(&agent.ag);
                agent.connected = false;
            }
        }
        let mut dead = Vec::new();
        for (a, agent) in self.agents.iter_mut().enumerate() {
            for message in self.c.all_heard_by_agent(&agent.ag) {
                agent.takes(message, a, &mut dead);
            }
        }
        for (a, key) in dead {
            self.send_update(a, &key, 0);
        }
        for fw in &mut self.frameworks {
            for event in self.c.all_heard_by(&fw.fw) {
                fw.takes(event);
            }
        }
    }

    /// The faults stop; everybody returns, kills what runs and acknowledges what ended.
    fn heal(&mut self) {
        for a in 0..self.agents.len() {
            if !self.agents[a].connected {
                self.agent_returns(a);
                self.settle();
            }
        }
        for fw in &mut self.frameworks {
            fw.agents_back = true;
        }
        for _ in 0..6 {
            for f in 0..self.frameworks.len() {
                self.framework_returns(f);
                self.settle();
                if !self.frameworks[f].connected {
                    continue;
                }
                let fw = self.frameworks[f].fw.clone();
                let open: Vec<String> = self.frameworks[f]
                    .tasks
                    .iter()
                    .filter(|(_, over)| !**over)
                    .map(|(id, _)| id.clone())
                    .collect();
                for id in open {
                    self.c.kills(&fw, &id);
                }
                self.settle();
                self.acknowledge(f);
                self.settle();
            }
            for a in 0..self.agents.len() {
                self.repeat(a);
                self.settle();
            }
        }
    }
}

impl ModelAgent {
    fn used(&self) -> Resources {
        let live = self
            .tasks
            .values()
            .filter(|real| !convert::is_terminal(real.state));
        live.fold(Resources::EMPTY, |mut sum, real| {
            sum.add(&convert::resources_from_wire(&real.info.resources).unwrap());
            sum
        })
    }

    fn takes(&mut self, message: Message, a: usize, dead: &mut Vec<(usize, Key)>) {
        match message {
            Message::Launch(launch) => {
                let framework = launch.framework.id.clone().unwrap().value;
                self.frameworks.insert(framework.clone(), launch.framework);
                for info in launch.tasks {
                    let needs = convert::resources_from_wire(&info.resources).unwrap();
                    let free = self.total.minus(&self.used());
                    assert!(free.contains(&needs), "{needs} launched into {free}");
                    let key = (framework.clone(), info.task_id.value.clone());
                    let real = RealTask {
                        info,
                        state: TaskState::TaskStaging,
                        pending: None,
                    };
                    assert!(self.tasks.insert(key, real).is_none(), "launched twice");
                }
            }
            Message::ExecutorMessage(_) | Message::ShutdownExecutor(_) => {
                panic!("no framework of these histories has executors of its own")
            }
            Message::Kill(kill) => {
                let key = (kill.framework_id.value, kill.task_id.value);
                if let Some(real) = self.tasks.get_mut(&key)
                    && !convert::is_terminal(real.state)
                {
                    real.state = TaskState::TaskKilled;
                    if real.pending.is_none() {
                        dead.push((a, key));
                    }
                }
            }
            Message::Acknowledge(ack) => {
                let key = (ack.framework_id.value, ack.task_id.value);
                let Some(real) = self.tasks.get_mut(&key) else {
                    return;
                };
                let Some(told) = real.pending.take_if(|p| p.uuid() == ack.uuid) else {
                    return;
                };
                if convert::is_terminal(told.state()) {
                    self.tasks.remove(&key);
                } else if told.state() != real.state {
                    dead.push((a, key));
                }
            }
            Message::ShutdownFramework(shutdown) => {
                let framework = shutdown.framework_id.value;
                self.tasks.retain(|(owner, _), _| *owner != framework);
                self.frameworks.remove(&framework);
            }
            Message::ApplyResources(apply) => {
                let total = convert::resources_from_wire(&apply.total).unwrap();
                assert_eq!(total.declared(), self.total.declared());
                assert!(total.contains(&self.used()), "{total} under what is used");
                self.total = total;
            }
            Message::Registered(_) | Message::Rejected(_) | Message::Ping(_) => {}
        }
    }
}

impl ModelFramework {
    fn takes(&mut self, heard: Event) {
        match heard.r#type() {
            event::Type::Offers => self.offers.extend(heard.offers.unwrap().offers),
            event::Type::Rescind => {
                let gone = heard.rescind.unwrap().offer_id;
                self.offers.retain(|offer| offer.id != gone);
            }
            event::Type::Update => {
                let status = heard.update.unwrap().status;
                let id = status.task_id.value.clone();
                // An unknown task may come back with an agent that is away.
                let unknown = status.state() == TaskState::TaskUnknown && self.agents_back;
                if convert::is_terminal(status.state()) || unknown {
                    self.tasks.insert(id, true);
                }
                if status.uuid.is_some() {
                    self.unacknowledged.push(status);
                }
            }
            event::Type::Error => panic!("{:?}", heard.error),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_the_books_are_right_and_every_task_ends(
        history in prop::collection::vec((any::<u8>(), any::<u16>(), any::<u16>()), 1..120)
    ) {
        let mut world = World::new();
        for (kind, x, y) in history {
            world.act(kind, x, y);
        }
        world.settle();
        world.heal();
        for fw in world.frameworks.iter().filter(|fw| fw.connected) {
            for (id, over) in &fw.tasks {
                prop_assert!(over, "task {} of {} never ended", id, fw.fw.info.name);
            }
        }
        prop_assert_eq!(world.c.tasks(false), []);
        for agent in &world.agents {
            prop_assert_eq!(agent.used(), Resources::EMPTY);
            prop_assert!(agent.tasks.is_empty(), "{} is kept", agent.tasks.len());
            let [_, allocated, _] = world.c.cpus(&agent.ag);
            prop_assert_eq!(allocated, 0.0);
        }
    }
}
