//! The tree of roles: what is held, counted and promised at each, and the order among siblings.
//!
//! A node's sums cover its whole subtree. Below a node compete its child roles and the *virtual
//! leaf*, which stands for the clients of the role itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use allotment_types::Role;

use super::order::{Children, Key, LEAF, LEAF_RANK, Line, Place, Standing, View, name};
use super::quota::NodeQuota;
use super::ranks::{Rank, between, spread};
use super::slab::{Slab, Slot};
use super::sums::{Kind, Scalars, Sums, Totals};

/// The weight of a role that was given none, in thousandths.
pub(crate) const WEIGHT_DEFAULT: u64 = 1000;

/// The node above all roles.
pub(crate) const ROOT: Slot = 0;

/// The least that a client takes: all amounts of any one list. No list at all: it takes anything.
pub(crate) type Appetite = Arc<Vec<Vec<(Kind, u128)>>>;

/// A role.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// `None`: the root.
    pub(crate) role: Option<Role>,
    /// Of its name among its siblings.
    rank: Rank,
    pub(crate) parent: Slot,
    depth: u32,
    /// Clients, a weight, a quota, and roles below with any of them: the node counts grants.
    refs: u32,
    /// Reservations, and roles below: the node is there.
    keeps: u32,
    weight: Option<u64>,
    pub(super) quota: Option<Box<NodeQuota>>,
    /// Held in the subtree.
    pub(crate) held: Sums,
    /// Held by clients of the role itself.
    own_held: Sums,
    /// What counts against quotas.
    pub(crate) consumed: Sums,
    /// Of guarantees not yet satisfied, at this node or below.
    pub(super) need: Sums,
    /// The sum of the children's needs.
    pub(super) need_below: Sums,
    /// Grants in the subtree.
    count: u64,
    /// Grants to clients of the role itself.
    own_count: u64,
    /// Clients of the role itself that take offers.
    clients: Line,
    /// How many of them.
    own_takers: u32,
    /// How many clients of the subtree take offers.
    takers: u32,
    /// Of takers in the subtree, with their number.
    appetites: BTreeMap<Appetite, u32>,
    children: Children,
    place: Option<Place>,
    leaf: Option<Place>,
    /// Limits cut what a client of the subtree was offered, or kept it from offers.
    pub(super) cut: bool,
}

impl Node {
    pub(crate) fn weight(&self) -> u64 {
        self.weight.unwrap_or(WEIGHT_DEFAULT)
    }

    /// How many clients of the subtree take offers.
    pub(crate) const fn n_takers(&self) -> u32 {
        self.takers
    }

    /// The different appetites of takers in the subtree.
    pub(crate) fn appetites(&self) -> impl Iterator<Item = &Appetite> {
        self.appetites.keys()
    }

    /// Whether some guarantee at it or below is unsatisfied, and whether its limits leave too
    /// little for any offer of plain resources.
    fn flags(&self) -> (bool, bool) {
        let guaranteed = self.is_unsatisfied() || self.children.any_guaranteed();
        let starved = self.is_starved() || !self.children.any_fed();
        (guaranteed, starved)
    }

    /// How well the subtree is served, from the sums as they are.
    fn standing(&self, totals: &Totals) -> Standing {
        Standing {
            share: self.held.dominant(totals, self.weight()),
            count: self.count,
        }
    }

    /// How well the clients of the role itself are served.
    pub(crate) fn leaf_standing(&self, totals: &Totals) -> Standing {
        Standing {
            share: self.own_held.dominant(totals, WEIGHT_DEFAULT),
            count: self.own_count,
        }
    }

    /// What decides the place of the node among its siblings, from the sums as they are.
    pub(crate) fn among_siblings(&self, totals: &Totals) -> (Standing, &str) {
        (self.standing(totals), self.role.as_ref().map_or("", name))
    }
}

/// On which side of the virtual leaf a role stands among its siblings.
fn beside_leaf(role: &Role) -> Rank {
    if name(role) < LEAF { 0 } else { LEAF_RANK }
}

/// What competes below a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Branch {
    /// The clients of the role itself.
    Leaf,
    Role(Slot),
}

/// Whether a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    Stop,
}

/// All roles that somebody refers to.
#[derive(Debug)]
pub(crate) struct Roles {
    pub(super) nodes: Slab<Node>,
    by_role: BTreeMap<Role, Slot>,
    /// Some role was given no rank of its own: there was no room among the others.
    pub(crate) crowded: bool,
    /// How many roles have a guarantee, or a limit.
    pub(super) n_guaranteed: usize,
    pub(super) n_limited: usize,
    /// Roles with more room below their limits than when they were cut.
    pub(super) loosened: Vec<Slot>,
    /// More of a guarantee is unsatisfied than before.
    pub(super) promised_more: bool,
    /// Counts changes that matter to quotas.
    pub(super) changes: u64,
}

