//! Streams between masters and their peers: ordered, delayed, held up and cut when a fault says
//! so.
//!
//! A stream is as TCP gives it: what arrives is a prefix of what was sent, in order, once. A
//! partition holds what is under way until it heals, as retransmission does; what is under way
//! when a stream is cut is lost.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use allotment_proto::{allot, scheduler};
use allotment_types::Timestamp;
use fastrand::Rng;

use crate::rng;

/// Who is at the other end of a stream to the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// By its place in the scenario.
    Agent(usize),
    /// By its place in the scenario.
    Framework(usize),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(i) => write!(f, "machine {i}"),
            Self::Framework(i) => write!(f, "framework {i}"),
        }
    }
}

/// One way through a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    ToMaster,
    FromMaster,
}

/// What a stream carries to the master.
#[derive(Debug, Clone)]
pub(crate) enum Up {
    Opened,
    Call(Box<scheduler::Call>),
    Message(Box<allot::AgentMessage>),
    Closed,
}

/// What a stream carries from the master.
#[derive(Debug, Clone)]
pub(crate) enum Down {
    Event(Box<scheduler::Event>),
    Message(Box<allot::MasterMessage>),
    Closed { reason: String, clean: bool },
}

/// What a wall stands in front of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wall {
    /// A peer is cut off from all masters.
    Peer(Peer),
    /// A master, by its place, is cut off from all peers.
    Master(usize),
    /// One is cut off from the other.
    Between(Peer, usize),
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(peer) => write!(f, "between {peer} and the masters"),
            Self::Master(master) => write!(f, "between master {master} and its peers"),
            Self::Between(peer, master) => write!(f, "between {peer} and master {master}"),
        }
    }
}

#[derive(Debug)]
struct Stream {
    peer: Peer,
    /// The master at the other end, by its place; `None` while its peer looks for the one that
    /// leads.
    master: Option<usize>,
    /// Whether this end still listens.
    master_open: bool,
    peer_open: bool,
    /// Nothing in flight arrives any more.
    cut: bool,
    /// The latest arrival so far, in either direction: nothing overtakes.
    up_at: Timestamp,
    down_at: Timestamp,
    /// Nothing gets to the master over this stream, whatever its peer's other streams do.
    stalled: bool,
    /// The master's end has had a message of the peer's.
    spoken: bool,
    /// What has come to the place where it is held up.
    held_up: VecDeque<Up>,
    held_down: VecDeque<Down>,
}

/// Every stream of the cluster.
#[derive(Debug)]
pub(crate) struct Net {
    rng: Rng,
    delay: (Duration, Duration),
    /// Multiplies delays while the network is slow.
    pub(crate) slowness: u32,
    streams: BTreeMap<u64, Stream>,
    next: u64,
    /// Walls, the way that they block, and by how many faults.
    blocked: BTreeMap<(Wall, Way), u32>,
}

impl Net {
    pub(crate) fn new(rng: Rng, delay: (Duration, Duration)) -> Self {
        Self {
            rng,
            delay,
            slowness: 1,
            streams: BTreeMap::new(),
            next: 1,
            blocked: BTreeMap::new(),
        }
    }

    /// How long one message takes.
    pub(crate) fn delay(&mut self) -> Duration {
        rng::between(&mut self.rng, self.delay.0, self.delay.1) * self.slowness
    }

    /// A new stream of `peer`, to no master yet; numbers are never used twice.
    pub(crate) fn open(&mut self, now: Timestamp, peer: Peer) -> u64 {
        let number = self.next;
        self.next += 1;
        let stream = Stream {
            peer,
            master: None,
            master_open: true,
            peer_open: true,
            cut: false,
            up_at: now,
            down_at: now,
            stalled: false,
            spoken: false,
            held_up: VecDeque::new(),
            held_down: VecDeque::new(),
        };
        self.streams.insert(number, stream);
        number
    }

