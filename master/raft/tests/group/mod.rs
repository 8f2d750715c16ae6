//! A group on virtual time, and what goes wrong in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use allotment_proto::allot::RaftMessage;
use allotment_raft::member::Role;
use allotment_raft::store::{First, MemoryFolder, Store};
use allotment_raft::{Change, Config, Effect, Input, Member, MemberInfo, Write};
use allotment_types::Timestamp;
use bytes::Bytes;

const TICK: Duration = Duration::from_millis(50);
const ELECTION_TICKS: u32 = 12;

/// What may happen in a step of time, in chances of a thousand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Night {
    lose: u64,
    repeat: u64,
    delay_max: u64,
    crash: u64,
    stop: u64,
    partition: u64,
    slow_disk: u64,
    resign: u64,
    /// At its beginning everybody is back and reaches everybody.
    heals: bool,
}

impl Night {
    pub(crate) fn quiet() -> Self {
        Self {
            lose: 0,
            repeat: 0,
            delay_max: 2,
            crash: 0,
            stop: 0,
            partition: 0,
            slow_disk: 0,
            resign: 0,
            heals: true,
        }
    }

    pub(crate) fn bad() -> Self {
        Self {
            lose: 60,
            repeat: 60,
            delay_max: 120,
            crash: 12,
            stop: 12,
            partition: 15,
            slow_disk: 50,
            resign: 5,
            heals: false,
        }
    }

    /// Whoever is cut off stays so.
    pub(crate) fn apart() -> Self {
        Self {
            heals: false,
            ..Self::quiet()
        }
    }
}

#[derive(Debug)]
struct Process {
    member: Member,
    store: Store,
    writes: Vec<Write>,
    written_at: Timestamp,
    applied: BTreeMap<u64, Bytes>,
    lease: Option<Timestamp>,
    leading: bool,
    proposed: BTreeSet<Bytes>,
    failed: bool,
}

#[derive(Debug)]
pub(crate) struct Group {
    now: Timestamp,
    random: u64,
    folders: BTreeMap<u64, MemoryFolder>,
    running: BTreeMap<u64, Process>,
    stopped: BTreeSet<u64>,
    /// Wait for their time to come back.
    absent_until: BTreeMap<u64, Timestamp>,
    network: BTreeMap<(Timestamp, u64), RaftMessage>,
    sent: u64,
    cut: BTreeSet<(u64, u64)>,
    /// What became of snapshots of members that are stopped: from, to, delivered.
    unheard: Vec<(u64, u64, bool)>,
    committed: BTreeMap<u64, Bytes>,
    acknowledged: BTreeSet<Bytes>,
    /// Terms in which somebody led.
    led: BTreeSet<u64>,
    proposals: u64,
    trace: Vec<String>,
}

fn address(id: u64) -> String {
    format!("m{id}:5050")
}

impl Group {
    /// A group that grew from member 1 to `n`, all voters.
    pub(crate) fn new(n: u64, seed: u64) -> Self {
        let mut group = Self {
            now: Timestamp::from_secs(1000),
            random: seed,
            folders: BTreeMap::new(),
            running: BTreeMap::new(),
            stopped: BTreeSet::new(),
            absent_until: BTreeMap::new(),
            network: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            unheard: Vec::new(),
            committed: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            led: BTreeSet::new(),
            proposals: 0,
            trace: Vec::new(),
        };
        let folder = MemoryFolder::default();
        let first = First::alone(1, &address(1), Bytes::new());
        Store::create(Box::new(folder.clone()), Some(first)).unwrap();
        group.folders.insert(1, folder);
        group.restart(1);
        group.live(Night::quiet(), 1);
        for id in 2..=n {
            group.join(id);
            for _ in 0..100 {
                if group.voters().contains(&id) {
                    break;
                }
                group.live(Night::quiet(), 1);
            }
            assert!(
                group.voters().contains(&id),
                "member {id} never voted\n{}",
                group.picture()
            );
        }
        group
    }

