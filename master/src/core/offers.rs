//! Offers: from an allocation round until they are used, declined, rescinded or expired.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use allotment_allocator::{Allocation, Grant, Recovery};
use allotment_proto::{mesos, scheduler};
use allotment_types::{AgentId, FrameworkId, Timestamp};
use prost::Message;

use super::agent::Agent;
use super::framework::Framework;
use super::offer_news::Fate;
use super::out::event_of;
use super::timers::Timer;
use super::wishes::unavailability_to_wire;
use super::{Core, CoreConfig};

/// One OFFERS event carries about this many bytes of offers at most; clients refuse records
/// above 4 MiB.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// Resources that a framework may use until `expires_at`.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) grant: Grant,
    pub(super) agent: AgentId,
    pub(super) expires_at: Timestamp,
}

/// The outstanding offers, and when the next round is due.
#[derive(Debug)]
pub(super) struct Offers {
    /// Offers are numbered; on the wire `<masterId>-O<number>`.
    prefix: String,
    next: u64,
    /// The first number that the step under way may give.
    first_fresh: u64,
    /// Every offer stands equally long, so the first one expires first.
    outstanding: BTreeMap<u64, Offer>,
    timeout: Duration,
    coalesce: Duration,
    interval: Duration,
    /// There is news that a round should look at.
    wanted: bool,
    /// The last round is not over: it goes on as soon as the inputs that wait were taken.
    unfinished: bool,
    last_round: Option<Timestamp>,
}

impl Offers {
    pub(super) fn new(config: &CoreConfig) -> Self {
        Self {
            prefix: format!("{}-O", config.info.id),
            next: 0,
            first_fresh: 0,
            outstanding: BTreeMap::new(),
            timeout: config.offer_timeout,
            coalesce: config.allocation_coalesce,
            interval: config.allocation_interval,
            wanted: false,
            unfinished: false,
            last_round: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.outstanding.len()
    }

    pub(super) fn get(&self, number: u64) -> Option<&Offer> {
        self.outstanding.get(&number)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Offer)> {
        self.outstanding
            .iter()
            .map(|(number, offer)| (*number, offer))
    }

    /// The number of an offer id of this master run.
    pub(super) fn number(&self, id: &str) -> Option<u64> {
        let digits = id.strip_prefix(&self.prefix)?;
        // One id, one spelling: `+7` and `007` are no offers.
        if !digits.starts_with(|c: char| c.is_ascii_digit())
            || (digits.len() > 1 && digits.starts_with('0'))
        {
            return None;
        }
        digits.parse().ok()
    }

    pub(super) fn id(&self, number: u64) -> String {
        // In one piece: a round names ten thousand of them.
        let mut id = String::with_capacity(self.prefix.len() + 20);
        id.push_str(&self.prefix);
        let _ = write!(id, "{number}");
        id
    }

    /// Another step begins.
    pub(super) fn begin_step(&mut self) {
        self.first_fresh = self.next;
    }

    /// What the latest step offered.
    pub(super) fn fresh(&self) -> impl Iterator<Item = (u64, &Offer)> {
        let fresh = self.outstanding.range(self.first_fresh..);
        fresh.map(|(number, offer)| (*number, offer))
    }

    /// A number that no offer had yet.
    pub(super) fn next_number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        self.outstanding
            .first_key_value()
            .map(|(_, offer)| offer.expires_at)
    }

    /// Asks for a round; news in quick succession share one.
    pub(super) fn want_round(&mut self) {
        self.wanted = true;
    }
}

impl Core {
    /// When the next allocation round is due.
    pub(super) fn next_round(&self) -> Option<Timestamp> {
        if self.agent_conns.is_empty() || self.framework_conns.is_empty() {
            return None;
        }
        let Some(last) = self.offers.last_round else {
            return Some(self.out.now);
        };
        if self.offers.unfinished {
            return Some(last);
        }
        let soonest = last + self.offers.coalesce;
        if self.offers.wanted {
            return Some(soonest);
        }
        let regular = last + self.offers.interval;
        let filter = self.allocator.next_deadline().map(|at| at.max(soonest));
        Some(filter.map_or(regular, |at| at.min(regular)))
    }

    /// Runs a round and sends what it decided, one OFFERS event per framework.
    pub(super) fn allocate(&mut self) {
        let now = self.out.now;
        self.offers.wanted = false;
        self.offers.last_round = Some(now);
        self.out.counters.allocation_runs += 1;
        let mut by_framework: BTreeMap<FrameworkId, Vec<mesos::Offer>> = BTreeMap::new();
        let round = self.allocator.allocate(now);
        self.offers.unfinished = round.unfinished;
        self.out.counters.allocation_looks += round.looks;
        self.out.counters.allocation_runs_unfinished += u64::from(round.unfinished);
        for allocation in round.allocations {
            let (Some(framework), Some(agent)) = (
                self.frameworks.get_mut(&allocation.framework),
                self.agents.get_mut(&allocation.agent),
            ) else {
                continue;
            };
            let number = self.offers.next_number();
            let wire = offer_to_wire(self.offers.id(number), &allocation, agent, framework);
            let Allocation {
                framework: id,
                role,
                agent: agent_id,
                resources,
            } = allocation;
            agent.offered.add(&resources);
            agent.offers.insert(number);
            framework.offers.insert(number);
            let held = framework.held.entry(role.clone()).or_default();
            held.offered.add(&resources);
            let hostname = || agent.hostname.to_string();
            let news = &mut framework.offer_news;
            if let Some(due) = news.add(now, Fate::Sent, 1, &resources, &agent_id, hostname) {
                self.timers.set(due, Timer::OfferNews(id.clone()));
            }
            let offer = Offer {
                grant: Grant {
                    framework: id.clone(),
                    role,
                    resources,
                },
                agent: agent_id,
                expires_at: now + self.offers.timeout,
            };
            self.offers.outstanding.insert(number, offer);
            by_framework.entry(id).or_default().push(wire);
        }
        for (id, offers) in by_framework {
            self.send_offers(&id, offers);
        }
        self.send_inverse_offers(round.inverse);
    }

