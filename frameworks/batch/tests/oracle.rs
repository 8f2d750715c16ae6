//! Submit files against HTCondor itself: `submit/expected.json` holds what the HTCondor 24.0.24
//! Python bindings made of every case of `submit/corpus.txt` (`submit/oracle.py` writes it).

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::io;
use std::path::{Path, PathBuf};

use allotment_batch::submit::world::Kind;
use allotment_batch::submit::{self, Machine, World, spec};
use allotment_proto::allot::{JobSpec, StringList};
use serde_json::{Value, json};

/// The files are real, the variables are those the expectations were recorded with.
struct Recorded(Machine);

impl World for Recorded {
    fn folder(&self) -> &Path {
        self.0.folder()
    }
    fn variable(&self, name: &str) -> Option<String> {
        let found = self.variables().into_iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value)
    }
    fn variables(&self) -> Vec<(String, String)> {
        [("FOO1", "one"), ("FOO2", "two words"), ("HOME", "/home/u")]
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .to_vec()
    }
    fn read(&self, path: &Path) -> io::Result<String> {
        self.0.read(path)
    }
    fn kind(&self, path: &Path) -> Option<Kind> {
        self.0.kind(path)
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.0.list(folder)
    }
    fn time(&self) -> i64 {
        self.0.time()
    }
    fn date(&self) -> (i16, i8, i8) {
        self.0.date()
    }
    fn random(&self, _bound: u64) -> u64 {
        0
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/submit")
}

fn cases() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(folder().join("corpus.txt")).unwrap();
    text.split("\n=== ")
        .map(|case| {
            let (name, body) = case.split_once('\n').unwrap();
            (name.trim_start_matches("=== ").to_owned(), body.to_owned())
        })
        .collect()
}

fn job(spec: &JobSpec, batch_name: &str) -> Value {
    let world = folder().join("world").to_string_lossy().into_owned();
    let iwd = spec.initial_dir.clone().unwrap();
    // HTCondor keeps `..` as written, and so do we.
    let path = |path: &Option<String>| path.as_ref().map(|p| p.replace(&world, "@"));
    let items = |list: &Option<StringList>| {
        let list = list.as_ref()?;
        Some(
            list.items
                .iter()
                .map(|p| p.replace(&world, "@"))
                .collect::<Vec<_>>(),
        )
    };
    let mut environment: Vec<String> = spec
        .environment
        .iter()
        .flat_map(|e| &e.items)
        .map(|v| format!("{}={}", v.name, v.value))
        .collect();
    environment.sort();
    json!({
        "executable": path(&spec.executable),
        "arguments": items(&spec.arguments).unwrap_or_default(),
        "environment": environment,
        "iwd": iwd.replace(&world, "@"),
        "input": path(&spec.input),
        "output": path(&spec.output),
        "error": path(&spec.error),
        "log": path(&spec.log),
        "cpus": spec.cpus_milli.unwrap_or(1000) as f64 / 1000.0,
        "memory": spec.memory_mib.map(|n| n as f64),
        "disk": spec.disk_kib.map(|n| n as f64),
        "transfer_input": items(&spec.transfer_input),
        "transfer_output": items(&spec.transfer_output),
        "prio": spec.priority.unwrap_or(0),
        "max_retries": spec.max_retries,
        "success_exit_code": spec.success_exit_code,
        "held": spec.hold.unwrap_or(false),
        "batch_name": (!batch_name.is_empty()).then_some(batch_name),
    })
}

#[test]
fn submit_files_mean_what_htcondor_says_they_mean() {
    let expected = std::fs::read_to_string(folder().join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let world = Recorded(Machine::new(
        folder().join("world"),
        jiff::Timestamp::UNIX_EPOCH,
    ));
    let cases = cases();
    assert_eq!(cases.len(), expected.as_object().unwrap().len());
    let mut wrong = Vec::new();
    for (name, text) in cases {
        let expected = &expected[&name];
        let refused = expected.get("error").is_some();
        let ours = match submit::expand(&text, "job.sub", "u", 7, &world) {
            Ok(submission) => {
                let cluster = &submission.clusters[0];
                let specs = cluster.procs.iter().flat_map(|run| {
                    let spec = match &run.changes {
                        Some(changes) => spec::overlay(&cluster.template, changes),
                        None => cluster.template.clone(),
                    };
                    std::iter::repeat_n(spec, run.count as usize)
                });
                let jobs: Vec<Value> = specs.map(|s| job(&s, &cluster.batch_name)).collect();
                Value::Array(jobs)
            }
            Err(error) => {
                if !refused {
                    wrong.push(format!("{name}: refused with {error}"));
                }
                continue;
            }
        };
        if refused {
            wrong.push(format!("{name}: taken as {ours}, HTCondor says {expected}"));
        } else if ours != *expected {
            let (ours, theirs) = (ours.as_array().unwrap(), expected.as_array().unwrap());
            if ours.len() != theirs.len() {
                wrong.push(format!(
                    "{name}: {} jobs, HTCondor makes {}",
                    ours.len(),
                    theirs.len()
                ));
            }
            for (n, (a, b)) in ours.iter().zip(theirs).enumerate() {
                for (key, b) in b.as_object().unwrap() {
                    if a[key] != *b {
                        wrong.push(format!(
                            "{name}.{n}: {key} is {}, HTCondor says {b}",
                            a[key]
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
