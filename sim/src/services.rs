//! The services framework in the simulator: its real core, a scripted user, and the way of its
//! records into the masters' store as its own edge goes it: effects wait for their write.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use allotment_framework_sdk::{Event, Task};
use allotment_master::core::registry::Registry;
use allotment_proto::allot;
use allotment_services::core::health::Outcome;
use allotment_services::core::{Core, Effect, Input, Record, Request, Settings};
use allotment_types::{Effects, FrameworkId, TaskId, Timestamp};
use bytes::Bytes;
use fastrand::Rng;
use serde_json::{Value, json};

use crate::brain::Deed;
use crate::fault::CrashPoint;
use crate::plant::Plant;
use crate::rng;

const NAMESPACE: &str = "services";

/// What a user asks for.
#[derive(Debug, Clone)]
enum Wish {
    Create { app: usize, instances: usize },
    Scale { app: usize, instances: usize },
    Restart { app: usize },
    Delete { app: usize },
}

/// The framework and its user.
#[derive(Debug)]
pub(crate) struct Services {
    core: Core,
    settings: Settings,
    rng: Rng,
    script: VecDeque<(Timestamp, Wish)>,
    /// How many instances each app should have; absent: the app is gone or never was.
    wanted: BTreeMap<usize, usize>,
    /// Answers that are due, and what is wanted if they are good.
    asked: BTreeMap<u64, Wish>,
    next_request: u64,
    /// Stepped and not yet written.
    queued: Effects<Record, Effect>,
    /// Effects whose records are being written.
    writing: Option<Vec<Effect>>,
    probes: BTreeMap<(Timestamp, u64), (TaskId, usize)>,
    next_probe: u64,
    /// Where it dies in its next step that writes.
    die_at: Option<CrashPoint>,
    plant: Plant,
}

impl Services {
    /// A user with a few apps who changes his mind `changes` times within `busy`.
    pub(crate) fn new(seed: u64, changes: usize, busy: Duration, plant: Plant) -> Self {
        let mut rng = rng::stream(seed, "services");
        let settings = Settings::from(&allotment_services::Config::default());
        let mut script: Vec<(Timestamp, Wish)> = Vec::new();
        for app in 0..3 {
            let at = Timestamp::ZERO + rng::between(&mut rng, Duration::ZERO, busy / 4);
            let instances = rng.usize(1..=3);
            script.push((at, Wish::Create { app, instances }));
        }
        for _ in 0..changes {
            let at = Timestamp::ZERO + rng::between(&mut rng, busy / 4, busy);
            let app = rng.usize(0..3);
            let instances = rng.usize(0..=4);
            let wish = match rng.u8(0..6) {
                0 => Wish::Restart { app },
                1 => Wish::Delete { app },
                2 => Wish::Create { app, instances },
                _ => Wish::Scale { app, instances },
            };
            script.push((at, wish));
        }
        script.sort_by_key(|(at, _)| *at);
        Self {
            core: Core::new(settings.clone(), rng.u64(..)),
            settings,
            rng,
            script: script.into(),
            wanted: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_request: 0,
            queued: Effects::none(),
            writing: None,
            probes: BTreeMap::new(),
            next_probe: 0,
            die_at: None,
            plant,
        }
    }

    pub(crate) fn die_at(&mut self, at: CrashPoint) {
        self.die_at = Some(at);
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        let script = self.script.front().map(|(at, _)| *at);
        let probe = self.probes.keys().next().map(|(at, _)| *at);
        script
            .into_iter()
            .chain(probe)
            .chain(self.core.next_deadline())
            .min()
    }

