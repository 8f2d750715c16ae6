//! In which order agents are offered.

use allotment_types::Value;

use super::agents::Agent;
use super::books::Books;
use super::slab::Slot;
use super::sums::Ratio;
use crate::Placement;

impl Books {
    /// Sorts agents by the placement policy.
    pub(crate) fn in_turn(&self, agents: &mut [Slot]) {
        let registration = |slot: &Slot| self.agents[*slot].registration;
        match self.settings.placement {
            Placement::Rotate => {
                if !agents.is_sorted_by_key(registration) {
                    agents.sort_unstable_by_key(registration);
                }
                let behind = agents.partition_point(|slot| registration(slot) < self.turn);
                agents.rotate_left(behind);
            }
            Placement::Spread => agents.sort_by_cached_key(|slot| {
                let agent = &self.agents[*slot];
                (used(agent), agent.registration)
            }),
            Placement::Pack => agents.sort_by_cached_key(|slot| {
                let agent = &self.agents[*slot];
                (std::cmp::Reverse(used(agent)), agent.registration)
            }),
            Placement::Random => {
                let (seed, round) = (self.settings.seed, self.rounds);
                agents.sort_by_cached_key(|slot| {
                    let registration = registration(slot);
                    (mix(seed ^ mix(round ^ mix(registration))), registration)
                });
            }
        }
    }
}

/// The largest part of any amount that is held.
fn used(agent: &Agent) -> Ratio {
    let mut used = Ratio::ZERO;
    let total = agent.total.resources.iter();
    let mut names: Vec<_> = total
        .filter(|(_, _, value)| matches!(value, Value::Scalar(_)))
        .map(|(name, _, _)| name)
        .collect();
    names.dedup();
    for name in names {
        let sum = |bundle: &super::bundle::Bundle, shared: bool| -> u128 {
            let entries = bundle.resources.iter();
            entries
                .filter(|(found, lot, _)| *found == name && (shared || !lot.is_shared()))
                .map(|(_, _, value)| match value {
                    Value::Scalar(amount) => u128::from(amount.thousandths()),
                    Value::Ranges(_) | Value::Set(_) => 0,
                })
                .sum()
        };
        // Shared lots are always free: they count in the total and never as used.
        let (total, held) = (
            sum(&agent.total, true),
            sum(&agent.total, false).saturating_sub(sum(&agent.free, false)),
        );
        if total > 0 {
            used = used.max(Ratio::new(held, total, 1));
        }
    }
    used
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014): every bit of the result depends on
/// every bit of the argument.
pub(crate) const fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
