//! One member of the group as a state machine: facts in, effects out.
//!
//! The edge gives every [`Effect`] to the world in order and at once; what must wait for the disk
//! is held back here until [`Input::Persisted`]. So the edge may keep many writes in flight, and
//! whatever waits on the disk together becomes one group commit.
//!
//! Beyond `raft`'s own `RawNode`:
//! - Election timeouts come from a seed, so that a run can be repeated.
//! - A member that just started grants no vote for one election timeout: it may have promised a
//!   leader to (see `lease.rs`).
//! - A member that lost what it once acknowledged says so and takes no further part.

mod apply;
mod change;
mod inspect;

use std::collections::VecDeque;
use std::time::Duration;

use allotment_proto::allot;
use allotment_types::Timestamp;
use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType, Snapshot};
use raft::{RawNode, SnapshotStatus, StateRole, Storage as _};

use crate::clock::GroupClock;
use crate::lease::Lease;
use crate::log::Log;
use crate::members::{Change, Members};
use crate::store::Recovered;
use crate::wire;

pub use inspect::{BackupFrame, Peer, Role, Standing};

/// How many ticks pass between two rounds of heartbeats.
const HEARTBEAT_TICKS: u64 = 2;
/// For how many ticks a snapshot is kept for members that need one.
const SNAPSHOT_TICKS: u64 = 600;
/// The most bytes of entries in one message.
const MESSAGE_BYTES: u64 = 1024 * 1024;

/// What a member must know of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its number; not 0.
    pub id: u64,
    /// The unit of all timeouts.
    pub tick: Duration,
    /// After how many ticks without a leader an election may begin; the real number is up to
    /// twice that, by the seed. At least 5.
    pub election_ticks: u32,
    /// Of the election timeouts; members must have different ones.
    pub seed: u64,
    /// A snapshot is made when the log holds this many bytes more than `keep_bytes`.
    pub compact_bytes: usize,
    /// How much of the log is kept in memory below a snapshot, for members that lag a little.
    pub keep_bytes: usize,
}

/// A fact that arrives.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Time has passed; see [`Member::next_deadline`].
    Tick,
    /// Another member said something; only from members that proved who they are.
    Message(Box<allot::RaftMessage>),
    /// The leader's application wants an entry.
    Propose(Bytes),
    /// [`Effect::Write`] of this number, and all before it, are durable.
    Persisted(u64),
    /// A message to this member did not arrive.
    Unreachable(u64),
    /// What became of a snapshot that was sent.
    SnapshotSent {
        /// To whom.
        to: u64,
        /// It arrived.
        delivered: bool,
    },
    /// The application's state, as asked by [`Effect::MakeSnapshot`].
    SnapshotMade(Bytes),
    /// Hand the leadership to another member, if there is one that could take it.
    Resign,
}

/// What the edge is to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send to `message.to`; it may get lost.
    Send(Box<allot::RaftMessage>),
    /// Make durable, then say [`Input::Persisted`].
    Write(Write),
    /// An entry is committed: the application takes it in.
    Apply {
        /// Its place in the log.
        index: u64,
        /// What was proposed.
        data: Bytes,
    },
    /// The application's state becomes this one.
    Restore {
        /// Up to which entry.
        index: u64,
        /// From [`Input::SnapshotMade`], here or elsewhere.
        data: Bytes,
    },
    /// The application's state as it is now is wanted; answer with [`Input::SnapshotMade`].
    MakeSnapshot,
    /// This member leads and has applied everything that was committed before.
    Lead {
        /// In this term.
        term: u64,
    },
    /// This member does not lead, and drops what it proposed.
    Follow {
        /// In this term.
        term: u64,
        /// Whom, if anybody leads.
        leader: Option<u64>,
    },
    /// Until when nobody else leads, on the clock of the inputs.
    Lease(Timestamp),
    /// A proposal was dropped; whoever proposed must not wait for it.
    Dropped,
    /// The members changed.
    Members,
    /// A message made no sense; log it.
    Refused(String),
    /// The member takes no further part.
    Failed(MemberError),
}

/// Records to make durable.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Write {
    /// Counts up by one.
    pub number: u64,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) entries: Vec<Entry>,
    /// A snapshot, the state beside it, and the entries after it: all that is left of the log.
    pub(crate) snapshot: Option<(Snapshot, HardState, Vec<Entry>)>,
}