    fn chance(&mut self, of_thousand: u64) -> bool {
        self.draw(1000) < of_thousand
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn draw_bytes(&mut self, below: u64) -> usize {
        usize::try_from(self.draw(below)).unwrap()
    }

    fn note(&mut self, text: String) {
        let at = self.now.as_millis();
        self.trace.push(format!("{at} {text}"));
    }

    pub(crate) fn trace(self) -> Vec<String> {
        self.trace
    }

    pub(crate) fn join(&mut self, id: u64) {
        let folder = MemoryFolder::default();
        Store::create(Box::new(folder.clone()), None).unwrap();
        self.folders.insert(id, folder);
        self.restart(id);
        let info = MemberInfo {
            address: address(id),
            keep_learner: false,
        };
        let leader = self.leader().expect("somebody leads");
        let now = self.now;
        let process = self.running.get_mut(&leader).unwrap();
        let effects = process.member.change(now, &Change::Add { id, info });
        self.perform(leader, effects.unwrap());
    }

    /// The leader takes a member out of the group.
    pub(crate) fn remove(&mut self, id: u64) {
        let leader = self.leader().expect("somebody leads");
        let now = self.now;
        let process = self.running.get_mut(&leader).unwrap();
        let effects = process.member.change(now, &Change::Remove(id));
        self.perform(leader, effects.unwrap());
    }

    /// A member that was removed ends, and its disk is gone.
    pub(crate) fn leave(&mut self, id: u64) {
        self.crash(id, 0, false);
        self.folders.remove(&id);
    }

    pub(crate) fn restart(&mut self, id: u64) {
        self.note(format!("{id} starts"));
        let folder = self.folders[&id].clone();
        let (store, recovered) = Store::open(Box::new(folder)).unwrap().unwrap();
        let config = Config {
            id,
            tick: TICK,
            election_ticks: ELECTION_TICKS,
            seed: self.draw(u64::MAX),
            compact_bytes: 2000,
            keep_bytes: 500,
        };
        let (member, effects) = Member::new(config, self.now, recovered).unwrap();
        let process = Process {
            member,
            store,
            writes: Vec::new(),
            written_at: self.now,
            applied: BTreeMap::new(),
            lease: None,
            leading: false,
            proposed: BTreeSet::new(),
            failed: false,
        };
        self.running.insert(id, process);
        self.perform(id, effects);
    }

    /// Kills a member; `keep` bytes of what it was writing are on its disk all the same.
    pub(crate) fn crash(&mut self, id: u64, keep: usize, torn: bool) {
        self.note(format!("{id} crashes"));
        let folder = self.folders[&id].clone();
        if let Some(mut process) = self.running.remove(&id)
            && !process.writes.is_empty()
        {
            folder.break_sync();
            let _ = process.store.write(&process.writes);
        }
        folder.crash(keep, torn);
        self.stopped.remove(&id);
    }

    /// SIGSTOP.
    pub(crate) fn stop(&mut self, id: u64) {
        self.note(format!("{id} stops"));
        self.stopped.insert(id);
    }

    pub(crate) fn wake(&mut self, id: u64) {
        self.note(format!("{id} wakes"));
        self.stopped.remove(&id);
        for (from, to, delivered) in std::mem::take(&mut self.unheard) {
            self.report_snapshot(from, to, delivered);
        }
    }

    /// The member starts again from an empty log under its old number.
    pub(crate) fn lose_disk(&mut self, id: u64) {
        self.crash(id, 0, false);
        let folder = MemoryFolder::default();
        Store::create(Box::new(folder.clone()), None).unwrap();
        self.folders.insert(id, folder);
        self.restart(id);
    }

    /// Asks the leader to let another lead; what it says to them is held back.
    pub(crate) fn resign(&mut self) -> Vec<RaftMessage> {
        let leader = self.leader().unwrap();
        let others = std::mem::take(&mut self.network);
        self.input(leader, Input::Resign);
        std::mem::replace(&mut self.network, others)
            .into_values()
            .collect()
    }

    /// Nobody hears this member, nor it anybody.
    pub(crate) fn cut_off(&mut self, id: u64) {
        for other in self.folders.keys().copied().filter(|other| *other != id) {
            self.cut.extend([(id, other), (other, id)]);
        }
    }

    /// What was held back arrives.
    pub(crate) fn arrives(&mut self, messages: Vec<RaftMessage>) {
        for message in messages {
            self.input(message.to, Input::Message(Box::new(message)));
        }
    }

    pub(crate) fn has_failed(&self, id: u64) -> bool {
        self.running[&id].failed
    }

    pub(crate) fn has_lease(&self, id: u64) -> bool {
        let process = &self.running[&id];
        process.leading && process.lease.is_some_and(|until| self.now < until)
    }

    /// Who leads with a lease.
    pub(crate) fn leader(&self) -> Option<u64> {
        let mut all = self.running.keys().copied();
        all.find(|id| self.has_lease(*id) && !self.stopped.contains(id))
    }

    pub(crate) fn voters(&self) -> Vec<u64> {
        let Some(leader) = self.leader() else {
            return Vec::new();
        };
        let peers = self.running[&leader].member.standing().peers;
        peers.iter().filter(|p| p.voter).map(|p| p.id).collect()
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// Somebody who believes to lead proposes.
    pub(crate) fn propose_anywhere(&mut self) {
        let leading: Vec<u64> = self
            .running
            .iter()
            .filter(|(id, p)| p.leading && !self.stopped.contains(id))
            .map(|(id, _)| *id)
            .collect();
        for id in leading {
            self.proposals += 1;
            let padding = "x".repeat(self.draw_bytes(120));
            let data = Bytes::from(format!("{}-{padding}", self.proposals));
            let process = self.running.get_mut(&id).unwrap();
            process.proposed.insert(data.clone());
            self.input(id, Input::Propose(data));
        }
    }

    fn input(&mut self, id: u64, input: Input) {
        let now = self.now;
        let effects = self.running.get_mut(&id).unwrap().member.step(now, input);
        self.perform(id, effects);
    }

    fn perform(&mut self, id: u64, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(message) => {
                    self.sent += 1;
                    self.network.insert((self.now, self.sent), *message);
                }
                Effect::Write(write) => self.running.get_mut(&id).unwrap().writes.push(write),
                Effect::Apply { index, data } => self.apply(id, index, data),
                Effect::Restore { index, data } => self.restore(id, index, &data),
                Effect::MakeSnapshot => {
                    let applied = &self.running[&id].applied;
                    let lines: Vec<String> = applied
                        .iter()
                        .map(|(index, data)| format!("{index} {}", text(data)))
                        .collect();
                    self.input(id, Input::SnapshotMade(lines.join("\n").into()));
                }
                Effect::Lead { term } => {
                    self.note(format!("{id} leads in term {term}"));
                    assert!(self.led.insert(term), "term {term} is led twice");
                    let process = self.running.get_mut(&id).unwrap();
                    process.leading = true;
                    process.lease = None;
                }
                Effect::Follow { .. } => {
                    let process = self.running.get_mut(&id).unwrap();
                    process.leading = false;
                    // Not known to have happened: nothing is acknowledged.
                    process.proposed.clear();
                }
                Effect::Lease(until) => {
                    self.running.get_mut(&id).unwrap().lease = Some(until);
                }
                Effect::Failed(_) => {
                    let process = self.running.get_mut(&id).unwrap();
                    process.failed = true;
                    process.leading = false;
                }
                Effect::Dropped | Effect::Members => {}
                Effect::Refused(reason) => panic!("{reason}"),
            }
        }
    }

