//! Why a role or an agent stands as it does, as far as the allocation module knows.

use allotment_allocator::{ClientReport, Share, Standing, Unoffered};
use allotment_types::{AgentId, Role};

use super::Core;
use super::shares::printed;
use super::why::{NAMED, span};

impl Core {
    /// What holds a role back, or is promised to it.
    pub(super) fn why_sharing_of_role(&self, role: &Role) -> Vec<String> {
        let Some(report) = self.allocator.explain_role(role) else {
            return Vec::new();
        };
        let now = self.out.now;
        let mut lines = Vec::new();
        if !report.quota.guarantees.is_empty() {
            lines.push(if report.unsatisfied.values().all(|a| a.is_zero()) {
                format!(
                    "it is promised {}, and has it",
                    printed(&report.quota.guarantees)
                )
            } else {
                format!(
                    "it is promised {}, of which it still lacks {}",
                    printed(&report.quota.guarantees),
                    printed(&report.unsatisfied)
                )
            });
        }
        for room in &report.rooms {
            let unit = room.name.unit();
            let whose = if room.role == *role {
                "its quota".to_owned()
            } else {
                format!("the quota of role {}", room.role)
            };
            let state = if room.consumed >= room.limit {
                ", so it gets no more"
            } else {
                ""
            };
            lines.push(format!(
                "{whose} limits {} to {}{unit}, and {}{unit} count against it{state}",
                room.name, room.limit, room.consumed
            ));
        }
        if let Some((next, share)) = report.before.last() {
            let n = report.n_before;
            let roles = if n == 1 { "role comes" } else { "roles come" };
            lines.push(format!(
                "{n} {roles} before it; {next} is next with a share of {}",
                percent(*share)
            ));
        }
        for client in &report.clients {
            lines.extend(self.standing(client));
        }
        for hole in &report.holes {
            lines.push(format!(
                "a hole of {} is kept for {} on {}, for {} at most",
                printed(&hole.bundle),
                self.framework_name(&hole.framework),
                self.hostname(&hole.agent),
                span(now, hole.until)
            ));
        }
        lines.extend(self.why_undecided());
        lines
    }

    /// What is out of the ordinary about a framework in a role.
    fn standing(&self, client: &ClientReport) -> Option<String> {
        let name = self.framework_name(&client.framework);
        match client.standing {
            Standing::Aside { until } => Some(format!(
                "{name} declined again and again, and comes last for offers no larger than those: {}",
                span(self.out.now, until)
            )),
            Standing::DemandMet => Some(format!(
                "{name} was offered everything it asked for and must state a new demand"
            )),
            Standing::Takes => {
                let left = client.bundles_left?;
                Some(format!("{name} asks for {left} more bundles"))
            }
            Standing::Inactive | Standing::Suppressed | Standing::Left => None,
        }
    }

    /// What is planned for an agent, and why what is free there was not offered; a few lines,
    /// however many frameworks there are.
    pub(super) fn why_sharing_of_agent(&self, id: &AgentId) -> Vec<String> {
        let now = self.out.now;
        let mut lines = Vec::new();
        if let Some(agent) = self.agents.get(id) {
            let n_live = agent.tasks.len();
            match agent.activity(n_live) {
                "active" => {}
                activity => lines.push(format!("an operator has it {activity}")),
            }
            if let Some(away) = agent.wish.unavailability {
                let lasts = away
                    .duration
                    .map_or_else(|| "for good".to_owned(), |d| format!("for {d:?}"));
                lines.push(if away.start > now {
                    format!("it will be away in {}, {lasts}", span(now, away.start))
                } else {
                    format!("it is planned to be away now, {lasts}")
                });
            }
            for answer in self.answer_views(agent) {
                let said = match answer.answer.as_str() {
                    "accepted" => "will leave it",
                    "declined" => "would rather stay",
                    _ => "was asked to leave it and has not answered",
                };
                lines.push(format!("{} {said}", answer.framework_name));
            }
        }
        let Some(report) = self.allocator.explain_agent(now, id) else {
            return lines;
        };
        if let Some(hole) = &report.hole {
            lines.push(format!(
                "a hole of {} is kept for {} in role {}, for {} at most",
                printed(&hole.bundle),
                self.framework_name(&hole.framework),
                hole.role,
                span(now, hole.until)
            ));
        }
        let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
        for (framework, _, reason) in &report.unoffered {
            // That nothing is free was said before.
            if matches!(reason, Unoffered::NothingFree { .. }) {
                continue;
            }
            let sentence = reason.sentence();
            let name = self.framework_name(framework);
            match reasons.iter_mut().find(|(known, _)| *known == sentence) {
                Some((_, names)) => names.push(name),
                None => reasons.push((sentence, vec![name])),
            }
        }
        for (sentence, names) in reasons {
            let shown: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
            let more = if names.len() > NAMED { ", …" } else { "" };
            lines.push(format!(
                "not offered to {}{more}: {sentence}",
                shown.join(", ")
            ));
        }
        lines.extend(self.why_undecided());
        lines
    }
}

fn percent(share: Share) -> String {
    format!("{:.1} %", share.as_f64() * 100.0)
}