/// Why a member cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Its disk was exchanged or rolled back.
    #[error(
        "the log ends at entry {last} although this master once had entry {had} on its disk; it \
         must not vote again: move its folder away and join anew"
    )]
    LostEntries {
        /// What is there.
        last: u64,
        /// What the leader knows that it had.
        had: u64,
    },
    /// Written by a later version.
    #[error("entry {index} cannot be understood: {what}; start the newer version again")]
    Entry {
        /// Which.
        index: u64,
        /// Why.
        what: String,
    },
    /// raft-rs refused; a bug.
    #[error("the replicated log contradicts itself: {0}")]
    Raft(String),
}

/// A write on its way to the disk.
#[derive(Debug)]
struct Outstanding {
    write: u64,
    /// raft-rs' number of the latest step that the write covers.
    ready: u64,
    /// To send once it is durable.
    messages: Vec<Message>,
    /// A snapshot from the leader: the application gets it once it is durable.
    restore: Option<Snapshot>,
    /// A snapshot of our own: the log is compacted once it is durable.
    compact: Option<Snapshot>,
}

/// One member of the group.
pub struct Member {
    config: Config,
    node: RawNode<Log>,
    members: Members,
    /// Who votes, as of the last entry applied.
    voters: ConfState,
    applied: u64,
    outstanding: VecDeque<Outstanding>,
    next_write: u64,
    lease: Lease,
    clock: GroupClock,
    /// The term in which the application was told to lead.
    leading: Option<u64>,
    /// The term whose leadership this member gave away.
    resigned: Option<u64>,
    /// Whom the application was told to follow.
    following: Option<(u64, Option<u64>)>,
    last_tick: Timestamp,
    ticks: u64,
    timeouts: Timeouts,
    /// Entry, term, voters and members of the snapshot that the application is making.
    making: Option<(u64, u64, ConfState, Members)>,
    /// The tick at which the snapshot for others was made.
    offered: u64,
    snapshot_bytes: usize,
    snapshot_index: u64,
    failed: bool,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("id", &self.config.id)
            .field("term", &self.node.raft.term)
            .field("applied", &self.applied)
            .field("leading", &self.leading)
            .finish_non_exhaustive()
    }
}

/// Whoever waits for its leader waits so many ticks longer than it has promised to, because the
/// ticks of the others, and what they heard last, lie a little apart: whoever asks too early is
/// not answered.
const LATE_TICKS: usize = 2;
/// Between the turns of two followers: longer than an election takes where disks are not slow.
const TURN_TICKS: usize = 3;

/// Election timeouts; raft-rs would draw them from a generator that nobody can seed.
///
/// Followers of one leader take turns instead of drawing: else the first of them begins late, and
/// two of them begin in the same instant now and then, split the votes and wait once more.
#[derive(Debug)]
struct Timeouts {
    state: u64,
    /// Term, role and turn; anew when one of them changes.
    of: (u64, StateRole, Option<usize>),
    ticks: usize,
}

impl Timeouts {
    /// For a follower whose turn it is after so many others.
    fn take_turn(&mut self, election_ticks: usize, turn: usize) {
        let turn = turn.saturating_mul(TURN_TICKS);
        let latest = election_ticks.saturating_mul(2).saturating_sub(1);
        self.ticks = (election_ticks + LATE_TICKS)
            .saturating_add(turn)
            .min(latest);
    }

    fn draw(&mut self, election_ticks: usize) {
        // splitmix64
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let spread = u64::try_from(election_ticks).unwrap_or(1).max(1);
        self.ticks = election_ticks + usize::try_from(z % spread).unwrap_or(0);
    }
}