    /// When something sent to the master now arrives; `None` when nobody would hear it.
    pub(crate) fn send_up(&mut self, now: Timestamp, number: u64) -> Option<Timestamp> {
        let delay = self.delay();
        let stream = self.streams.get_mut(&number)?;
        if stream.cut || !stream.peer_open || !stream.master_open {
            return None;
        }
        stream.up_at = stream.up_at.max(now + delay);
        Some(stream.up_at)
    }

    /// When something sent by the master now arrives; `None` when nobody would hear it.
    pub(crate) fn send_down(&mut self, now: Timestamp, number: u64) -> Option<Timestamp> {
        let delay = self.delay();
        let stream = self.streams.get_mut(&number)?;
        if stream.cut || !stream.peer_open || !stream.master_open {
            return None;
        }
        stream.down_at = stream.down_at.max(now + delay);
        Some(stream.down_at)
    }

    /// The peer closes its end; returns when the master hears of it.
    pub(crate) fn close_by_peer(&mut self, now: Timestamp, number: u64) -> Option<Timestamp> {
        let at = self.send_up(now, number);
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.peer_open = false;
        }
        at
    }

    /// The master closes its end; returns when the peer hears of it.
    pub(crate) fn close_by_master(&mut self, now: Timestamp, number: u64) -> Option<Timestamp> {
        let at = self.send_down(now, number);
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.master_open = false;
        }
        at
    }

    /// Breaks a stream: what is in flight is lost, and each end notices at its own time. Returns
    /// those times, master first; `None` when it is broken already.
    pub(crate) fn cut(
        &mut self,
        now: Timestamp,
        number: u64,
        noticed_within: Duration,
    ) -> Option<(Timestamp, Timestamp)> {
        let stream = self.streams.get_mut(&number)?;
        if stream.cut || !stream.peer_open || !stream.master_open {
            return None;
        }
        stream.cut = true;
        let rng = &mut self.rng;
        let mut notice = || now + rng::between(rng, Duration::ZERO, noticed_within);
        Some((notice(), notice()))
    }

    /// The stream leads to this master.
    pub(crate) fn connect(&mut self, number: u64, master: usize) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.master = Some(master);
        }
    }

    /// Whose stream it is that leads nowhere yet.
    pub(crate) fn seeker(&self, number: u64) -> Option<Peer> {
        let stream = self.streams.get(&number)?;
        (stream.master.is_none() && stream.peer_open).then_some(stream.peer)
    }

    /// Blocks one way through a wall, for streams to come too.
    pub(crate) fn block(&mut self, wall: Wall, way: Way) {
        *self.blocked.entry((wall, way)).or_default() += 1;
    }

    /// Takes one block back; returns the streams of which something may be held now.
    pub(crate) fn unblock(&mut self, wall: Wall, way: Way) -> Vec<u64> {
        if let Some(blocks) = self.blocked.get_mut(&(wall, way)) {
            *blocks -= 1;
            if *blocks == 0 {
                self.blocked.remove(&(wall, way));
            }
        }
        let behind = |s: &Stream| match wall {
            Wall::Peer(peer) => s.peer == peer,
            Wall::Master(master) => s.master == Some(master),
            Wall::Between(peer, master) => s.peer == peer && s.master == Some(master),
        };
        let held = self.streams.iter().filter(|(_, s)| behind(s));
        held.map(|(number, _)| *number).collect()
    }

    /// A stream needs both ways to be opened.
    pub(crate) fn is_reachable(&self, peer: Peer, master: usize) -> bool {
        let ways = [Way::ToMaster, Way::FromMaster];
        !ways.iter().any(|way| self.is_blocked(peer, master, *way))
    }

    fn is_blocked(&self, peer: Peer, master: usize, way: Way) -> bool {
        if self.blocked.is_empty() {
            return false;
        }
        let walls = [
            Wall::Peer(peer),
            Wall::Master(master),
            Wall::Between(peer, master),
        ];
        walls
            .iter()
            .any(|wall| self.blocked.contains_key(&(*wall, way)))
    }

    /// Whether what comes over this stream goes no further on this way.
    fn holds(&self, stream: &Stream, way: Way) -> bool {
        match stream.master {
            Some(master) => {
                (way == Way::ToMaster && stream.stalled)
                    || self.is_blocked(stream.peer, master, way)
            }
            // Nothing is said yet by anybody but the peer.
            None => way == Way::ToMaster,
        }
    }

    /// Holds up what goes to the master over this one stream, or lets it go.
    pub(crate) fn stall(&mut self, number: u64, stalled: bool) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.stalled = stalled;
        }
    }

    /// Holds what came up when it cannot pass; gives it back when it can.
    pub(crate) fn pass_up(&mut self, number: u64, up: Up) -> Option<Up> {
        let held = self
            .streams
            .get(&number)
            .is_some_and(|stream| self.holds(stream, Way::ToMaster));
        match self.streams.get_mut(&number) {
            Some(stream) if held => {
                stream.held_up.push_back(up);
                None
            }
            Some(stream) => {
                stream.spoken |= matches!(up, Up::Call(_) | Up::Message(_));
                Some(up)
            }
            None => Some(up),
        }
    }

    /// Whether the first message has got to the master over this stream.
    pub(crate) fn has_spoken(&self, number: u64) -> bool {
        self.streams.get(&number).is_some_and(|s| s.spoken)
    }

    /// Holds what came down when it cannot pass; gives it back when it can.
    pub(crate) fn pass_down(&mut self, number: u64, down: Down) -> Option<Down> {
        let held = self
            .streams
            .get(&number)
            .is_some_and(|stream| self.holds(stream, Way::FromMaster));
        match self.streams.get_mut(&number) {
            Some(stream) if held => {
                stream.held_down.push_back(down);
                None
            }
            _ => Some(down),
        }
    }

    /// How much a peer has not read.
    pub(crate) fn n_held_down(&self, number: u64) -> usize {
        self.streams.get(&number).map_or(0, |s| s.held_down.len())
    }

    /// What was held on its way to the master, when it is held no longer.
    pub(crate) fn released_up(&mut self, number: u64) -> VecDeque<Up> {
        match self.streams.get(&number) {
            Some(stream) if !self.holds(stream, Way::ToMaster) => {}
            Some(_) | None => return VecDeque::new(),
        }
        let stream = self.streams.get_mut(&number);
        stream.map_or_else(VecDeque::new, |s| std::mem::take(&mut s.held_up))
    }

    /// What was held on its way to the peer, when it is held no longer.
    pub(crate) fn released_down(&mut self, number: u64) -> VecDeque<Down> {
        match self.streams.get(&number) {
            Some(stream) if !self.holds(stream, Way::FromMaster) => {}
            Some(_) | None => return VecDeque::new(),
        }
        let stream = self.streams.get_mut(&number);
        stream.map_or_else(VecDeque::new, |s| std::mem::take(&mut s.held_down))
    }

    /// Whether something that arrives at the master is heard.
    pub(crate) fn heard_by_master(&self, number: u64, closing: bool) -> bool {
        self.streams
            .get(&number)
            .is_some_and(|s| s.master_open && (closing || !s.cut))
    }

    /// Who hears what arrives at the peer's end, if anybody.
    pub(crate) fn heard_by_peer(&self, number: u64, closing: bool) -> Option<Peer> {
        self.streams
            .get(&number)
            .filter(|s| s.peer_open && (closing || !s.cut))
            .map(|s| s.peer)
    }

    /// Whose stream it is.
    pub(crate) fn peer(&self, number: u64) -> Option<Peer> {
        self.streams.get(&number).map(|s| s.peer)
    }

    /// The master at its other end, by its place.
    pub(crate) fn master(&self, number: u64) -> Option<usize> {
        self.streams.get(&number).and_then(|s| s.master)
    }

    /// The master knows that the stream is over.
    pub(crate) fn closed_at_master(&mut self, number: u64) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.master_open = false;
            self.forget(number);
        }
    }

    /// The peer knows that the stream is over.
    pub(crate) fn closed_at_peer(&mut self, number: u64) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.peer_open = false;
            self.forget(number);
        }
    }

    /// Streams to this master that are whole, in the order of their opening.
    pub(crate) fn whole(&self, master: usize) -> Vec<u64> {
        self.streams
            .iter()
            .filter(|(_, s)| s.master == Some(master) && s.is_whole())
            .map(|(number, _)| *number)
            .collect()
    }

    /// The newest stream of another peer of the same kind to the same master, for planted faults.
    pub(crate) fn stranger(&self, number: u64) -> Option<u64> {
        let of = self.streams.get(&number)?;
        let alike = |other: Peer| match (of.peer, other) {
            (Peer::Agent(i), Peer::Agent(j)) | (Peer::Framework(i), Peer::Framework(j)) => i != j,
            _ => false,
        };
        let mut streams = self.streams.iter().rev();
        let found = streams.find(|(_, s)| alike(s.peer) && s.master == of.master && s.is_whole());
        found.map(|(number, _)| *number)
    }

    fn forget(&mut self, number: u64) {
        if self
            .streams
            .get(&number)
            .is_some_and(|s| !s.master_open && !s.peer_open)
        {
            self.streams.remove(&number);
        }
    }
}

