//! Changes of the members: which are sensible now, and how they are proposed.

use super::apply::conf_change;
use super::*;
use crate::members::ChangeError;

/// How many entries a learner may lack when it becomes a voter.
const LAG_MAX: u64 = 1000;

impl Member {
    /// Proposes a change; [`Effect::Members`] tells when it has happened.
    ///
    /// # Errors
    /// [`ChangeError`] when it makes no sense now.
    pub fn change(&mut self, now: Timestamp, change: &Change) -> Result<Vec<Effect>, ChangeError> {
        self.check(change)?;
        let context = change.to_wire().encode_to_vec();
        let proposed = match conf_change(change) {
            Some(for_raft) => self.node.propose_conf_change(context, for_raft),
            None => self.node.propose(context, Vec::new()),
        };
        proposed.map_err(|_| ChangeError::Busy)?;
        let mut out = Vec::new();
        self.drain(now, &mut out);
        Ok(out)
    }

    fn check(&self, change: &Change) -> Result<(), ChangeError> {
        if self.leading.is_none() || self.failed {
            return Err(ChangeError::NotLeader);
        }
        if self.node.raft.has_pending_conf() {
            return Err(ChangeError::Busy);
        }
        let known = |id: &u64| self.members.members.contains_key(id);
        match change {
            Change::Add { id, .. } if known(id) => Err(ChangeError::Known(*id)),
            Change::Add { .. } => Ok(()),
            Change::Promote(id) | Change::Remove(id) | Change::Move { id, .. } if !known(id) => {
                Err(ChangeError::Unknown(*id))
            }
            Change::Promote(id) => self.check_promotion(*id),
            Change::Remove(id) => self.check_removal(*id),
            Change::Move { .. } => Ok(()),
        }
    }

    fn check_promotion(&self, id: u64) -> Result<(), ChangeError> {
        if self.voters.voters.contains(&id) {
            return Err(ChangeError::Voter(id));
        }
        let last = self.node.raft.raft_log.last_index();
        let progress = self.node.raft.prs().get(id);
        let matched = progress.map_or(0, |progress| progress.matched);
        let active = progress.is_some_and(|progress| progress.recent_active);
        if !active || matched == 0 || matched + LAG_MAX < last {
            return Err(ChangeError::Behind { id, matched, last });
        }
        Ok(())
    }

    /// The voters that are left must be able to decide, or the group stands still for ever.
    fn check_removal(&self, id: u64) -> Result<(), ChangeError> {
        if !self.voters.voters.contains(&id) {
            return Ok(());
        }
        let left: Vec<u64> = self
            .voters
            .voters
            .iter()
            .copied()
            .filter(|v| *v != id)
            .collect();
        let active = left.iter().filter(|voter| self.is_active(**voter)).count();
        let needed = left.len() / 2 + 1;
        if active < needed {
            let left = left.len();
            return Err(ChangeError::Quorum {
                left,
                active,
                needed,
            });
        }
        Ok(())
    }

    pub(super) fn is_active(&self, id: u64) -> bool {
        let progress = self.node.raft.prs().get(id);
        id == self.config.id || progress.is_some_and(|progress| progress.recent_active)
    }

    /// A learner that has caught up becomes a voter.
    pub(super) fn promote_learners(&mut self) {
        if self.node.raft.has_pending_conf() {
            return;
        }
        let ready = self
            .members
            .members
            .iter()
            .find(|(id, member)| !member.keep_learner && self.check_promotion(**id).is_ok());
        if let Some((id, _)) = ready {
            let change = Change::Promote(*id);
            let context = change.to_wire().encode_to_vec();
            if let Some(for_raft) = conf_change(&change) {
                // Refused while leadership changes hands; the next leader does it.
                let _ = self.node.propose_conf_change(context, for_raft);
            }
        }
    }
}