impl Member {
    /// A member that starts at `now` with what its store remembers, and its first effects.
    ///
    /// # Errors
    /// [`MemberError`] when the store contradicts itself.
    pub fn new(
        config: Config,
        now: Timestamp,
        recovered: Recovered,
    ) -> Result<(Self, Vec<Effect>), MemberError> {
        let snapshot = recovered.snapshot.as_ref().map(Snapshot::get_metadata);
        let (base, voters) = snapshot.map_or_else(
            || ((0, 0), ConfState::default()),
            |meta| ((meta.index, meta.term), meta.get_conf_state().clone()),
        );
        let log = Log::new(
            recovered.hard_state,
            voters.clone(),
            base,
            recovered.entries,
        );
        let election_tick = usize::try_from(config.election_ticks).unwrap_or(usize::MAX);
        let raft_config = raft::Config {
            id: config.id,
            election_tick,
            // Our own heartbeats carry the lease's question; raft-rs' would only double them.
            heartbeat_tick: election_tick.saturating_sub(1),
            applied: base.0,
            max_size_per_msg: MESSAGE_BYTES,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&raft_config, log, &logger)
            .map_err(|error| MemberError::Raft(error.to_string()))?;
        let mut member = Self {
            members: Members::default(),
            voters,
            applied: base.0,
            outstanding: VecDeque::new(),
            next_write: 1,
            lease: Lease::new(config.tick, config.election_ticks),
            clock: GroupClock::new(now),
            leading: None,
            resigned: None,
            following: None,
            last_tick: now,
            ticks: 0,
            timeouts: Timeouts {
                state: config.seed,
                of: (u64::MAX, StateRole::Follower, None),
                ticks: election_tick,
            },
            making: None,
            offered: 0,
            snapshot_bytes: 0,
            snapshot_index: base.0,
            failed: false,
            node,
            config,
        };
        let mut out = Vec::new();
        if let Some(snapshot) = recovered.snapshot {
            member.restore(&snapshot, &mut out);
        }
        member.settle_timeout();
        if member.is_alone() {
            // Nobody else could object, and nobody should have to wait.
            member.campaign();
        }
        member.drain(now, &mut out);
        Ok((member, out))
    }

    /// When [`Input::Tick`] is due.
    pub fn next_deadline(&self) -> Timestamp {
        self.last_tick + self.config.tick
    }

    /// The group's time at `now`: what deadlines in the log are measured by.
    pub fn group_time(&self, now: Timestamp) -> Timestamp {
        self.clock.at(now)
    }

    /// The log says that it was `group` once, so it is not earlier.
    pub fn on_past_time(&mut self, now: Timestamp, group: Timestamp) {
        self.clock.on_past(now, group);
    }