impl Stream {
    fn is_whole(&self) -> bool {
        !self.cut && self.master_open && self.peer_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_one_stream_never_overtake_each_other() {
        let delays = (Duration::ZERO, Duration::from_secs(1));
        let mut net = Net::new(rng::stream(3, "net"), delays);
        let stream = net.open(Timestamp::ZERO, Peer::Agent(0));
        let mut last = Timestamp::ZERO;
        for i in 0..100 {
            let now = Timestamp::from_millis(i);
            let at = net.send_up(now, stream).unwrap();
            assert!(at >= last && at >= now);
            last = at;
        }
    }

    #[test]
    fn what_is_held_by_a_partition_goes_on_in_order_when_it_heals() {
        let mut net = Net::new(rng::stream(3, "net"), (Duration::ZERO, Duration::ZERO));
        let peer = Peer::Agent(0);
        let wall = Wall::Peer(peer);
        let stream = net.open(Timestamp::ZERO, peer);
        net.connect(stream, 1);
        net.block(wall, Way::ToMaster);
        net.block(wall, Way::ToMaster);
        assert!(!net.is_reachable(peer, 1));
        assert!(net.pass_up(stream, Up::Opened).is_none());
        assert!(net.pass_up(stream, Up::Closed).is_none());
        let down = Down::Closed {
            reason: String::new(),
            clean: true,
        };
        assert!(net.pass_down(stream, down).is_some(), "one way only");
        assert_eq!(net.unblock(wall, Way::ToMaster), [stream]);
        assert!(net.released_up(stream).is_empty(), "another fault holds it");
        net.unblock(wall, Way::ToMaster);
        let released = net.released_up(stream);
        assert!(matches!(released.front(), Some(Up::Opened)));
        assert!(matches!(released.back(), Some(Up::Closed)));
    }

    #[test]
    fn what_is_in_flight_when_a_stream_is_cut_is_lost() {
        let mut net = Net::new(rng::stream(3, "net"), (Duration::ZERO, Duration::ZERO));
        let stream = net.open(Timestamp::ZERO, Peer::Framework(0));
        assert!(net.send_up(Timestamp::ZERO, stream).is_some());
        let noticed = net.cut(Timestamp::ZERO, stream, Duration::from_secs(1));
        assert!(noticed.is_some());
        assert!(!net.heard_by_master(stream, false) && net.heard_by_master(stream, true));
        assert_eq!(net.send_down(Timestamp::ZERO, stream), None);
    }
}
