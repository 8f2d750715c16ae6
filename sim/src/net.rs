//! Streams between the master and its peers: ordered, delayed, and cut in the middle when a fault
//! says so.

use std::collections::BTreeMap;
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

/// What a stream carries to the master.
#[derive(Debug)]
pub(crate) enum Up {
    Opened,
    Call(Box<scheduler::Call>),
    Message(Box<allot::AgentMessage>),
    Closed,
}

/// What a stream carries from the master.
#[derive(Debug)]
pub(crate) enum Down {
    Event(Box<scheduler::Event>),
    Message(Box<allot::MasterMessage>),
    Closed { reason: String, clean: bool },
}

#[derive(Debug)]
struct Stream {
    peer: Peer,
    /// Whether this end still listens.
    master_open: bool,
    peer_open: bool,
    /// Nothing in flight arrives any more.
    cut: bool,
    /// The latest arrival so far, in either direction: nothing overtakes.
    up_at: Timestamp,
    down_at: Timestamp,
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
}

impl Net {
    pub(crate) fn new(rng: Rng, delay: (Duration, Duration)) -> Self {
        Self {
            rng,
            delay,
            slowness: 1,
            streams: BTreeMap::new(),
            next: 1,
        }
    }

    /// How long one message takes.
    pub(crate) fn delay(&mut self) -> Duration {
        rng::between(&mut self.rng, self.delay.0, self.delay.1) * self.slowness
    }

    /// A new stream of `peer`; numbers are never used twice.
    pub(crate) fn open(&mut self, now: Timestamp, peer: Peer) -> u64 {
        let number = self.next;
        self.next += 1;
        let stream = Stream {
            peer,
            master_open: true,
            peer_open: true,
            cut: false,
            up_at: now,
            down_at: now,
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

    /// Streams that are whole, in the order of their opening.
    pub(crate) fn whole(&self) -> Vec<u64> {
        self.streams
            .iter()
            .filter(|(_, s)| !s.cut && s.master_open && s.peer_open)
            .map(|(number, _)| *number)
            .collect()
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