    /// Takes one fact in. `now` is the machine's time at the start, monotonic from there on.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        if self.failed {
            return out;
        }
        match input {
            Input::Tick => self.on_tick(now),
            Input::Message(message) => self.on_message(now, *message, &mut out),
            Input::Propose(data) => self.on_propose(data, &mut out),
            Input::Persisted(number) => self.on_persisted(number, &mut out),
            Input::Unreachable(id) => self.node.report_unreachable(id),
            Input::SnapshotSent { to, delivered } => {
                let status = if delivered {
                    SnapshotStatus::Finish
                } else {
                    SnapshotStatus::Failure
                };
                self.node.report_snapshot(to, status);
            }
            Input::SnapshotMade(data) => self.on_snapshot_made(data, &mut out),
            Input::Resign => self.on_resign(),
        }
        self.drain(now, &mut out);
        out
    }

    /// Whether this member is the only one that decides.
    fn is_alone(&self) -> bool {
        self.node.raft.prs().is_singleton() && self.node.raft.promotable()
    }

    fn campaign(&mut self) {
        // Refused only while a change of the members waits to be applied; the next tick retries.
        let _ = self.node.campaign();
    }

    fn on_tick(&mut self, now: Timestamp) {
        // One at a time however late: a process that was stopped must not believe that it waited
        // for its leader all the while.
        if now < self.next_deadline() {
            return;
        }
        self.last_tick = now;
        self.ticks += 1;
        self.node.tick();
        if self.node.raft.state == StateRole::Follower && self.is_alone() {
            self.campaign();
        }
        if self.leading.is_some() {
            if self.ticks.is_multiple_of(HEARTBEAT_TICKS) {
                self.ask_for_lease(now);
            }
            self.promote_learners();
        }
        if self.node.store().has_snapshot() && self.ticks > self.offered + SNAPSHOT_TICKS {
            self.node.mut_store().offer_snapshot(None);
        }
    }

    fn ask_for_lease(&mut self, now: Timestamp) {
        if !self.is_alone() {
            let question = self.lease.ask(now, self.clock.at(now));
            self.node.read_index(question);
        }
    }

    fn on_message(&mut self, now: Timestamp, message: allot::RaftMessage, out: &mut Vec<Effect>) {
        let (from, to) = (message.from, message.to);
        let message = match wire::message_from_wire(message) {
            Ok(message) => message,
            Err(error) => return out.push(Effect::Refused(error.to_string())),
        };
        if to != self.config.id || from == self.config.id || from == 0 {
            let text = format!("a message from member {from:x} to member {to:x} came here");
            return out.push(Effect::Refused(text));
        }
        if self.members.removed.contains(&from) {
            return;
        }
        let fresh = self.ticks < u64::from(self.config.election_ticks);
        match message.get_msg_type() {
            // A member that hands its leadership over ends its own lease first.
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
                if fresh && message.context != raft::CAMPAIGN_TRANSFER =>
            {
                return;
            }
            // It counts nothing any more, and raft-rs would panic.
            MessageType::MsgAppendResponse if self.is_leaving() => return,
            MessageType::MsgHeartbeat if message.term >= self.node.raft.term => {
                // Never more than what we acknowledged; raft-rs would panic.
                let last = self.node.raft.raft_log.last_index();
                if message.commit > last {
                    let had = message.commit;
                    return self.fail(MemberError::LostEntries { last, had }, out);
                }
                if let Some(group) = Lease::time_in(&message.context) {
                    self.clock.on_leader(now, group);
                }
            }
            _ => {}
        }
        // An error means that the message was not for a member like us: ignored as if lost.
        let _ = self.node.step(message);
    }

    fn on_propose(&mut self, data: Bytes, out: &mut Vec<Effect>) {
        let led = self.leading.is_some();
        if !led || self.node.propose(Vec::new(), data.into()).is_err() {
            out.push(Effect::Dropped);
        }
    }

    fn on_persisted(&mut self, number: u64, out: &mut Vec<Effect>) {
        while let Some(first) = self.outstanding.front() {
            if first.write > number {
                break;
            }
            let Some(done) = self.outstanding.pop_front() else {
                break;
            };
            self.persisted(done.ready);
            if let Some(snapshot) = done.restore {
                self.restore(&snapshot, out);
                self.node.advance_apply();
            }
            if let Some(snapshot) = done.compact {
                self.snapshot_index = snapshot.get_metadata().index;
                self.snapshot_bytes = snapshot.data.len();
                let keep = self.config.keep_bytes;
                self.node.mut_store().compact(self.snapshot_index, keep);
            }
            out.extend(done.messages.iter().map(send));
        }
    }

    /// A leader that was removed goes on for a moment, so that the others learn of it; what it
    /// has on its own disk counts for nothing then, and raft-rs would panic.
    fn is_leaving(&self) -> bool {
        let raft = &self.node.raft;
        raft.state == StateRole::Leader && raft.prs().get(self.config.id).is_none()
    }

    fn persisted(&mut self, ready: u64) {
        if !self.is_leaving() {
            self.node.on_persist_ready(ready);
        }
    }

    fn on_resign(&mut self) {
        if self.leading.is_none() {
            return;
        }
        let me = self.config.id;
        let peers = self.node.raft.prs().iter();
        let able = peers.filter(|(id, progress)| {
            **id != me && progress.recent_active && self.voters.voters.contains(id)
        });
        let best = able.max_by_key(|(id, progress)| (progress.matched, **id));
        if let Some(id) = best.map(|(id, _)| *id) {
            self.node.transfer_leader(id);
            let raft = &self.node.raft;
            self.resigned = raft.lead_transferee.map(|_| raft.term);
        }
    }

    /// Whoever gave a term away leads in it no more, also when nobody took it: the order to take
    /// over may still be under way, and followers vote for whoever has it whatever they promised
    /// to a lease; and what was proposed before may still be committed, behind the back of an
    /// application that begins anew. raft-rs would go on leading.
    fn step_down(&mut self) {
        let raft = &mut self.node.raft;
        let term = raft.term;
        if self.resigned == Some(term)
            && raft.state == StateRole::Leader
            && raft.lead_transferee.is_none()
        {
            raft.become_follower(term, raft::INVALID_ID);
        }
    }

    /// Gives out what raft-rs has ready, until it has nothing more.
    fn drain(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        self.announce(now, out);
        while !self.failed && self.node.has_ready() {
            let mut ready = self.node.ready();
            for answer in ready.take_read_states() {
                if self.leading.is_some()
                    && let Some(until) = self.lease.on_answer(&answer.request_ctx)
                {
                    out.push(Effect::Lease(until));
                }
            }
            out.extend(ready.take_messages().iter().map(send));
            let mut write = Write::default();
            let snapshot = Some(ready.snapshot().clone()).filter(|s| !s.is_empty());
            let entries = ready.take_entries();
            // Where the commit index alone moved there is nothing that a restart could not learn.
            if ready.must_sync() {
                write.hard_state = Some(self.node.raft.hard_state());
            }
            if let Some(snapshot) = &snapshot {
                self.node.mut_store().restore(snapshot);
            }
            self.node.mut_store().append(&entries);
            match &snapshot {
                Some(snapshot) => {
                    let state = self.node.raft.hard_state();
                    write.snapshot = Some((snapshot.clone(), state, entries));
                }
                None => write.entries = entries,
            }
            let messages = ready.take_persisted_messages();
            let committed = ready.take_committed_entries();
            let number = ready.number();
            self.node.advance_append_async(ready);
            self.settle_timeout();
            self.hold(write, number, messages, snapshot, None, out);
            if !committed.is_empty() {
                for entry in committed {
                    self.apply(now, entry, out);
                }
                if !self.failed {
                    self.node.advance_apply();
                }
            }
            self.announce(now, out);
        }
        self.wish_snapshot(out);
    }

    /// Holds back what depends on a write, or on the last one under way.
    fn hold(
        &mut self,
        mut write: Write,
        ready: u64,
        messages: Vec<Message>,
        restore: Option<Snapshot>,
        compact: Option<Snapshot>,
        out: &mut Vec<Effect>,
    ) {
        let empty =
            write.hard_state.is_none() && write.entries.is_empty() && write.snapshot.is_none();
        if empty {
            match self.outstanding.back_mut() {
                Some(last) => {
                    last.ready = ready;
                    last.messages.extend(messages);
                }
                None => {
                    self.persisted(ready);
                    out.extend(messages.iter().map(send));
                }
            }
            return;
        }
        write.number = self.next_write;
        self.next_write += 1;
        self.outstanding.push_back(Outstanding {
            write: write.number,
            ready,
            messages,
            restore,
            compact,
        });
        out.push(Effect::Write(write));
    }

    /// Tells the application whether it leads, when that changed.
    fn announce(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        self.step_down();
        let raft = &self.node.raft;
        let term = raft.term;
        let leads = raft.state == StateRole::Leader
            && raft.lead_transferee.is_none()
            && raft.apply_to_current_term();
        if leads {
            if self.leading != Some(term) {
                self.leading = Some(term);
                self.following = None;
                self.lease.reset();
                out.push(Effect::Lead { term });
                if self.is_alone() {
                    out.push(Effect::Lease(Timestamp::MAX));
                }
                self.ask_for_lease(now);
            }
            return;
        }
        let leader = Some(raft.leader_id).filter(|id| *id != 0 && *id != self.config.id);
        if self.leading.take().is_some() || self.following != Some((term, leader)) {
            self.following = Some((term, leader));
            self.lease.reset();
            out.push(Effect::Follow { term, leader });
        }
    }

    /// raft-rs draws its timeout anew whenever its role or term changes; ours replaces it. A
    /// member's turn changes with the voters, too.
    fn settle_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let turn = (raft.state == StateRole::Follower)
            .then(|| turn(&self.voters.voters, raft.leader_id, self.config.id))
            .flatten();
        let now = (raft.term, raft.state, turn);
        if self.timeouts.of != now {
            self.timeouts.of = now;
            let election_ticks = raft.election_timeout();
            match turn {
                Some(turn) => self.timeouts.take_turn(election_ticks, turn),
                None => self.timeouts.draw(election_ticks),
            }
        }
        raft.set_randomized_election_timeout(self.timeouts.ticks);
    }

    fn fail(&mut self, error: MemberError, out: &mut Vec<Effect>) {
        self.failed = true;
        self.leading = None;
        out.push(Effect::Failed(error));
    }
}