impl Default for Roles {
    fn default() -> Self {
        let mut nodes = Slab::default();
        nodes.insert(Node::default());
        Self {
            nodes,
            by_role: BTreeMap::new(),
            crowded: false,
            n_guaranteed: 0,
            n_limited: 0,
            loosened: Vec::new(),
            promised_more: false,
            changes: 0,
        }
    }
}

/// Nodes come and go.
impl Roles {
    pub(crate) fn find(&self, role: &Role) -> Option<Slot> {
        self.by_role.get(role).copied()
    }

    pub(crate) fn node(&self, slot: Slot) -> &Node {
        &self.nodes[slot]
    }

    /// The node of a role and those above it; the caller refers to it or tidies it.
    pub(crate) fn ensure(&mut self, role: &Role) -> Slot {
        if let Some(slot) = self.find(role) {
            return slot;
        }
        let parent = role.parent().map_or(ROOT, |parent| self.ensure(&parent));
        let rank = self.rank(role);
        let slot = self.nodes.insert(Node {
            role: Some(role.clone()),
            rank,
            parent,
            depth: self.nodes[parent].depth + 1,
            ..Node::default()
        });
        self.nodes[parent].keeps += 1;
        self.by_role.insert(role.clone(), slot);
        slot
    }

    /// A rank for a role that is not there. Siblings stand in the order of their paths.
    fn rank(&mut self, role: &Role) -> Rank {
        let path = |slot: &Slot| self.nodes[*slot].rank & !LEAF_RANK;
        let below = self.by_role.range(..role).next_back();
        let above = self.by_role.range(role..).next();
        let (below, above) = (below.map(|(_, at)| path(at)), above.map(|(_, at)| path(at)));
        let rank = between(below, above);
        self.crowded |= rank.is_none();
        rank.unwrap_or_default() | beside_leaf(role)
    }

    /// Gives all roles new ranks, when they were crowded; places are worth nothing until the
    /// next [`Self::rebuild`].
    pub(crate) fn make_room(&mut self) {
        if !std::mem::take(&mut self.crowded) {
            return;
        }
        for ((role, slot), rank) in self.by_role.iter().zip(spread(self.by_role.len())) {
            self.nodes[*slot].rank = rank | beside_leaf(role);
        }
    }

    /// The node and those above it, up to the root.
    pub(crate) fn path(&self, slot: Slot) -> impl Iterator<Item = Slot> + '_ {
        std::iter::successors(Some(slot), |slot| {
            (*slot != ROOT).then(|| self.nodes[*slot].parent)
        })
    }

    /// One more client, weight or quota.
    pub(crate) fn refer(&mut self, slot: Slot) {
        let mut slot = slot;
        loop {
            let node = &mut self.nodes[slot];
            node.refs += 1;
            if node.refs > 1 || slot == ROOT {
                return;
            }
            slot = node.parent;
        }
    }

    /// One client, weight or quota less; the caller places and tidies the node.
    pub(crate) fn release(&mut self, slot: Slot) {
        let mut at = slot;
        loop {
            let node = &mut self.nodes[at];
            node.refs -= 1;
            if node.refs > 0 || at == ROOT {
                return;
            }
            node.count = 0;
            node.own_count = 0;
            at = node.parent;
        }
    }

    /// Something on an agent is reserved for the role, or no longer is.
    pub(crate) fn reserve(&mut self, role: &Role, amounts: &Scalars, more: bool) {
        let slot = self.ensure(role);
        if more {
            self.nodes[slot].keeps += 1;
        } else {
            self.nodes[slot].keeps -= 1;
        }
        self.consume(slot, amounts, more);
        self.tidy(slot);
    }

    /// Forgets a node that nobody refers to, and those above it.
    pub(crate) fn tidy(&mut self, slot: Slot) {
        let mut slot = slot;
        while slot != ROOT && self.nodes[slot].refs == 0 && self.nodes[slot].keeps == 0 {
            let Some(node) = self.nodes.remove(slot) else {
                return;
            };
            if let Some(role) = &node.role {
                self.by_role.remove(role);
            }
            slot = node.parent;
            self.nodes[slot].keeps -= 1;
        }
    }

    /// The default ends a weight. The caller places and tidies the node.
    pub(crate) fn set_weight(&mut self, role: &Role, weight: u64) -> Slot {
        let slot = self.ensure(role);
        let weight = (weight != WEIGHT_DEFAULT).then_some(weight.max(1));
        let old = std::mem::replace(&mut self.nodes[slot].weight, weight);
        match (old.is_some(), weight.is_some()) {
            (false, true) => self.refer(slot),
            (true, false) => self.release(slot),
            _ => {}
        }
        slot
    }
}