    fn apply(&mut self, id: u64, index: u64, data: Bytes) {
        let known = self.committed.entry(index).or_insert_with(|| data.clone());
        assert_eq!(*known, data, "entry {index} differs on member {id}");
        let process = self.running.get_mut(&id).unwrap();
        let last = process.applied.last_key_value().map(|(index, _)| *index);
        assert!(
            last < Some(index),
            "entry {index} is applied after {last:?}"
        );
        process.applied.insert(index, data.clone());
        if process.proposed.remove(&data) {
            self.acknowledged.insert(data);
        }
    }

    fn restore(&mut self, id: u64, _index: u64, data: &Bytes) {
        let applied: BTreeMap<u64, Bytes> = text(data)
            .lines()
            .map(|line| {
                let (index, data) = line.split_once(' ').unwrap();
                (index.parse().unwrap(), Bytes::from(data.to_owned()))
            })
            .collect();
        for (index, data) in &applied {
            assert_eq!(self.committed.get(index), Some(data), "in a snapshot");
        }
        self.running.get_mut(&id).unwrap().applied = applied;
    }

    /// Lets `ticks` of time pass.
    pub(crate) fn live(&mut self, night: Night, ticks: u32) {
        if night.heals {
            self.cut.clear();
            let stopped = std::mem::take(&mut self.absent_until);
            for id in stopped.keys() {
                self.come_back(*id);
            }
        }
        for step in 0..ticks * 10 {
            self.now = self.now + TICK / 10;
            self.misfortune(night);
            if step % 25 == 0 {
                self.propose_anywhere();
            }
            self.deliver(night);
            self.disks(night);
            let due: Vec<u64> = self
                .running
                .iter()
                .filter(|(id, p)| {
                    !self.stopped.contains(id) && p.member.next_deadline() <= self.now
                })
                .map(|(id, _)| *id)
                .collect();
            for id in due {
                self.input(id, Input::Tick);
            }
            let leases: Vec<u64> = self
                .running
                .keys()
                .copied()
                .filter(|id| self.has_lease(*id))
                .collect();
            assert!(leases.len() <= 1, "{leases:?} lead at once");
        }
    }