/// How many voters come between the leader and this one, in the order of their numbers as on a
/// ring; `None` when either does not vote.
fn turn(voters: &[u64], leader: u64, me: u64) -> Option<usize> {
    if !voters.contains(&leader) || !voters.contains(&me) {
        return None;
    }
    // How far a number lies behind the leader's, as on a clock.
    let behind = |id: u64| id.wrapping_sub(leader);
    let others = voters.iter().filter(|id| **id != leader);
    Some(others.filter(|id| behind(**id) < behind(me)).count())
}

fn send(message: &Message) -> Effect {
    Effect::Send(Box::new(wire::message_to_wire(message)))
}

#[cfg(test)]
mod tests {
    use super::turn;

    #[test]
    fn followers_take_turns_in_the_order_of_a_ring_that_begins_with_their_leader() {
        let voters = [3, 9, 14];
        let turns = |leader| voters.map(|me| turn(&voters, leader, me));
        assert_eq!(turns(3), [Some(0), Some(0), Some(1)]);
        assert_eq!(turns(9)[0], Some(1));
        assert_eq!(turns(9)[2], Some(0));
        assert_eq!(turns(14)[..2], [Some(0), Some(1)]);
        assert_eq!(turn(&voters, 3, 4), None, "a learner");
        assert_eq!(turn(&voters, 0, 3), None, "nobody leads");
    }
}
