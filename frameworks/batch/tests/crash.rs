//! The queue and its database through crashes: whatever is cut off where, every job is recorded
//! complete exactly once, in the history and in the event log.
//!
//! One process life after the other runs against the same folder and the same imaginary agent.
//! Each life ends at a random point: before the write, after the write but before the effects,
//! between the effects, or with a torn end of the event log.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use allotment_batch::core::{Core, Effect, Effects, Input, Record};
use allotment_batch::store::Store;
use allotment_framework_sdk::api::{Reason, TaskState};
use allotment_framework_sdk::{Call, Update};
use allotment_proto::allot::JobSpec;
use allotment_types::{TaskId, Timestamp};
use bytes::Bytes;
use common::{cluster, exited, framework, lost, offer, settings, spec, update};

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// The agent and the master, which outlive the queue's process.
#[derive(Default)]
struct World {
    live: BTreeSet<TaskId>,
    /// Updates that wait for their acknowledgement, in order.
    unacknowledged: Vec<Update>,
    sent: u64,
    offers: u32,
    started: BTreeMap<TaskId, u32>,
}

impl World {
    fn say(&mut self, mut update: Update) {
        self.sent += 1;
        update.uuid = Some(Bytes::copy_from_slice(&u128::from(self.sent).to_be_bytes()));
        self.unacknowledged.push(update);
    }

    /// Hears a call and answers what the master would answer by itself.
    fn hear(&mut self, call: Call) -> Vec<Update> {
        match call {
            Call::Accept { tasks, .. } => {
                for task in tasks {
                    *self.started.entry(task.id.clone()).or_default() += 1;
                    self.live.insert(task.id.clone());
                    self.say(update(&task.id, TaskState::TaskRunning));
                }
            }
            Call::Kill { task, .. } => {
                if self.live.remove(&task) {
                    self.say(update(&task, TaskState::TaskKilled));
                }
            }
            Call::Acknowledge { uuid, .. } => {
                self.unacknowledged
                    .retain(|update| update.uuid.as_ref() != Some(&uuid));
            }
            Call::Reconcile(asked) => {
                let known = |task: &TaskId| {
                    self.live.contains(task) || self.unacknowledged.iter().any(|u| u.task == *task)
                };
                let unknown = asked.into_iter().filter(|(task, _)| !known(task));
                return unknown
                    .map(|(task, _)| lost(&task, Reason::Reconciliation))
                    .collect();
            }
            Call::Decline { .. } | Call::Revive | Call::Suppress | Call::Teardown => {}
            unheard @ (Call::Operate { .. }
            | Call::Demand { .. }
            | Call::Update { .. }
            | Call::Message { .. }
            | Call::ShutdownExecutor { .. }
            | Call::AcceptInverse { .. }
            | Call::DeclineInverse { .. }) => panic!("batch never says {unheard:?}"),
        }
        Vec::new()
    }
}

/// What happens at one turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Well,
    LostWrite,
    LostEffects,
    HalfTheEffects,
    TornLog,
}

struct Life<'a> {
    core: Core,
    store: Store,
    world: &'a mut World,
    random: &'a mut Random,
    now: Timestamp,
    log: &'a Path,
    mortal: bool,
}

