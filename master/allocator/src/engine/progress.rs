//! What a round has come to: everything that outlives a call which ends before the round does.
//!
//! One call does a bounded number of looks (`Settings::round_looks`); the next one goes on where
//! it stopped. Facts may come in between: they change what the round finds, and whatever they
//! bring is for the round behind it.

use fixedbitset::FixedBitSet;

use super::books::Books;
use super::news::slot;
use super::slab::Slot;
use crate::{Part, UnderWay};

/// How much a call may do, in looks: one is one client considered on one agent.
#[derive(Debug)]
pub(crate) struct Budget {
    most: u64,
    spent: u64,
}

impl Budget {
    pub(crate) const fn new(most: u64) -> Self {
        Self { most, spent: 0 }
    }

    pub(crate) const fn spend(&mut self, looks: u64) {
        self.spent = self.spent.saturating_add(looks);
    }

    /// Whether nothing more is begun in this call.
    pub(crate) const fn is_spent(&self) -> bool {
        self.spent >= self.most
    }

    /// Half of it: filters that end must not keep a round from going on.
    pub(crate) const fn half(&self) -> u64 {
        self.most.div_ceil(2)
    }

    pub(crate) const fn spent(&self) -> u64 {
        self.spent
    }
}

/// Whom to look at on an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Everybody,
    /// Nobody, unless the hole that is kept there ends in this round.
    Nobody,
    /// Clients with news on all agents, and those with news on this one: a range of `pairs`.
    Newcomers {
        begin: usize,
        end: usize,
    },
}

/// An agent that a round looks at.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) agent: Slot,
    pub(crate) who: Who,
}

/// A round between its begin and its end.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) stage: Part,
    /// Calls that took part in it.
    pub(crate) calls: u64,
    /// Where in `looks`, or in `line`, the stage is.
    pub(crate) at: usize,
    /// Agents as they take turns in this round: those with news, and those with a hole, which may
    /// end.
    pub(crate) looks: Vec<Look>,
    pub(crate) newcomers: Vec<Slot>,
    pub(crate) pairs: Vec<(Slot, Slot)>,
    /// The clients of a stage that takes one after the other.
    pub(crate) line: Vec<Slot>,
    /// Clients that were granted something.
    pub(crate) granted: FixedBitSet,
    /// Between calls: agents whose hole ended in this round, and which are to be looked at again.
    pub(crate) ended: Vec<Slot>,
    pub(crate) news: FixedBitSet,
}

impl Progress {
    /// Takes the news.
    pub(crate) fn new(books: &mut Books) -> Self {
        let newcomers = books.news.take_clients();
        let mut pairs = std::mem::take(&mut books.news.pairs);
        pairs.sort_unstable();
        pairs.dedup();
        books.holes.ended.clear();
        let everything = std::mem::take(&mut books.news.everything);
        let full = books.news.take_agents();
        let mut agents = full.clone();
        if everything || !newcomers.is_empty() {
            agents.union_with(&books.news.open);
        }
        agents.extend(pairs.iter().map(|(agent, _)| *agent as usize));
        agents.intersect_with(&books.news.open);
        let everybody = everything || newcomers.len() * 4 > books.takers.count_ones(..);
        let mut order: Vec<Slot> = agents.ones().map(slot).collect();
        let with_hole = books.holes.agents();
        order.extend(with_hole.filter(|agent| !agents.contains(*agent as usize)));
        books.in_turn(&mut order);
        let looks: Vec<Look> = order
            .into_iter()
            .map(|agent| {
                let who = if !agents.contains(agent as usize) {
                    Who::Nobody
                } else if everybody || full.contains(agent as usize) {
                    Who::Everybody
                } else {
                    let begin = pairs.partition_point(|(a, _)| *a < agent);
                    let end = pairs.partition_point(|(a, _)| *a <= agent);
                    Who::Newcomers { begin, end }
                };
                Look { agent, who }
            })
            .collect();
        let mut line = Vec::new();
        let stage = if agents.is_clear() {
            line = books.waiting_for_holes(&FixedBitSet::new());
            Part::Holes
        } else {
            Part::Guarantees
        };
        Self {
            stage,
            calls: 0,
            at: 0,
            looks,
            newcomers,
            pairs,
            line,
            granted: FixedBitSet::new(),
            ended: Vec::new(),
            news: FixedBitSet::new(),
        }
    }
}

impl Books {
    /// How far the round has come that the last call left unfinished.
    pub(crate) fn report_under_way(&self) -> Option<UnderWay> {
        let progress = self.under_way.as_ref()?;
        let of = match progress.stage {
            Part::Guarantees | Part::FairShare => progress.looks.len(),
            Part::Demands | Part::Holes => progress.line.len(),
        };
        Some(UnderWay {
            calls: progress.calls,
            looks_per_call: self.settings.round_looks,
            part: progress.stage,
            done: progress.at,
            of,
        })
    }
}
