//! The laboratory: what it refuses, and what its experiments show.

use allotment_sim::lab::{LabScenario, ScenarioError, run};

fn parse(text: &str) -> Result<LabScenario, ScenarioError> {
    LabScenario::parse(text, |path| Err(format!("there is no {path}")))
}

fn refused(text: &str) -> String {
    parse(text).expect_err("it makes no sense").to_string()
}

const MACHINES: &str = r#"
time = "10m"
agents = [{ count = 4, resources = "cpus:4;mem:8192" }]
"#;

fn with(frameworks: &str) -> String {
    format!("{MACHINES}\n{frameworks}")
}

const LOAD: &str = r#"
task = "cpus:1;mem:1024"
arrivals = { exponential = "5s" }
tasks = { fixed = 4 }
duration = { exponential = "20s" }
"#;

#[test]
fn unknown_keys_and_nonsense_are_refused_with_both_values() {
    let typo = refused(&with("[[frameworks]]\nname = \"a\"\ndurations = \"5s\""));
    assert!(
        typo.contains("durations") && typo.contains("duration"),
        "{typo}"
    );

    let large = LOAD.replace("cpus:1", "cpus:8");
    let large = refused(&with(&format!("[[frameworks]]\nname = \"a\"\n{large}")));
    assert!(
        large.contains("cpus:8") && large.contains("cpus:4"),
        "{large}"
    );

    let two = refused(&with(&format!(
        "[[frameworks]]\nname = \"a\"\nworkload = \"omega-batch\"\n{LOAD}"
    )));
    assert!(
        two.contains("workload and arrivals exclude each other"),
        "{two}"
    );

    let picky = refused(&with(&format!(
        "[[frameworks]]\nname = \"a\"\nat_least = \"cpus:2\"\n{LOAD}"
    )));
    assert!(
        picky.contains("picky") && picky.contains("greedy"),
        "{picky}"
    );

    let none = refused(&with("[[frameworks]]\nname = \"a\""));
    assert!(none.contains("has no load"), "{none}");

    let text = with(&format!("[[frameworks]]\nname = \"a\"\n{LOAD}"));
    let sample = refused(&format!("sample = \"1h\"\n{text}"));
    assert!(sample.contains("1h") && sample.contains("10m"), "{sample}");

    let weight = refused(&format!("{text}\n[[roles]]\nname = \"a\"\nweight = 0"));
    assert!(weight.contains("weight 0"), "{weight}");

    let quota = "[[roles]]\nname = \"a\"\nlimit = \"cpus:2\"\nguarantee = \"cpus:3\"";
    let quota = refused(&format!("{text}\n{quota}"));
    assert!(
        quota.contains("cpus:3") && quota.contains("cpus:2"),
        "{quota}"
    );

    let trace = refused(&with("[[frameworks]]\nname = \"a\"\ntrace = \"jobs.csv\""));
    assert!(trace.contains("there is no jobs.csv"), "{trace}");

    let text = format!("allocator = \"lottery\"\n{text}");
    let scenario = parse(&text).expect("modules are known to the run alone");
    let error = run(&scenario, 1, |_| {}).expect_err("there is no such module");
    assert!(
        error.contains("lottery") && error.contains("drf"),
        "{error}"
    );
}

#[test]
fn every_job_of_a_small_experiment_is_done_and_two_runs_are_equal() {
    let scenario = parse(&with(&format!("[[frameworks]]\nname = \"a\"\n{LOAD}"))).expect("good");
    let report = run(&scenario, 3, |_| {}).expect("it runs");
    let group = &report.groups[0];
    assert!(group.jobs > 60, "{group:?}");
    assert_eq!(
        (group.jobs_done, group.tasks_run),
        (group.jobs, 4 * group.jobs)
    );
    assert!(report.utilisation[0].mean > 0.3, "{report:?}");
    assert_eq!(run(&scenario, 3, |_| {}), Ok(report));
}

#[test]
fn a_role_of_weight_two_gets_two_thirds_and_the_index_says_that_it_is_fair() {
    // Four tasks fill a machine: nothing is left over to be offered and declined.
    let load = LOAD.replace("5s", "1s").replace("1024", "2048");
    let text = with(&format!(
        "[[frameworks]]\nname = \"a\"\n{load}\n[[frameworks]]\nname = \"b\"\n{load}\n\
         [[roles]]\nname = \"a\"\nweight = 2"
    ));
    let text = format!("patience = \"0s\"\n{text}");
    let report = run(&parse(&text).expect("good"), 1, |_| {}).expect("it runs");
    let share = |i: usize| report.roles[i].share_while_waiting.expect("it waited");
    let ratio = share(0) / share(1);
    assert!((1.5..2.3).contains(&ratio), "{:?}", report.roles);
    let index = report.fairness.roles_mean.expect("both waited");
    assert!(index > 0.97, "{index}");
    assert!(report.groups[1].longest_wait > report.groups[0].wait.p50);
    let (table, svg) = (report.table(), report.svg());
    assert!(
        table.contains("Jain") && table.contains("weight"),
        "{table}"
    );
    assert!(svg.contains("dominant share per role") && svg.ends_with("</svg>\n"));
}

#[test]
fn who_holds_offers_and_uses_none_is_seen_in_the_report() {
    let text = with(&format!(
        "[[frameworks]]\nname = \"worker\"\n{LOAD}\n\
         [[frameworks]]\nname = \"hoarder\"\npolicy = \"idle\"\nholds_offers = true"
    ));
    let report = run(&parse(&text).expect("good"), 1, |_| {}).expect("it runs");
    let unused = |i: usize| report.roles[i].offered_unused;
    assert!(
        unused(1) > 0.1 && unused(1) > 5.0 * unused(0),
        "{:?}",
        report.roles
    );
    assert_eq!(report.groups[1].tasks_run, 0);
}

#[test]
fn the_examples_that_ship_can_be_played() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/scenarios");
    let mut played = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder ships") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("it can be read");
        let scenario = LabScenario::parse(&text, |trace| {
            std::fs::read_to_string(folder.join(trace)).map_err(|error| error.to_string())
        });
        scenario.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        played += 1;
    }
    assert!(played >= 4);
}