impl Life<'_> {
    fn turn(&mut self, inputs: Vec<Input>) -> Result<Vec<Input>, ()> {
        let mut effects = Effects::none();
        for input in inputs {
            self.now = self.now + std::time::Duration::from_millis(10);
            effects.append(self.core.step(self.now, input));
        }
        let fate = match self.random.below(40) {
            0 if self.mortal => Fate::LostWrite,
            1 if self.mortal => Fate::LostEffects,
            2 if self.mortal => Fate::HalfTheEffects,
            3 if self.mortal => Fate::TornLog,
            _ => Fate::Well,
        };
        if fate == Fate::LostWrite {
            return Err(());
        }
        let before = std::fs::metadata(self.log).map_or(0, |m| m.len());
        self.store.commit(effects.persist).unwrap();
        if fate == Fate::TornLog {
            // Power was cut while the text went out: any part of it may be there.
            let after = std::fs::metadata(self.log).map_or(0, |m| m.len());
            if after > before {
                let keep = before + self.random.below(after - before + 1);
                let file = std::fs::OpenOptions::new().write(true).open(self.log);
                file.unwrap().set_len(keep).unwrap();
            }
            return Err(());
        }
        if fate == Fate::LostEffects {
            return Err(());
        }
        let mut next = Vec::new();
        let half = effects.then.len() / 2;
        for (n, effect) in effects.then.into_iter().enumerate() {
            if fate == Fate::HalfTheEffects && n >= half {
                return Err(());
            }
            match effect {
                Effect::Call(call) => {
                    next.extend(self.world.hear(call).into_iter().map(Input::Update));
                }
                Effect::Transfer(transfer) => next.push(Input::Transferred {
                    task: transfer.task,
                    outcome: Ok(()),
                }),
                Effect::Reply(..) | Effect::Ended(_) | Effect::RunOver(_) => {}
            }
        }
        Ok(next)
    }

    /// Runs until all jobs have ended, or until the crash.
    fn run(&mut self, submit: bool) -> Result<(), ()> {
        let mut inputs = vec![Input::Subscribed(framework())];
        if submit {
            let template = JobSpec {
                log: Some(self.log.to_string_lossy().into_owned()),
                output: Some("/nowhere/o".to_owned()),
                max_retries: Some(3),
                ..spec()
            };
            let request = cluster(template, 25);
            inputs.push(Input::Submit { ticket: 0, request });
        }
        let mut quiet = 0;
        loop {
            inputs = self.turn(inputs)?;
            if self.core.is_empty() && inputs.is_empty() {
                quiet += 1;
                if quiet > 3 {
                    return Ok(());
                }
            }
            // Tasks end, some of them badly; an agent forgets one now and then.
            let live: Vec<TaskId> = self.world.live.iter().cloned().collect();
            for task in live {
                match self.random.below(12) {
                    0..4 => {
                        self.world.live.remove(&task);
                        self.world.say(exited(&task, 0));
                    }
                    4 => {
                        self.world.live.remove(&task);
                        self.world.say(exited(&task, 1));
                    }
                    5 => {
                        self.world.live.remove(&task);
                        self.world.unacknowledged.retain(|u| u.task != task);
                        inputs.push(Input::Update(lost(&task, Reason::AgentRemoved)));
                    }
                    _ => {}
                }
            }
            // The first unacknowledged update of each task is sent again and again.
            let mut seen = BTreeSet::new();
            for update in &self.world.unacknowledged {
                if seen.insert(update.task.clone()) && self.random.below(2) == 0 {
                    inputs.push(Input::Update(update.clone()));
                }
            }
            self.world.offers += 1;
            let offer = offer(self.world.offers, "A1", "cpus:5; mem:2048");
            inputs.push(Input::Offers(vec![offer]));
        }
    }
}

/// How often each job has its 005 in the log.
fn completions(log: &str) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for line in log.lines().filter(|line| line.starts_with("005 ")) {
        let job = line.split(['(', ')']).nth(1).unwrap();
        *counts.entry(job.to_owned()).or_default() += 1;
    }
    counts
}

