//! What submit files are refused for, and that no text makes the parser fall over.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use allotment_batch::submit::{self, Machine, Submission, SubmitError};
use proptest::prelude::*;

fn expand(text: &str) -> Result<Submission, SubmitError> {
    let machine = Machine::new("/tmp".into(), jiff::Timestamp::UNIX_EPOCH);
    submit::expand(text, "job.sub", "u", 7, &machine)
}

#[track_caller]
fn refused(text: &str, line: usize, parts: &[&str]) {
    let error = expand(text).unwrap_err();
    assert_eq!(error.line, line, "{error}");
    for part in parts {
        assert!(error.problem.contains(part), "{error} lacks {part:?}");
    }
}

#[test]
fn commands_that_would_change_what_runs_are_refused_with_line_and_way_out() {
    for (command, name) in [
        ("requirements = (OpSys == \"LINUX\")", "requirements"),
        ("rank = Memory", "rank"),
        ("periodic_remove = JobStatus == 5", "periodic_remove"),
        ("on_exit_hold = ExitCode != 0", "on_exit_hold"),
        ("concurrency_limits = a:2", "concurrency_limits"),
        ("docker_image = debian", "docker_image"),
        ("request_gpus = 1", "request_gpus"),
        ("leave_in_queue = true", "leave_in_queue"),
        ("transfer_output_remaps = \"a=b\"", "transfer_output_remaps"),
    ] {
        let text = format!("executable = /bin/true\n{command}\nqueue\n");
        refused(&text, 2, &[name, "not supported yet"]);
    }
    refused(
        "executable = /bin/true\nuniverse = docker\nqueue",
        2,
        &["universe", "vanilla"],
    );
    refused(
        "executable = /bin/true\nif true\nqueue\nendif",
        2,
        &["`if` is not supported yet"],
    );
    refused(
        "executable = /bin/true\narguments = $$(Memory)\nqueue",
        2,
        &["$$(Memory)", "machine that runs the job"],
    );
}

#[test]
fn empty_and_harmless_values_of_refused_commands_are_taken() {
    let text = "executable = /bin/true\nrequirements =\n+projectname =\nmachine_count = 1\n\
                periodic_remove = false\nrank = 0\nqueue";
    let submission = expand(text).unwrap();
    assert_eq!(submission.jobs(), 1);
    assert!(submission.warnings.is_empty(), "{:?}", submission.warnings);
}

#[test]
fn a_missing_executable_is_refused_with_its_path() {
    refused(
        "# a comment\nexecutable = /nowhere/prog\nqueue",
        2,
        &[
            "there is no file /nowhere/prog",
            "transfer_executable = false",
        ],
    );
    let text = "executable = /nowhere/prog\ntransfer_executable = false\nqueue";
    assert_eq!(expand(text).unwrap().jobs(), 1);
    refused("queue", 1, &["there is no `executable`"]);
    refused("executable = /bin/true", 1, &["no `queue` statement"]);
}

#[test]
fn a_typo_is_pointed_out() {
    let submission = expand("executable = /bin/true\narguemnts = a\nqueue").unwrap();
    assert_eq!(submission.warnings.len(), 1);
    assert!(submission.warnings[0].contains("line 2: `arguemnts`"));
}

#[test]
fn a_macro_that_refers_to_itself_ends_in_a_sentence() {
    refused(
        "executable = /bin/true\na = $(b)\nb = $(a)\narguments = $(a)\nqueue",
        4,
        &["refers to itself"],
    );
}

#[test]
fn macros_that_double_at_every_step_end_in_a_sentence() {
    let mut text = "executable = /bin/true\nm0 = aaaaaaaaaa\n".to_owned();
    for n in 1..60 {
        text += &format!("m{n} = $(m{})$(m{})\n", n - 1, n - 1);
    }
    text += "arguments = $(m59)\nqueue\n";
    refused(&text, 62, &["expand to more than"]);
}

#[test]
fn an_absurd_count_is_refused_before_it_costs_anything() {
    refused(
        "executable = /bin/true\nqueue 99999999999",
        2,
        &["1 to 1000000"],
    );
    refused(
        "executable = /bin/true\nqueue 1000 x in (a b c)\nqueue 999999",
        3,
        &["at most 1000000"],
    );
}

#[test]
fn a_new_executable_starts_a_new_cluster_and_a_new_queue_does_not() {
    let text = "executable = /bin/true\narguments = $(Cluster).$(Process)\nqueue 2\npriority = 3\n\
                queue\nexecutable = /bin/false\nqueue 5\n";
    let submission = expand(text).unwrap();
    let sizes: Vec<(Option<u32>, u32)> = submission
        .clusters
        .iter()
        .map(|c| (c.cluster, c.procs.iter().map(|run| run.count).sum()))
        .collect();
    assert_eq!(sizes, [(Some(7), 3), (Some(8), 5)]);
}

#[test]
fn ten_thousand_equal_jobs_are_one_run() {
    let submission = expand("executable = /bin/true\nqueue 10000").unwrap();
    assert_eq!(submission.clusters[0].procs.len(), 1);
    assert_eq!(submission.clusters[0].procs[0].changes, None);
    let submission = expand("executable = /bin/true\noutput = o.$(Process)\nqueue 100").unwrap();
    assert_eq!(submission.clusters[0].procs.len(), 100);
    let changes = submission.clusters[0].procs[1].changes.clone().unwrap();
    assert_eq!(changes.executable, None);
    assert_eq!(changes.output.unwrap(), "/tmp/o.1");
}

#[test]
fn a_setting_that_a_later_queue_takes_back_is_taken_back() {
    let text = "executable = /bin/true\nmax_retries = 3\nqueue\nmax_retries =\nqueue\n";
    let submission = expand(text).unwrap();
    let cluster = &submission.clusters[0];
    assert_eq!(cluster.template.max_retries, Some(3));
    let changes = cluster.procs[1].changes.as_ref().unwrap();
    assert_eq!(
        submit::spec::overlay(&cluster.template, changes).max_retries,
        None
    );
}

fn lines() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        Just("queue".to_owned()),
        Just("executable = /bin/true".to_owned()),
        Just("arguments = ".to_owned()),
        Just("environment = \"".to_owned()),
        Just("request_memory = ".to_owned()),
        Just("+A = ".to_owned()),
        Just(" in (".to_owned()),
        Just(" from ".to_owned()),
        Just(" matching files ".to_owned()),
        Just("[1:]".to_owned()),
        Just("$(A:".to_owned()),
        Just("$INT(A,%05d)".to_owned()),
        Just("$SUBSTR(A,-2,9)".to_owned()),
        Just("$CHOICE(1,a)".to_owned()),
        Just("$Fpnxq(A)".to_owned()),
        Just(")".to_owned()),
        Just("\\\n".to_owned()),
        Just("\n".to_owned()),
        Just("A = $(A)$(B)".to_owned()),
        "\\PC{0,12}",
        "[0-9]{1,22}",
    ];
    prop::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat())
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic_and_errors_name_a_line(text in lines()) {
        if let Err(error) = expand(&text) {
            prop_assert!(error.line >= 1 && error.line <= text.lines().count().max(1));
            prop_assert!(!error.problem.contains('\n'));
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(text in "\\PC{0,200}") {
        let _outcome = expand(&text);
    }
}