    fn come_back(&mut self, id: u64) {
        if self.stopped.contains(&id) {
            self.wake(id);
        } else if !self.running.contains_key(&id) {
            self.restart(id);
        }
    }

    fn misfortune(&mut self, night: Night) {
        let back: Vec<u64> = self
            .absent_until
            .iter()
            .filter(|(_, until)| **until <= self.now)
            .map(|(id, _)| *id)
            .collect();
        for id in back {
            self.absent_until.remove(&id);
            self.come_back(id);
        }
        let ids: Vec<u64> = self.folders.keys().copied().collect();
        for id in &ids {
            if self.absent_until.contains_key(id) || !self.running.contains_key(id) {
                continue;
            }
            let away = Duration::from_millis(20 + self.draw(3000));
            if self.chance(night.crash) && self.chance(100) {
                let (keep, torn) = (self.draw_bytes(3000), self.chance(500));
                self.crash(*id, keep, torn);
                self.absent_until.insert(*id, self.now + away);
            } else if self.chance(night.stop) && self.chance(100) {
                self.stop(*id);
                self.absent_until.insert(*id, self.now + away);
            }
        }
        if self.chance(night.resign)
            && let Some(leader) = self.leader()
            && !self.stopped.contains(&leader)
        {
            self.input(leader, Input::Resign);
        }
        if self.chance(night.partition) {
            if self.chance(400) {
                self.cut.clear();
            } else {
                // One way now and then both ways.
                let (a, b) = (
                    self.draw_bytes(ids.len() as u64),
                    self.draw_bytes(ids.len() as u64),
                );
                self.cut.insert((ids[a], ids[b]));
                if self.chance(500) {
                    self.cut.insert((ids[b], ids[a]));
                }
            }
        }
    }