fn survive(seed: u64) -> u32 {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("jobs.log");
    let mut world = World::default();
    let mut random = Random(seed);
    let mut now = Timestamp::from_secs(1_000_000_000);
    let mut lives = 0;
    loop {
        let (store, durable) = Store::open(&folder.path().join("data"), 1000).unwrap();
        let submit = durable.next_cluster < 2;
        let mut life = Life {
            core: Core::recover(settings(), durable, now),
            store,
            world: &mut world,
            random: &mut random,
            now,
            log: &log,
            mortal: lives < 30,
        };
        let done = life.run(submit);
        now = life.now;
        lives += 1;
        if done.is_ok() {
            let reader = life.store.reader();
            let (past, more) = reader.history(None, None, 1000).unwrap();
            assert!(!more);
            let jobs: BTreeSet<_> = past.iter().map(|past| past.key).collect();
            assert_eq!((past.len(), jobs.len()), (25, 25), "seed {seed}");
            break;
        }
    }
    let text = std::fs::read_to_string(&log).unwrap();
    let counts = completions(&text);
    assert_eq!(counts.len(), 25, "seed {seed}: {counts:?}");
    assert!(counts.values().all(|n| *n == 1), "seed {seed}: {counts:?}");
    for event in text.split("...\n") {
        let whole = event.is_empty() || event.starts_with(|c: char| c.is_ascii_digit());
        assert!(whole, "seed {seed}: a torn event: {event:?}");
    }
    let submissions = text.lines().filter(|line| line.starts_with("000 ")).count();
    assert_eq!(submissions, 25, "seed {seed}");
    let twice = world.started.values().find(|n| **n > 1);
    assert_eq!(twice, None, "seed {seed}: a task id was launched twice");
    lives
}

#[test]
fn each_job_is_complete_exactly_once_whatever_the_crash_cuts_off() {
    let lives: u32 = (0..30).map(survive).sum();
    assert!(lives > 90, "only {lives} lives: the crashes must bite");
}

#[test]
fn a_second_process_on_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, _) = Store::open(folder.path(), 10).unwrap();
    let error = Store::open(folder.path(), 10).unwrap_err().to_string();
    assert!(error.contains("in use by another process"), "{error}");
}

#[test]
fn the_history_forgets_the_oldest_ends_but_never_those_of_an_unfinished_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, durable) = Store::open(folder.path(), 5).unwrap();
    let now = Timestamp::from_secs(1);
    let mut core = Core::recover(settings(), durable, now);
    let mut step = |core: &mut Core, input| {
        let effects = core.step(now, input);
        store.commit(effects.persist).unwrap();
        effects.then
    };
    step(&mut core, Input::Subscribed(framework()));
    for _ in 0..2 {
        let request = cluster(spec(), 10);
        step(&mut core, Input::Submit { ticket: 0, request });
    }
    for n in 0..19 {
        let offered = Input::Offers(vec![offer(n, "A1", "cpus:1; mem:128")]);
        let task = step(&mut core, offered)
            .into_iter()
            .find_map(|effect| match effect {
                Effect::Call(Call::Accept { mut tasks, .. }) => tasks.pop(),
                _ => None,
            });
        let mut end = exited(&task.unwrap().id, 0);
        end.sandbox = Some(common::files(&[]));
        step(&mut core, Input::Update(end));
    }
    // Cluster 1 has ended and is cut; of cluster 2 all nine stay until its last job has ended.
    let (past, _) = store.reader().history(None, None, 100).unwrap();
    assert_eq!(past.len(), 9);
    assert!(past.iter().all(|past| past.key.cluster == 2));
    drop((store, core));
    let (_, durable) = Store::open(folder.path(), 5).unwrap();
    assert_eq!((durable.clusters.len(), durable.ended.len()), (1, 9));
}

#[test]
fn a_log_that_somebody_else_writes_to_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("l");
    let (mut store, _) = Store::open(&folder.path().join("data"), 5).unwrap();
    let text = |text: &str| Record::Log {
        path: log.to_string_lossy().into_owned(),
        text: text.to_owned(),
    };
    store.commit(vec![text("one\n...\n")]).unwrap();
    std::fs::write(&log, "one\n...\nforeign\n...\n").unwrap();
    store.commit(vec![text("two\n...\n")]).unwrap();
    drop(store);
    drop(Store::open(&folder.path().join("data"), 5).unwrap());
    let now = std::fs::read_to_string(&log).unwrap();
    assert_eq!(now, "one\n...\nforeign\n...\ntwo\n...\n");
}
