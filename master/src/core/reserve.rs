//! Operators reserve resources of an agent, and end reservations.
//!
//! What tasks use stays as it is and the request is refused; offers of it are rescinded (Mesos:
//! `reservation.md`).

use allotment_proto::allot;
use allotment_proto::mesos::offer::{Operation, operation};
use allotment_types::AgentId;

use super::Core;
use super::io::Refusal;
use super::operations::{self, Asker, Conversion, OperationFault};

impl Core {
    pub(super) fn operator_reserve(
        &mut self,
        request: allot::ReserveRequest,
    ) -> Result<allot::AgentView, Refusal> {
        let operation = Operation {
            r#type: Some(operation::Type::Reserve.into()),
            reserve: Some(operation::Reserve {
                source: Vec::new(),
                resources: request.resources,
            }),
            ..Default::default()
        };
        self.convert_by_operator(&request.agent, &operation)
    }

    pub(super) fn operator_unreserve(
        &mut self,
        request: allot::ReserveRequest,
    ) -> Result<allot::AgentView, Refusal> {
        let operation = Operation {
            r#type: Some(operation::Type::Unreserve.into()),
            unreserve: Some(operation::Unreserve {
                resources: request.resources,
            }),
            ..Default::default()
        };
        self.convert_by_operator(&request.agent, &operation)
    }

    fn convert_by_operator(
        &mut self,
        subject: &str,
        operation: &Operation,
    ) -> Result<allot::AgentView, Refusal> {
        let id = self.find_agent(subject)?;
        let agent = self.agents.get(&id).filter(|a| a.session().is_some());
        let Some(agent) = agent else {
            return Err(Refusal::Precondition(format!(
                "agent {id} is not connected and cannot be told; wait until it is back"
            )));
        };
        let change = operations::conversion(operation, Asker::OPERATOR, &agent.total)
            .map_err(|fault| Refusal::Invalid(fault.to_string()))?;
        let unused = agent.total.minus(&agent.allocated.unshared());
        let lacking = unused.shortfalls(&change.from);
        if !lacking.is_empty() {
            let fault = OperationFault::lacking(&lacking);
            return Err(Refusal::Precondition(format!(
                "agent {} has not enough that no task uses: {fault}",
                agent.hostname
            )));
        }
        self.take_back_for(&id, &change);
        let Conversion { from, to } = change;
        self.allocator
            .convert(&id, None, &from, &to)
            .map_err(|error| Refusal::Precondition(error.to_string()))?;
        self.convert_agent(&id, &from, &to, None);
        self.apply_resources(&id);
        self.offers.want_round();
        self.agent_view_of(&id)
    }

    /// Rescinds offers, the oldest first, until what is to be changed is free.
    fn take_back_for(&mut self, id: &AgentId, change: &Conversion) {
        let Some(agent) = self.agents.get(id) else {
            return;
        };
        for number in agent.offers.clone() {
            if self.allocator.free(id).contains(&change.from) {
                return;
            }
            let wanted = |name, lot: &_| change.from.get(name, lot).is_some();
            let helps = self.offers.get(number).is_some_and(|offer| {
                let held = &offer.grant.resources;
                held.iter().any(|(name, lot, _)| wanted(name, lot))
            });
            if helps {
                self.rescind_offer(number);
            }
        }
    }
}
