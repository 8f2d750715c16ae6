//! Why a task is still waiting, in sentences: what it asks and what the nearest agent lacks.

use allotment_proto::allot::AgentView;
use allotment_types::{Name, Resources};

use crate::output;
use crate::view;

/// One sentence about `asked` and the agents as the master sees them.
pub(super) fn explain(asked: &Resources, agents: &[AgentView]) -> String {
    let asks = format!("waiting for an offer of {}", amounts(asked));
    let registered = agents.iter().filter(|agent| agent.state == "registered");
    let ranked = registered.min_by(|a, b| {
        let (a, b) = (lacks(asked, a), lacks(asked, b));
        score(&a).total_cmp(&score(&b))
    });
    let Some(nearest) = ranked else {
        return match agents.len() {
            0 => format!("{asks}: the cluster has no agent; start one with `allot agent`"),
            n => format!("{asks}: none of the {n} agents is connected; see `allot node list`"),
        };
    };
    let place = format!("{} ({})", nearest.hostname, nearest.id);
    let lacking = lacks(asked, nearest);
    if lacking.is_empty() {
        return format!(
            "{asks}: agent {place} has room, so one should come any moment, unless another \
             framework holds it or comes first"
        );
    }
    let fits_empty = |agent: &AgentView| {
        asked
            .scalars()
            .all(|(name, amount)| view::scalar(&agent.total, name.as_str()) >= amount.as_f64())
    };
    let what: Vec<_> = lacking
        .iter()
        .map(|lack| {
            format!(
                "{} (free {} of {})",
                amount(&lack.name, lack.missing),
                amount(&lack.name, lack.free),
                amount(&lack.name, view::scalar(&nearest.total, lack.name.as_str()))
            )
        })
        .collect();
    let lack = format!("the nearest agent, {place}, lacks {}", what.join(" and "));
    if agents.iter().any(fits_empty) {
        format!("{asks}: {lack}")
    } else {
        format!("{asks}: no agent is that large, so it will never fit; {lack}; ask for less")
    }
}

/// Whether some agent could run it at once.
pub(super) fn has_room(asked: &Resources, agents: &[AgentView]) -> bool {
    let mut registered = agents.iter().filter(|agent| agent.state == "registered");
    registered.any(|agent| lacks(asked, agent).is_empty())
}

struct Lack {
    name: Name,
    missing: f64,
    free: f64,
    /// The part of what was asked that is missing.
    part: f64,
}

fn lacks(asked: &Resources, agent: &AgentView) -> Vec<Lack> {
    asked
        .scalars()
        .filter_map(|(name, amount)| {
            // What somebody is offered, this task too, comes back unless it is taken.
            let free = [&agent.free, &agent.offered]
                .map(|part| view::scalar(part, name.as_str()))
                .iter()
                .fold(0.0, |all, part| all + part);
            let missing = amount.as_f64() - free;
            (missing > 0.0).then(|| Lack {
                name: name.clone(),
                missing,
                free,
                part: missing / amount.as_f64(),
            })
        })
        .collect()
}

fn score(lacks: &[Lack]) -> f64 {
    lacks.iter().map(|lack| lack.part).sum()
}

fn amounts(resources: &Resources) -> String {
    let parts: Vec<_> = resources
        .scalars()
        .map(|(name, value)| amount(name, value.as_f64()))
        .collect();
    parts.join(" and ")
}

/// `cpus 1.5`, `mem 64 MiB`.
fn amount(name: &Name, value: f64) -> String {
    let value = match name.as_str() {
        "mem" | "disk" => output::mib(value),
        _ => output::short(value),
    };
    format!("{name} {value}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use allotment_proto::convert::resources_view;

    fn agent(name: &str, total: &str, free: &str) -> AgentView {
        AgentView {
            id: format!("id-{name}"),
            hostname: name.to_owned(),
            state: "registered".to_owned(),
            total: resources_view(&total.parse().unwrap()),
            free: resources_view(&free.parse().unwrap()),
            ..AgentView::default()
        }
    }

    fn told(agents: &[AgentView]) -> String {
        explain(&"cpus:4; mem:64".parse().unwrap(), agents)
    }

    #[test]
    fn an_empty_cluster_says_how_to_get_an_agent() {
        assert_eq!(
            told(&[]),
            "waiting for an offer of cpus 4 and mem 64 MiB: the cluster has no agent; start one \
             with `allot agent`"
        );
    }

    #[test]
    fn the_nearest_agent_and_what_it_lacks_are_named() {
        let far = agent("far", "cpus:8; mem:1024", "cpus:0; mem:0");
        let near = agent("near", "cpus:8; mem:1024", "cpus:3.5; mem:1024");
        assert_eq!(
            told(&[far, near]),
            "waiting for an offer of cpus 4 and mem 64 MiB: the nearest agent, near (id-near), \
             lacks cpus 0.5 (free cpus 3.5 of cpus 8)"
        );
    }

    #[test]
    fn never_fitting_is_told_apart_from_not_fitting_now() {
        let small = agent("small", "cpus:2; mem:1024", "cpus:2; mem:1024");
        let text = told(&[small]);
        assert!(
            text.contains("will never fit") && text.contains("lacks cpus 2"),
            "{text}"
        );
    }

    #[test]
    fn what_is_on_offer_is_not_lacking() {
        let mut small = agent("small", "cpus:6; mem:32", "cpus:0; mem:0");
        small.offered = resources_view(&"cpus:6; mem:32".parse().unwrap());
        let text = told(&[small]);
        assert!(
            text.contains("lacks mem 32 MiB (free mem 32 MiB of mem 32 MiB); ask"),
            "{text}"
        );
    }

    #[test]
    fn room_that_was_not_offered_yet_is_said() {
        let roomy = agent("roomy", "cpus:8; mem:1024", "cpus:8; mem:1024");
        assert!(told(&[roomy]).contains("roomy (id-roomy) has room"));
    }
}