/// What is held, and the order that follows from it.
impl Roles {
    /// A client of the role holds more, or less.
    pub(crate) fn hold(&mut self, slot: Slot, scalars: &Scalars, more: bool) {
        let change = if more { Sums::add } else { Sums::subtract };
        change(&mut self.nodes[slot].own_held, scalars);
        let mut at = slot;
        while at != ROOT {
            let node = &mut self.nodes[at];
            change(&mut node.held, scalars);
            at = node.parent;
        }
    }

    /// A client of the role was granted something.
    pub(crate) fn count(&mut self, slot: Slot) {
        self.nodes[slot].own_count += 1;
        let mut at = slot;
        while at != ROOT {
            let node = &mut self.nodes[at];
            node.count += 1;
            at = node.parent;
        }
    }

    /// A client takes offers, no longer does, or has another place among the role's clients.
    pub(crate) fn replace_client(
        &mut self,
        slot: Slot,
        old: Option<&Key>,
        new: Option<&Key>,
        sorted: bool,
    ) {
        let (was, is) = (old.is_some(), new.is_some());
        if sorted {
            let clients = &mut self.nodes[slot].clients;
            if let Some(old) = old {
                clients.remove(old);
            }
            if let Some(new) = new {
                clients.insert(*new);
            }
        }
        if was != is {
            let count = |n: &mut u32| if is { *n += 1 } else { *n -= 1 };
            count(&mut self.nodes[slot].own_takers);
            let mut at = slot;
            loop {
                let node = &mut self.nodes[at];
                count(&mut node.takers);
                if at == ROOT {
                    return;
                }
                at = node.parent;
            }
        }
    }

    /// A taker in the role wants this, or no longer.
    pub(crate) fn change_appetite(&mut self, slot: Slot, appetite: &Appetite, more: bool) {
        let mut at = slot;
        loop {
            let node = &mut self.nodes[at];
            if more {
                *node.appetites.entry(Arc::clone(appetite)).or_default() += 1;
            } else if let Some(n) = node.appetites.get_mut(appetite) {
                *n -= 1;
                if *n == 0 {
                    node.appetites.remove(appetite);
                }
            }
            if at == ROOT {
                return;
            }
            at = node.parent;
        }
    }

    /// Puts the role and those above it where they belong.
    pub(crate) fn place_up(&mut self, slot: Slot, totals: &Totals) {
        if slot == ROOT {
            return;
        }
        self.place_leaf(slot, totals);
        let mut at = slot;
        while at != ROOT {
            self.place_node(at, totals);
            at = self.nodes[at].parent;
        }
    }

    fn place_leaf(&mut self, slot: Slot, totals: &Totals) {
        let node = &self.nodes[slot];
        let (was, is) = (node.leaf.is_some(), node.own_takers > 0);
        if was == is && (!is || node.children.lone().is_some()) {
            return;
        }
        if is && !was {
            self.refresh_lone(slot, totals);
        }
        self.replace_leaf(slot, totals);
    }

    fn replace_leaf(&mut self, slot: Slot, totals: &Totals) {
        let leaf = self.leaf_place(slot, totals);
        let node = &mut self.nodes[slot];
        node.children.replace(node.leaf.as_ref(), leaf.as_ref());
        node.leaf = leaf;
    }

    fn place_node(&mut self, slot: Slot, totals: &Totals) {
        let node = &self.nodes[slot];
        let parent = node.parent;
        let is = node.takers > 0;
        match &node.place {
            None if !is => return,
            None => self.refresh_lone(parent, totals),
            Some(place) => {
                let alone = self.nodes[parent].children.lone().is_some();
                if is && alone && (place.guaranteed, place.starved) == node.flags() {
                    return;
                }
            }
        }
        self.replace_node(slot, totals);
    }

    fn replace_node(&mut self, slot: Slot, totals: &Totals) {
        let new = self.node_place(slot, totals);
        let old = std::mem::replace(&mut self.nodes[slot].place, new);
        let parent = self.nodes[slot].parent;
        let siblings = &mut self.nodes[parent].children;
        siblings.replace(old.as_ref(), new.as_ref());
    }

    /// Before it gets a sibling an only child is put where it belongs: until then that did not
    /// matter, and was not kept up to date.
    fn refresh_lone(&mut self, parent: Slot, totals: &Totals) {
        let lone = self.nodes[parent].children.lone();
        match lone.map(|key| (key.is_leaf(), key.slot)) {
            Some((true, _)) => self.replace_leaf(parent, totals),
            Some((false, slot)) => self.replace_node(slot, totals),
            None => {}
        }
    }