    pub(crate) fn on_tick(&mut self, now: Timestamp) -> Result<Vec<Deed>, String> {
        while let Some((at, _)) = self.script.front()
            && *at <= now
            && let Some((_, wish)) = self.script.pop_front()
        {
            let id = self.next_request;
            self.next_request += 1;
            let request = request(&wish);
            self.asked.insert(id, wish);
            self.step(now, Input::Request { id, request });
        }
        while let Some(entry) = self.probes.first_entry()
            && entry.key().0 <= now
        {
            let (task, check) = entry.remove();
            let outcome = if self.rng.f64() < 0.97 {
                Outcome::Status(200)
            } else {
                Outcome::Failed("timed out".to_owned())
            };
            let input = Input::Probed {
                task,
                check,
                outcome,
            };
            self.step(now, input);
        }
        if self.core.next_deadline().is_some_and(|at| at <= now) {
            self.step(now, Input::Tick);
        }
        self.flush(now)
    }

    pub(crate) fn on_event(&mut self, now: Timestamp, event: &Event) -> Result<Vec<Deed>, String> {
        self.step(now, Input::Event(event.clone()));
        self.flush(now)
    }

    pub(crate) fn on_stored(&mut self, now: Timestamp) -> Result<Vec<Deed>, String> {
        if self.die_at == Some(CrashPoint::AfterSync) {
            return Ok(vec![Deed::Die]);
        }
        let effects = self.writing.take().unwrap_or_default();
        let mut deeds = self.perform(now, effects)?;
        deeds.extend(self.flush(now)?);
        Ok(deeds)
    }

    fn step(&mut self, now: Timestamp, input: Input) {
        let effects = self.core.step(now, input);
        self.queued.append(effects);
    }

    /// Starts to write what is queued, or performs it when there is nothing to write.
    fn flush(&mut self, now: Timestamp) -> Result<Vec<Deed>, String> {
        if self.writing.is_some() {
            return Ok(Vec::new());
        }
        let Effects { persist, then } = std::mem::take(&mut self.queued);
        if persist.is_empty() {
            return self.perform(now, then);
        }
        let (early, then) = if self.plant == Plant::ServicesActEarly {
            (self.perform(now, then)?, Vec::new())
        } else {
            (Vec::new(), then)
        };
        if self.die_at == Some(CrashPoint::BeforeSync) {
            return Ok(early.into_iter().chain([Deed::Die]).collect());
        }
        self.writing = Some(then);
        let mut merged: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
        for record in persist {
            merged.insert(record.key, record.value);
        }
        let operations = merged
            .into_iter()
            .map(|(key, value)| allot::StoreOperation {
                key,
                value: value.map(Bytes::from),
                expected_version: None,
                lease_ms: None,
            });
        let commit = Deed::Commit(allot::StoreCommitRequest {
            namespace: NAMESPACE.to_owned(),
            operations: operations.collect(),
        });
        Ok(early.into_iter().chain([commit]).collect())
    }

    fn perform(&mut self, now: Timestamp, effects: Vec<Effect>) -> Result<Vec<Deed>, String> {
        let mut deeds = Vec::new();
        for effect in effects {
            match effect {
                Effect::Call(call) => deeds.push(Deed::Call(call)),
                Effect::Answer { id, answer } => {
                    let wish = self.asked.remove(&id);
                    if answer.status == 503 {
                        // No master is reachable: the user tries again.
                        self.script
                            .extend(wish.map(|wish| (now + Duration::from_secs(5), wish)));
                        self.script.make_contiguous().sort_by_key(|(at, _)| *at);
                        continue;
                    }
                    if answer.status >= 500 {
                        return Err(format!("services answered {answer:?}"));
                    }
                    // An app that is not there is deleted, whoever did it.
                    let gone = matches!(wish, Some(Wish::Delete { .. })) && answer.status == 404;
                    if let Some(wish) = wish
                        && (answer.status < 300 || gone)
                    {
                        self.agreed(&wish);
                    }
                }
                Effect::Probe(probe) => {
                    let max = Duration::from_millis(200);
                    let at = now + rng::between(&mut self.rng, Duration::from_millis(1), max);
                    self.next_probe += 1;
                    self.probes
                        .insert((at, self.next_probe), (probe.task, probe.check));
                }
            }
        }
        Ok(deeds)
    }

