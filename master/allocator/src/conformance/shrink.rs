//! The shortest history that still shows a fault.

use super::history::Step;

/// Leaves out ever smaller pieces while the fault stays; returns what is left and the fault.
///
/// `broken` says what is wrong with a history; it must say so of `steps`.
pub fn shortest(
    mut steps: Vec<Step>,
    broken: impl Fn(&[Step]) -> Option<String>,
) -> (Vec<Step>, String) {
    let mut fault = broken(&steps).unwrap_or_default();
    let mut piece = steps.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        let mut left_out = false;
        while at < steps.len() {
            let end = (at + piece).min(steps.len());
            let shorter: Vec<Step> = [&steps[..at], &steps[end..]].concat();
            match broken(&shorter) {
                Some(still) => {
                    steps = shorter;
                    fault = still;
                    left_out = true;
                }
                None => at = end,
            }
        }
        if piece == 1 && !left_out {
            break;
        }
        piece = if piece == 1 { 1 } else { piece.div_ceil(2) };
    }
    (steps, fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_fault_needs_is_left() {
        let steps = vec![
            Step::RemoveAgent(0),
            Step::Pause,
            Step::RemoveAgent(1),
            Step::Resume,
            Step::RemoveAgent(2),
        ];
        let both = |steps: &[Step]| {
            let has = |wanted: Step| steps.contains(&wanted);
            (has(Step::Pause) && has(Step::RemoveAgent(2))).then(|| "both".to_owned())
        };
        let (left, fault) = shortest(steps, both);
        assert_eq!(left, [Step::Pause, Step::RemoveAgent(2)]);
        assert_eq!(fault, "both");
    }
}