    /// The only client of the role itself that takes offers.
    pub(crate) fn lone_client(&self, slot: Slot) -> Option<Slot> {
        self.nodes[slot].clients.lone().map(|key| key.slot)
    }

    fn leaf_place(&self, slot: Slot, totals: &Totals) -> Option<Place> {
        let node = &self.nodes[slot];
        (node.own_takers > 0).then(|| Place {
            key: Key {
                standing: node.leaf_standing(totals),
                rank: LEAF_RANK,
                slot,
            },
            // Where the role's own guarantee is unsatisfied, everything below it is walked.
            guaranteed: false,
            starved: false,
        })
    }

    fn node_place(&self, slot: Slot, totals: &Totals) -> Option<Place> {
        let node = &self.nodes[slot];
        if node.takers == 0 {
            return None;
        }
        let (guaranteed, starved) = node.flags();
        Some(Place {
            key: Key {
                standing: node.standing(totals),
                rank: node.rank,
                slot,
            },
            guaranteed,
            starved,
        })
    }

    /// Whether plain resources are out of reach for every taker in the subtree.
    pub(super) fn was_starved(&self, slot: Slot) -> bool {
        let place = self.nodes[slot].place.as_ref();
        place.is_some_and(|place| place.starved)
    }

    /// Orders everything anew; `clients` are the places of all takers, by role.
    pub(crate) fn rebuild(&mut self, mut clients: BTreeMap<Slot, Vec<Key>>, totals: &Totals) {
        let mut by_depth: Vec<(u32, Slot)> = self
            .nodes
            .iter()
            .map(|(slot, node)| (node.depth, slot))
            .collect();
        by_depth.sort_unstable();
        let mut places: BTreeMap<Slot, Vec<Place>> = BTreeMap::new();
        for (_, slot) in by_depth.into_iter().rev() {
            let mut below = places.remove(&slot).unwrap_or_default();
            let leaf = if slot == ROOT {
                None
            } else {
                self.leaf_place(slot, totals)
            };
            below.extend(leaf);
            let node = &mut self.nodes[slot];
            node.clients.fill(clients.remove(&slot).unwrap_or_default());
            node.leaf = leaf;
            node.children.fill(&below);
            if slot == ROOT {
                continue;
            }
            let place = self.node_place(slot, totals);
            let node = &mut self.nodes[slot];
            node.place = place;
            if let Some(place) = place {
                places.entry(node.parent).or_default().push(place);
            }
        }
    }

    /// Visits the clients that take offers, in order.
    pub(crate) fn walk(&self, view: View, visit: &mut impl FnMut(Slot, Slot) -> Flow) {
        self.walk_below(ROOT, view, visit);
    }

    fn walk_below(
        &self,
        slot: Slot,
        view: View,
        visit: &mut impl FnMut(Slot, Slot) -> Flow,
    ) -> bool {
        let node = &self.nodes[slot];
        let view = if view == View::Guaranteed && node.is_unsatisfied() {
            View::All
        } else {
            view
        };
        for key in node.children.view(view) {
            if !key.is_leaf() {
                if self.walk_below(key.slot, view, visit) {
                    return true;
                }
                continue;
            }
            for client in node.clients.iter() {
                if visit(client.slot, slot) == Flow::Stop {
                    return true;
                }
            }
        }
        false
    }

    /// What competes below a role, with weights, and what is looked at further down.
    pub(crate) fn branches(&self, slot: Slot, view: View) -> (View, Vec<(Branch, u64)>) {
        let node = &self.nodes[slot];
        let view = if view == View::Guaranteed && node.is_unsatisfied() {
            View::All
        } else {
            view
        };
        let branches = node.children.view(view).map(|key| {
            if key.is_leaf() {
                (Branch::Leaf, WEIGHT_DEFAULT)
            } else {
                (Branch::Role(key.slot), self.nodes[key.slot].weight())
            }
        });
        (view, branches.collect())
    }

    /// The clients of the role itself that take offers, in order.
    pub(crate) fn clients_in(&self, slot: Slot) -> impl Iterator<Item = Slot> + '_ {
        self.nodes[slot].clients.iter().map(|key| key.slot)
    }

    /// The takers of a subtree, in order.
    pub(crate) fn takers_below(&self, slot: Slot) -> Vec<Slot> {
        let mut takers = Vec::new();
        self.walk_below(slot, View::All, &mut |client, _| {
            takers.push(client);
            Flow::Next
        });
        takers
    }
}
