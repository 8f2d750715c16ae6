//! Inverse offers: frameworks are asked to leave an agent before it goes away.
//!
//! What they answer is a hint for the operator; nothing is killed because of it (Mesos:
//! `maintenance.md`).

use std::collections::BTreeMap;

use allotment_allocator::InverseAllocation;
use allotment_proto::{allot, mesos, scheduler};
use allotment_types::{AgentId, FrameworkId, Timestamp};

use super::Core;
use super::accept::refuse_for;
use super::agent::Agent;
use super::out::{About, event_of};
use super::wishes::unavailability_to_wire;

/// What a framework said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing yet.
    Asked,
    /// It will have left by then.
    Accepted,
    /// It would rather stay.
    Declined,
}

/// What a framework said, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    said: Said,
    since: Timestamp,
}

/// The inverse offers that await an answer; they are numbered together with offers.
#[derive(Debug, Default)]
pub(super) struct InverseOffers(BTreeMap<u64, (FrameworkId, AgentId)>);

impl InverseOffers {
    fn numbers(&self, which: impl Fn(&FrameworkId, &AgentId) -> bool) -> Vec<u64> {
        let found = self.0.iter().filter(|(_, (f, a))| which(f, a));
        found.map(|(number, _)| *number).collect()
    }
}

impl Core {
    /// Asks; one event per framework.
    pub(super) fn send_inverse_offers(&mut self, round: Vec<InverseAllocation>) {
        let since = self.out.now;
        let mut by_framework: BTreeMap<FrameworkId, Vec<mesos::InverseOffer>> = BTreeMap::new();
        for asked in round {
            let Some(agent) = self.agents.get_mut(&asked.agent) else {
                continue;
            };
            let number = self.offers.next_number();
            let wire = mesos::InverseOffer {
                id: mesos::OfferId {
                    value: self.offers.id(number),
                },
                url: agent.wire_url.clone(),
                framework_id: (&asked.framework).into(),
                agent_id: Some((&asked.agent).into()),
                unavailability: unavailability_to_wire(asked.unavailability),
                resources: Vec::new(),
            };
            let said = Said::Asked;
            let answer = Answer { said, since };
            agent.answers.insert(asked.framework.clone(), answer);
            let key = (asked.framework.clone(), asked.agent);
            self.inverse.0.insert(number, key);
            by_framework.entry(asked.framework).or_default().push(wire);
        }
        for (id, inverse_offers) in by_framework {
            if let Some(conn) = self.frameworks.get(&id).and_then(|f| f.conn()) {
                let mut event = event_of(scheduler::event::Type::InverseOffers);
                event.inverse_offers = Some(scheduler::event::InverseOffers { inverse_offers });
                self.out.send_framework(conn, event);
            }
        }
    }

    /// ACCEPT_INVERSE_OFFERS and DECLINE_INVERSE_OFFERS. Those that are gone were rescinded while
    /// the answer was on its way.
    pub(super) fn on_inverse_answer(
        &mut self,
        id: &FrameworkId,
        offers: &[mesos::OfferId],
        filters: Option<&mesos::Filters>,
        said: Said,
    ) {
        let since = self.out.now;
        let again = since + refuse_for(filters);
        for offer in offers {
            let Some(number) = self.offers.number(&offer.value) else {
                continue;
            };
            if self.inverse.0.get(&number).is_none_or(|(f, _)| f != id) {
                continue;
            }
            let Some((_, agent_id)) = self.inverse.0.remove(&number) else {
                continue;
            };
            let Some(agent) = self.agents.get_mut(&agent_id) else {
                continue;
            };
            let answer = Answer { said, since };
            let before = agent.answers.insert(id.clone(), answer);
            self.allocator.answer_inverse(&agent_id, id, Some(again));
            if before.is_none_or(|before| before.said != said) {
                let verb = match said {
                    Said::Accepted => "will leave",
                    Said::Declined => "would rather stay on",
                    Said::Asked => "is asked to leave",
                };
                let name = self.frameworks.get(id).map_or("", |f| &f.info.name);
                let about = About {
                    agent: Some(&agent_id),
                    framework: Some(id),
                    task: None,
                };
                let message = format!("framework {name} {verb} agent {}", agent.hostname);
                self.out.publish("inverse-offer-answered", about, message);
            }
        }
    }

    /// The agent stays, or is gone: nobody needs to answer any more.
    pub(super) fn rescind_inverse_offers_of_agent(&mut self, agent: &AgentId) {
        for number in self.inverse.numbers(|_, a| a == agent) {
            let Some((framework, _)) = self.inverse.0.remove(&number) else {
                continue;
            };
            self.allocator.answer_inverse(agent, &framework, None);
            if let Some(conn) = self.frameworks.get(&framework).and_then(|f| f.conn()) {
                let mut event = event_of(scheduler::event::Type::RescindInverseOffer);
                event.rescind_inverse_offer = Some(scheduler::event::RescindInverseOffer {
                    inverse_offer_id: mesos::OfferId {
                        value: self.offers.id(number),
                    },
                });
                self.out.send_framework(conn, event);
            }
        }
    }

    /// The framework went away and will be asked again when it is back.
    pub(super) fn withdraw_inverse_offers_of_framework(&mut self, id: &FrameworkId) {
        for number in self.inverse.numbers(|framework, _| framework == id) {
            if let Some((_, agent)) = self.inverse.0.remove(&number) {
                self.allocator.answer_inverse(&agent, id, None);
            }
        }
    }

    pub(super) fn answer_views(&self, agent: &Agent) -> Vec<allot::InverseAnswer> {
        let view = |(id, answer): (&FrameworkId, &Answer)| allot::InverseAnswer {
            framework_id: id.to_string(),
            framework_name: self.framework_name(id),
            answer: match answer.said {
                Said::Asked => "asked",
                Said::Accepted => "accepted",
                Said::Declined => "declined",
            }
            .to_owned(),
            since: answer.since.as_secs_f64(),
        };
        agent.answers.iter().map(view).collect()
    }
}
