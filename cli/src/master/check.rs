//! Whether the masters are well, in words.

use allotment_proto::allot::{MasterStatus, MasterView};

/// What to print, and whether all is well.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) lines: Vec<String>,
    pub(super) healthy: bool,
}

fn many(n: usize, what: &str) -> String {
    if n == 1 {
        format!("1 {what}")
    } else {
        format!("{n} {what}s")
    }
}

/// From one master that answered, and what each of its members answered.
pub(super) fn verdict(
    first: &MasterStatus,
    answers: &[(MasterView, Result<MasterStatus, String>)],
) -> Verdict {
    let latest = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok())
        .max_by_key(|status| status.term)
        .unwrap_or(first);
    let leader = latest.leader.as_deref();
    let voters: Vec<_> = answers.iter().filter(|(m, _)| m.role == "voter").collect();
    let learners = answers.len() - voters.len();
    // Who answers but follows nobody, or somebody else, is of no use to the leader.
    let is_well = |answer: &Result<MasterStatus, String>| {
        answer
            .as_ref()
            .is_ok_and(|status| leader.is_some() && status.leader.as_deref() == leader)
    };
    let well = voters.iter().filter(|(_, answer)| is_well(answer)).count();
    let needed = voters.len() / 2 + 1;

    let mut lines = vec![format!(
        "cluster {}: {} and {}, {}",
        first.cluster_id,
        many(voters.len(), "voter"),
        many(learners, "learner"),
        match leader {
            Some(leader) => format!("{leader} leads in term {}", latest.term),
            None => "nobody leads".to_owned(),
        }
    )];
    for (master, answer) in answers {
        let how = match answer {
            Ok(status) => format!("{}, entry {}", status.role, status.committed),
            // Advice on how to start a master is for those who look for one.
            Err(reason) => {
                let cause = reason.split(';').next().unwrap_or_default();
                format!("does not answer: {cause}")
            }
        };
        lines.push(format!("  {} ({}): {how}", master.address, master.role));
    }
    let all_well = answers.iter().all(|(_, answer)| is_well(answer));
    let standing = if leader.is_none() || well < needed {
        format!(
            "The cluster stands still: {needed} of {} must agree and {well} do. Bring masters back \
             or repair the network between them.",
            many(voters.len(), "voter")
        )
    } else if voters.len() == 1 {
        "Healthy, but nothing may fail: there is one voter. Two more make it bear one failure."
            .to_owned()
    } else {
        let spare = well - needed;
        let begin = if all_well {
            "Healthy"
        } else {
            "The cluster works, but is not whole"
        };
        let advice = match (all_well, voters.len() % 2) {
            (false, _) => " Bring back whoever does not answer, or remove it.",
            (true, 0) => " One voter more would bear one more failure.",
            (true, _) => "",
        };
        format!(
            "{begin}: {} may fail and it goes on.{advice}",
            many(spare, "more master")
        )
    };
    lines.push(standing);
    Verdict {
        lines,
        healthy: all_well && well >= needed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answers = Vec<(MasterView, Result<MasterStatus, String>)>;

    fn cluster(n: u64, up: u64, leader: Option<&str>) -> (MasterStatus, Answers) {
        let status = |id: u64| MasterStatus {
            cluster_id: "c".to_owned(),
            id,
            address: format!("m{id}:1"),
            role: "follower".to_owned(),
            term: 7,
            leader: leader.map(ToOwned::to_owned),
            ..Default::default()
        };
        let answers = (1..=n).map(|id| {
            let view = MasterView {
                id,
                address: format!("m{id}:1"),
                role: "voter".to_owned(),
                ..Default::default()
            };
            let answer = if id <= up {
                Ok(status(id))
            } else {
                Err("gone".to_owned())
            };
            (view, answer)
        });
        (status(1), answers.collect())
    }

    fn last(n: u64, up: u64, leader: Option<&str>) -> (String, bool) {
        let (first, answers) = cluster(n, up, leader);
        let mut verdict = verdict(&first, &answers);
        (verdict.lines.pop().unwrap(), verdict.healthy)
    }

    #[test]
    fn it_counts_what_may_still_fail() {
        let (text, healthy) = last(3, 3, Some("m1:1"));
        assert!(healthy && text.contains("1 more master may fail"), "{text}");
        let (text, healthy) = last(3, 2, Some("m1:1"));
        assert!(
            !healthy && text.contains("0 more masters may fail"),
            "{text}"
        );
        let (text, healthy) = last(5, 4, Some("m1:1"));
        assert!(
            !healthy && text.contains("1 more master may fail"),
            "{text}"
        );
        let (text, healthy) = last(3, 1, None);
        assert!(!healthy && text.contains("stands still"), "{text}");
        let (text, healthy) = last(1, 1, Some("m1:1"));
        assert!(healthy && text.contains("nothing may fail"), "{text}");
        let (text, _) = last(2, 2, Some("m1:1"));
        assert!(
            text.contains("0 more masters") && text.contains("One voter more"),
            "{text}"
        );
    }
}
