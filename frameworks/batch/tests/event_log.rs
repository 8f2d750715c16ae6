//! HTCondor's own reader takes the event log of `scenarios.rs`.
//!
//! The reader comes with the Python package `htcondor`, installed once into a virtual environment
//! under `target/`; that takes python3 with its venv module (`test.sh` installs both) and a way to
//! the package index, and the test fails without them. `ALLOT_HTCONDOR_PYTHON` names an
//! interpreter that has the package already.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const READER: &str = "htcondor==24.0.24";

/// An interpreter that has the reader, made unless it is there.
fn python() -> PathBuf {
    if let Some(given) = std::env::var_os("ALLOT_HTCONDOR_PYTHON") {
        return given.into();
    }
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("htcondor-reader");
    let python = venv.join("bin/python");
    let has = Command::new(&python)
        .args(["-c", "import htcondor"])
        .env("CONDOR_CONFIG", "/dev/null")
        .output();
    if !has.is_ok_and(|output| output.status.success()) {
        // What an interrupted installation left is of no use.
        let _none = std::fs::remove_dir_all(&venv);
        let made = Command::new("python3")
            .args(["-m", "venv"])
            .arg(&venv)
            .output();
        succeeded("python3 -m venv (bash test.sh installs python3-venv)", made);
        let pip = ["-m", "pip", "install", "--quiet", READER];
        let got = Command::new(&python).args(pip).output();
        succeeded(&format!("pip install {READER}"), got);
    }
    python
}

#[track_caller]
fn succeeded(what: &str, ended: std::io::Result<Output>) {
    let output = ended.unwrap_or_else(|error| panic!("{what} failed: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} failed: {said}");
}

#[test]
fn htcondors_reader_takes_our_event_log() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = std::fs::read_to_string(here.join("tests/event_log/golden.log")).unwrap();
    assert_eq!(golden.matches("\n...\n").count(), 14);
    let checked = Command::new(python())
        .args(["-W", "ignore", "check.py"])
        .current_dir(here.join("tests/event_log"))
        .env("CONDOR_CONFIG", "/dev/null")
        .output();
    succeeded("check.py", checked);
}
