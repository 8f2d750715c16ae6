//! The books: every change of who holds what on an agent passes here.

use allotment_types::Resources;

use super::{AgentNumber, Client, Drf, allocatable, membership_mut};

impl Drf {
    /// What an agent says is in use. What it does not have cannot be held: an agent that shrank
    /// below its use has nothing free and accounts for what it still has.
    pub(super) fn charge(&mut self, number: AgentNumber, client: Client, used: &Resources) {
        let Some(agent) = self.agents.get_mut(&number) else {
            return;
        };
        let rest = agent.free.minus(used);
        let held = agent.free.minus(&rest);
        agent.free = rest;
        self.hold(number, client, held);
    }

    /// Books `resources`, already taken from the agent's free ones, to `client`.
    pub(super) fn hold(&mut self, number: AgentNumber, client: Client, resources: Resources) {
        if resources.is_empty() {
            return;
        }
        let Some(agent) = self.agents.get_mut(&number) else {
            return;
        };
        let role = self.roles.get_mut(client.role);
        role.allocated.add(&mut self.kinds, &resources);
        let membership = membership_mut(&mut self.frameworks, client);
        membership.allocated.add(&mut self.kinds, &resources);
        match agent.held.iter_mut().find(|(c, _)| *c == client) {
            Some((_, held)) => held.add(&resources),
            None => {
                membership.holds += 1;
                agent.held.push((client, resources));
            }
        }
        self.place(client);
    }

    /// Makes what `client` holds of `returned` free again. More than it holds cannot come back:
    /// whatever the caller believes, no resource is ever counted twice.
    pub(super) fn release(&mut self, number: AgentNumber, client: Client, returned: &Resources) {
        let Some(agent) = self.agents.get_mut(&number) else {
            return;
        };
        let Some(index) = agent.held.iter().position(|(c, _)| *c == client) else {
            return;
        };
        let held = &mut agent.held[index].1;
        let rest = held.minus(returned);
        let freed = held.minus(&rest);
        *held = rest;
        let role = self.roles.get_mut(client.role);
        role.allocated.subtract(&mut self.kinds, &freed);
        let membership = membership_mut(&mut self.frameworks, client);
        membership.allocated.subtract(&mut self.kinds, &freed);
        if agent.held[index].1.is_empty() {
            agent.held.swap_remove(index);
            membership.holds -= 1;
        }
        if agent.free.is_empty() {
            agent.free = freed;
        } else {
            agent.free.add(&freed);
        }
        self.place(client);
    }

    /// Notes whether an agent can be offered, after what is free there grew or its state changed.
    pub(super) fn settle(&mut self, number: AgentNumber) {
        let open = self
            .agents
            .get(&number)
            .is_some_and(|agent| agent.active && allocatable(&agent.free));
        if open {
            self.open.insert(number);
            self.news.insert(number);
        } else {
            self.open.remove(&number);
            self.news.remove(&number);
        }
    }
}