    fn agreed(&mut self, wish: &Wish) {
        match *wish {
            Wish::Create { app, instances } | Wish::Scale { app, instances } => {
                self.wanted.insert(app, instances);
            }
            Wish::Restart { .. } => {}
            Wish::Delete { app } => {
                self.wanted.remove(&app);
            }
        }
    }

    /// Another process with what the store holds; requests under way are never answered, so
    /// what they asked for may or may not come.
    pub(crate) fn restart(&mut self, registry: &Registry) -> Result<Option<FrameworkId>, String> {
        let namespace = registry.store.get(NAMESPACE);
        let entries = namespace
            .into_iter()
            .flatten()
            .map(|(key, entry)| (key.to_string(), entry.value.to_vec()));
        self.core = Core::load(self.settings.clone(), self.rng.u64(..), entries)
            .map_err(|error| format!("services cannot read what it wrote: {error}"))?;
        self.queued = Effects::none();
        self.writing = None;
        self.die_at = None;
        self.probes.clear();
        // What was asked and not answered is asked again, as a user would.
        for (_, wish) in std::mem::take(&mut self.asked).into_iter().rev() {
            self.script.push_front((Timestamp::ZERO, wish));
        }
        Ok(self.core.framework().cloned())
    }

    pub(crate) fn check_settled(&self) -> Result<(), String> {
        let stats = self.core.stats();
        let wanted: usize = self.wanted.values().sum();
        if stats.deployments != 0
            || stats.waiting != 0
            || stats.staged != 0
            || stats.unreachable != 0
            || usize::try_from(stats.running).ok() != Some(wanted)
        {
            return Err(format!(
                "services converge: {wanted} instances are wanted ({:?}), but it stands at \
                 {stats:?}",
                self.wanted
            ));
        }
        Ok(())
    }
}

/// Nothing is launched that another process would not know of.
pub(crate) fn check_kept(launched: &[Task], registry: &Registry) -> Result<(), String> {
    let entries = registry.store.get(NAMESPACE).into_iter().flatten();
    let instances = entries.filter(|(key, _)| key.starts_with("instance/"));
    let kept: BTreeSet<String> = instances
        .filter_map(|(_, entry)| {
            let instance: Value = serde_json::from_slice(&entry.value).ok()?;
            Some(instance["task"]["id"].as_str()?.to_owned())
        })
        .collect();
    match launched
        .iter()
        .find(|task| !kept.contains(task.id.as_str()))
    {
        Some(task) => Err(format!(
            "nothing is told before it is durable: services launches task {}, of which the store \
             has no instance",
            task.id
        )),
        None => Ok(()),
    }
}

fn request(wish: &Wish) -> Request {
    let id = |app: &usize| format!("/app{app}");
    match wish {
        Wish::Create { app, instances } => {
            let mut body = json!({
                "id": id(app),
                "cmd": "sleep infinity",
                "cpus": 0.2,
                "mem": 64,
                "instances": instances,
            });
            if *app == 2 {
                body["portDefinitions"] = json!([{ "port": 0 }]);
                body["healthChecks"] = json!([{
                    "protocol": "HTTP",
                    "path": "/",
                    "gracePeriodSeconds": 5,
                    "intervalSeconds": 10,
                    "maxConsecutiveFailures": 3,
                }]);
            }
            // PUT, so that asking again does no harm.
            Request::PutApp {
                id: id(app),
                body,
                force: true,
                partial: true,
                must_exist: false,
            }
        }
        Wish::Scale { app, instances } => Request::PutApp {
            id: id(app),
            body: json!({ "instances": instances }),
            force: true,
            partial: true,
            must_exist: true,
        },
        Wish::Restart { app } => Request::Restart {
            id: id(app),
            force: true,
        },
        Wish::Delete { app } => Request::DeleteApp {
            id: id(app),
            force: true,
        },
    }
}
