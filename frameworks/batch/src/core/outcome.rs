//! What of a run comes home, and where to.

use allotment_proto::allot::{FileTransfer, JobSpec, SandboxSummary};

use super::TransferFile;
use super::job::file_transfer;
use super::matching::{EXECUTABLE, STDIN, base_name};
use super::submit::plain;

/// Files, and the folder and the names to leave out when the rest must be listed.
pub(super) type Plan = (Vec<TransferFile>, Option<(String, Vec<String>)>);

/// What to bring home; the name of a file that is missing otherwise.
pub(super) fn plan(spec: &JobSpec, sandbox: Option<&SandboxSummary>) -> Result<Plan, String> {
    let mut files = Vec::new();
    let mut standard = |name: &str, to: &Option<String>, size: Option<u64>, append: bool| {
        if let Some(to) = to.as_ref().filter(|to| !to.is_empty()) {
            files.push(TransferFile {
                name: name.to_owned(),
                size,
                to: to.clone(),
                append,
                standard: true,
            });
        }
    };
    standard(
        "stdout",
        &spec.output,
        sandbox.map(|s| s.stdout_bytes),
        false,
    );
    let together = spec.output.is_some() && spec.output == spec.error;
    standard(
        "stderr",
        &spec.error,
        sandbox.map(|s| s.stderr_bytes),
        together,
    );
    if file_transfer(spec) == FileTransfer::No {
        return Ok((files, None));
    }
    let folder = spec.initial_dir.clone().unwrap_or_default();
    let mut bring = |name: &str, size: Option<u64>| {
        files.push(TransferFile {
            name: name.to_owned(),
            size,
            to: format!("{}/{name}", folder.trim_end_matches('/')),
            append: false,
            standard: false,
        });
    };
    if let Some(wanted) = &spec.transfer_output {
        for name in &wanted.items {
            let found = sandbox.and_then(|s| s.files.iter().find(|file| file.name == *name));
            match (found, sandbox) {
                (Some(file), _) => bring(name, Some(file.size_bytes)),
                (None, Some(summary)) if !summary.truncated => return Err(name.clone()),
                (None, _) => bring(name, None),
            }
        }
        return Ok((files, None));
    }
    let mut known: Vec<String> = ["stdout", "stderr", EXECUTABLE, STDIN]
        .map(str::to_owned)
        .to_vec();
    let inputs = spec.transfer_input.iter().flat_map(|list| &list.items);
    known.extend(inputs.map(|path| base_name(path).to_owned()));
    match sandbox {
        Some(summary) if !summary.truncated => {
            for file in &summary.files {
                if !known.contains(&file.name) && plain(&file.name) {
                    bring(&file.name, Some(file.size_bytes));
                }
            }
            Ok((files, None))
        }
        _ => Ok((files, Some((folder, known)))),
    }
}