    fn deliver(&mut self, night: Night) {
        let later = self.network.split_off(&(self.now, 0));
        let due = std::mem::replace(&mut self.network, later);
        for ((at, _), message) in due {
            let (from, to) = (message.from, message.to);
            if self.cut.contains(&(from, to)) || self.chance(night.lose) {
                if message.snapshot.is_some() {
                    self.report_snapshot(from, to, false);
                }
                continue;
            }
            let fresh = self.now.since(at) <= TICK / 10;
            if fresh && self.chance(300) {
                // On its way for a while, and so behind others.
                let delay = Duration::from_millis(self.draw(night.delay_max));
                self.sent += 1;
                self.network.insert((self.now + delay, self.sent), message);
                continue;
            }
            if self.chance(night.repeat) {
                self.sent += 1;
                let again = self.now + Duration::from_millis(self.draw(2000));
                self.network.insert((again, self.sent), message.clone());
            }
            if self.stopped.contains(&to) {
                // Waits in its socket.
                self.sent += 1;
                self.network.insert((self.now + TICK, self.sent), message);
            } else if self.running.contains_key(&to) {
                let snapshot = message.snapshot.is_some();
                self.input(to, Input::Message(Box::new(message)));
                if snapshot {
                    self.report_snapshot(from, to, true);
                }
            } else if message.snapshot.is_some() {
                self.report_snapshot(from, to, false);
            }
        }
    }

    fn report_snapshot(&mut self, from: u64, to: u64, delivered: bool) {
        if self.stopped.contains(&from) {
            self.unheard.push((from, to, delivered));
        } else if self.running.contains_key(&from) {
            self.input(from, Input::SnapshotSent { to, delivered });
        }
    }

    fn disks(&mut self, night: Night) {
        let ids: Vec<u64> = self.running.keys().copied().collect();
        for id in ids {
            let process = &self.running[&id];
            if process.writes.is_empty() || process.written_at > self.now {
                continue;
            }
            let delay = if self.chance(night.slow_disk) {
                self.draw(400)
            } else {
                self.draw(5)
            };
            let now = self.now;
            let stopped = self.stopped.contains(&id);
            let process = self.running.get_mut(&id).unwrap();
            process.written_at = now + Duration::from_millis(delay);
            if stopped {
                continue;
            }
            let writes = std::mem::take(&mut process.writes);
            process.store.write(&writes).unwrap();
            let number = writes.last().unwrap().number;
            self.input(id, Input::Persisted(number));
        }
    }

    /// Everybody runs, one leads, and all have applied everything.
    pub(crate) fn expect_agreement(&mut self) {
        for _ in 0..400 {
            if self.leader().is_some() && self.all_equal() {
                break;
            }
            self.live(Night::quiet(), 1);
        }
        assert!(self.leader().is_some(), "nobody leads");
        let ids: Vec<u64> = self.running.keys().copied().collect();
        for id in ids {
            let process = &self.running[&id];
            let role = process.member.standing().role;
            assert_ne!(role, Role::Candidate, "member {id}");
            let have: BTreeSet<&Bytes> = process.applied.values().collect();
            for data in &self.acknowledged {
                assert!(
                    have.contains(data),
                    "member {id} lost {data:?}\n{}",
                    self.picture()
                );
            }
        }
    }

    /// For whoever must find out what went wrong.
    fn picture(&self) -> String {
        let members = self.running.iter().map(|(id, process)| {
            let standing = process.member.standing();
            let (applied, failed) = (process.applied.len(), process.failed);
            format!("{id}: applied {applied}, failed {failed}, {standing:?}")
        });
        members.collect::<Vec<_>>().join("\n")
    }

    fn all_equal(&self) -> bool {
        let mut last = self.running.values().map(|p| p.applied.len());
        let first = last.next();
        self.running.len() == self.folders.len() && last.all(|n| Some(n) == first)
    }
}

fn text(data: &Bytes) -> &str {
    std::str::from_utf8(data).unwrap()
}
