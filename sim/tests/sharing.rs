//! The sharing experiment at a size that a test can afford.

use allotment_sim::sharing::sharing_experiment;

#[test]
fn a_shared_cluster_finishes_bursts_sooner_than_two_halves() {
    let report = sharing_experiment(1, 20).expect("it runs to its end");
    assert_eq!(
        (report.shared.jobs_unfinished, report.split.jobs_unfinished),
        (0, 0)
    );
    assert_eq!(report.shared.job_seconds.len(), report.jobs);
    let mean = |jobs: &[f64]| jobs.iter().sum::<f64>();
    assert!(mean(&report.shared.job_seconds) < 0.9 * mean(&report.split.job_seconds));
    assert!(report.shared.utilisation_when_short > report.split.utilisation_when_short);
    assert!(
        report.shared.instances_missing < 0.05,
        "the service must not pay for it"
    );
    assert!(report.table().contains("CPU in use") && report.svg().ends_with("</svg>\n"));
}

#[test]
fn the_experiment_is_the_same_for_the_same_seed() {
    let run = || sharing_experiment(2, 6).expect("it runs to its end");
    assert_eq!(run(), run());
}
