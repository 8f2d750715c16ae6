//! A failing run made small: fewer faults, frameworks, machines and jobs, as long as it still
//! breaks the same invariant; and the seed run twice, to be sure that it is one run.

use crate::plan::Plan;
use crate::report::{Report, Violation};
use crate::run::{play, run_seed};
use crate::scenario::Scenario;
use crate::trace::TraceDepth;

/// More runs than this are not worth the wait.
const RUNS_MAX: u32 = 80;
/// How many lines about the subject of a violation are shown, and how many before it broke.
const SUBJECT_LINES: usize = 30;
const LAST_LINES: usize = 12;

/// Two runs of one seed that differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "seed {seed} is not one run: line {line} of its trace was {first:?} the first time and \
     {second:?} the second; something in the system reads a clock or an unordered map"
)]
pub struct Divergence {
    /// The root seed.
    pub seed: u64,
    /// The first line that differs, from 1.
    pub line: usize,
    /// As it was the first time.
    pub first: String,
    /// As it was the second time.
    pub second: String,
}

/// Runs a seed twice and compares every line.
///
/// # Errors
/// [`Divergence`] at the first line that differs.
pub fn replay(seed: u64, scenario: &Scenario) -> Result<Report, Divergence> {
    let full = Scenario {
        trace: TraceDepth::Full,
        ..scenario.clone()
    };
    let (first, second) = (run_seed(seed, &full), run_seed(seed, &full));
    if first == second {
        return Ok(first);
    }
    let mut lines = first.trace.lines().zip(second.trace.lines()).enumerate();
    let differs = lines.find(|(_, (a, b))| a != b);
    let ends = first
        .trace
        .lines()
        .count()
        .min(second.trace.lines().count());
    let (line, (a, b)) = differs.unwrap_or((ends, ("(the end)", "(the end)")));
    Err(Divergence {
        seed,
        line: line + 1,
        first: a.to_owned(),
        second: b.to_owned(),
    })
}

/// The violation of this seed with everything left out that it does not need, and the lines of
/// its trace that are about it. `None` when the seed is clean.
pub fn shrink(seed: u64, scenario: &Scenario) -> Option<Violation> {
    let mut search = Search {
        seed,
        scenario,
        runs: 0,
        kind: String::new(),
    };
    let plan = Plan::drawn(seed, scenario);
    let first = play(seed, scenario, &plan).violation?;
    search.kind = kind(&first.invariant).to_owned();
    let mut plan = plan;
    // What had not happened yet did not matter.
    plan.faults.retain(|(at, _)| *at <= first.at);
    plan = search.without_faults(plan);
    plan = search.without_frameworks(plan);
    plan = search.with_fewer(plan, |plan| &mut plan.agents);
    plan = search.with_fewer(plan, |plan| &mut plan.jobs);
    plan = search.with_fewer(plan, |plan| &mut plan.scalings);
    plan = search.without_faults(plan);
    let full = Scenario {
        trace: TraceDepth::Full,
        ..scenario.clone()
    };
    let report = play(seed, &full, &plan);
    let violation = report.violation.unwrap_or(first);
    Some(Violation {
        tail: about(&violation.invariant, &report.trace),
        shrunk: true,
        ..violation
    })
}

/// Which invariant it is, without the numbers.
fn kind(invariant: &str) -> &str {
    invariant.split(':').next().unwrap_or(invariant)
}

struct Search<'a> {
    seed: u64,
    scenario: &'a Scenario,
    runs: u32,
    kind: String,
}

impl Search<'_> {
    /// Whether the smaller plan breaks the same invariant.
    fn still_fails(&mut self, plan: &Plan) -> bool {
        if self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let violation = play(self.seed, self.scenario, plan).violation;
        violation.is_some_and(|violation| kind(&violation.invariant) == self.kind)
    }

    /// Leaves out halves, then quarters, then single faults (Zeller's delta debugging).
    fn without_faults(&mut self, mut plan: Plan) -> Plan {
        let mut size = plan.faults.len();
        while size > 0 {
            let mut from = 0;
            while from < plan.faults.len() {
                let mut smaller = plan.clone();
                let to = (from + size).min(smaller.faults.len());
                smaller.faults.drain(from..to);
                if self.still_fails(&smaller) {
                    plan = smaller;
                } else {
                    from += size;
                }
            }
            size /= 2;
        }
        plan
    }

    fn without_frameworks(&mut self, mut plan: Plan) -> Plan {
        for i in 0..plan.frameworks.len() {
            let mut smaller = plan.clone();
            if let Some(present) = smaller.frameworks.get_mut(i) {
                *present = false;
            }
            if self.still_fails(&smaller) {
                plan = smaller;
            }
        }
        plan
    }

    /// Halves a number as long as that works, then takes one away at a time.
    fn with_fewer(&mut self, mut plan: Plan, of: impl Fn(&mut Plan) -> &mut usize) -> Plan {
        for halve in [true, false] {
            loop {
                let mut smaller = plan.clone();
                let number = of(&mut smaller);
                let less = if halve {
                    *number / 2
                } else {
                    number.saturating_sub(1)
                };
                if less == *number {
                    break;
                }
                *number = less;
                if !self.still_fails(&smaller) {
                    break;
                }
                plan = smaller;
            }
        }
        plan
    }
}

/// The lines about what the invariant names, and the last ones before it broke.
fn about(invariant: &str, trace: &str) -> Vec<String> {
    let subjects: Vec<&str> = invariant
        .split(|c: char| !(c.is_ascii_alphanumeric() || "-._".contains(c)))
        .map(|word| word.trim_matches('.'))
        .filter(|word| word.len() > 3 && word.contains('-'))
        .filter(|word| word.contains(|c: char| c.is_ascii_digit()))
        .collect();
    let lines: Vec<&str> = trace.lines().collect();
    let last = lines.len().saturating_sub(LAST_LINES);
    let mut shown: Vec<usize> = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| subjects.iter().any(|subject| line.contains(subject)))
        .map(|(i, _)| i)
        .filter(|i| *i < last)
        .collect();
    shown.drain(..shown.len().saturating_sub(SUBJECT_LINES));
    shown.extend(last..lines.len());
    let mut text = Vec::new();
    let mut next = 0;
    for i in shown {
        if i > next && next > 0 {
            text.push("…".to_owned());
        }
        text.extend(lines.get(i).map(|line| (*line).to_owned()));
        next = i + 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_story_keeps_the_lines_about_its_subject_and_the_last_ones() {
        let mut trace = String::from("launch eb-000007\nsomething else\nend eb-000007\n");
        for i in 0..20 {
            trace += &format!("step {i}\n");
        }
        let story = about("a task id is started at most once: task eb-000007.", &trace);
        assert_eq!(story[..3], ["launch eb-000007", "…", "end eb-000007"]);
        assert_eq!(story.len(), 4 + LAST_LINES);
        assert_eq!(story.last().map(String::as_str), Some("step 19"));
    }
}
