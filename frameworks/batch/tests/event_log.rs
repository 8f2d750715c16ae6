//! HTCondor's own reader takes the event log of `scenarios.rs`.
//!
//! The reader comes with the Python package `htcondor`; where it is (`target/oracle`, or the
//! interpreter that `ALLOT_HTCONDOR_PYTHON` names) it is asked. Elsewhere the golden file stands
//! for it: it was checked when it was written, and `scenarios.rs` holds the text to it.

use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn htcondors_reader_takes_our_event_log_or_is_not_installed() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let usual = here.join("../../target/oracle/bin/python");
    let python = std::env::var_os("ALLOT_HTCONDOR_PYTHON").map_or(usual, PathBuf::from);
    let golden = std::fs::read_to_string(here.join("tests/event_log/golden.log")).unwrap();
    assert_eq!(golden.matches("\n...\n").count(), 14);
    if !python.exists() {
        println!(
            "{} is not there, so the golden file stands for it",
            python.display()
        );
        return;
    }
    let output = Command::new(python)
        .args(["-W", "ignore", "check.py"])
        .current_dir(here.join("tests/event_log"))
        .env("CONDOR_CONFIG", "/dev/null")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}