    fn send_offers(&mut self, framework: &FrameworkId, offers: Vec<mesos::Offer>) {
        let Some(conn) = self.frameworks.get(framework).and_then(|f| f.conn()) else {
            return;
        };
        let mut batch = Vec::new();
        let mut bytes = 0;
        for offer in offers {
            let len = offer.encoded_len();
            if bytes + len > EVENT_BYTES_MAX && !batch.is_empty() {
                self.out
                    .send_framework(conn, offers_event(std::mem::take(&mut batch)));
                bytes = 0;
            }
            bytes += len;
            batch.push(offer);
            self.out.counters.offers_sent += 1;
        }
        self.out.send_framework(conn, offers_event(batch));
    }

    /// Takes an offer off the books; its resources are now nobody's and must be recovered or
    /// used by the caller.
    pub(super) fn take_offer(&mut self, number: u64) -> Option<Offer> {
        let offer = self.offers.outstanding.remove(&number)?;
        if let Some(agent) = self.agents.get_mut(&offer.agent) {
            agent.offers.remove(&number);
            agent.offered.subtract(&offer.grant.resources);
        }
        if let Some(framework) = self.frameworks.get_mut(&offer.grant.framework) {
            framework.offers.remove(&number);
            if let Some(held) = framework.held.get_mut(&offer.grant.role) {
                held.offered.subtract(&offer.grant.resources);
            }
        }
        Some(offer)
    }

    /// Makes resources free again.
    pub(super) fn recover(&mut self, agent: &AgentId, grant: &Grant, recovery: Recovery) {
        if grant.resources.is_empty() {
            return;
        }
        self.allocator.recover(self.out.now, agent, grant, recovery);
        self.offers.want_round();
    }

    /// Takes an offer back without telling its framework.
    pub(super) fn withdraw_offer(&mut self, number: u64) {
        if let Some(offer) = self.take_offer(number) {
            self.recover(&offer.agent, &offer.grant, Recovery::Rescinded);
        }
    }

    /// Takes an offer back and tells its framework.
    pub(super) fn rescind_offer(&mut self, number: u64) {
        let Some(offer) = self.take_offer(number) else {
            return;
        };
        self.recover(&offer.agent, &offer.grant, Recovery::Rescinded);
        let Grant {
            framework,
            resources,
            ..
        } = &offer.grant;
        let fate = if offer.expires_at <= self.out.now {
            Fate::Expired
        } else {
            Fate::Rescinded
        };
        self.note_offers(framework, &offer.agent, fate, 1, resources);
        let framework = self.frameworks.get(framework);
        if let Some(conn) = framework.and_then(|f| f.conn()) {
            let mut event = event_of(scheduler::event::Type::Rescind);
            event.rescind = Some(scheduler::event::Rescind {
                offer_id: mesos::OfferId {
                    value: self.offers.id(number),
                },
            });
            self.out.send_framework(conn, event);
        }
    }

    pub(super) fn rescind_offers_of_agent(&mut self, agent: &AgentId) {
        let numbers = self.agents.get(agent).map(|a| a.offers.clone());
        for number in numbers.unwrap_or_default() {
            self.rescind_offer(number);
        }
    }

    pub(super) fn withdraw_offers_of_framework(&mut self, framework: &FrameworkId) {
        let numbers = self.frameworks.get(framework).map(|f| f.offers.clone());
        for number in numbers.unwrap_or_default() {
            self.withdraw_offer(number);
        }
    }

    pub(super) fn expire_offers(&mut self) {
        while let Some((number, offer)) = self.offers.outstanding.first_key_value() {
            if offer.expires_at > self.out.now {
                return;
            }
            let number = *number;
            self.out.counters.offers_expired += 1;
            self.rescind_offer(number);
        }
    }
}

fn offers_event(offers: Vec<mesos::Offer>) -> scheduler::Event {
    let mut event = event_of(scheduler::event::Type::Offers);
    event.offers = Some(scheduler::event::Offers { offers });
    event
}

fn offer_to_wire(
    id: String,
    allocation: &Allocation,
    agent: &Agent,
    framework: &Framework,
) -> mesos::Offer {
    let role = &allocation.role;
    mesos::Offer {
        id: mesos::OfferId { value: id },
        framework_id: (&allocation.framework).into(),
        agent_id: (&allocation.agent).into(),
        hostname: agent.info.hostname.clone(),
        url: agent.wire_url.clone(),
        domain: agent.info.domain.clone(),
        resources: framework.write(&allocation.resources, role),
        attributes: agent.info.attributes.clone(),
        executor_ids: Vec::new(),
        unavailability: agent.wish.unavailability.map(unavailability_to_wire),
        allocation_info: framework.capabilities.multi_role.then(|| {
            mesos::resource::AllocationInfo {
                role: Some(role.as_str().to_owned()),
            }
        }),
    }
}
