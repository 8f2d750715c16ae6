//! Job descriptions as a template and what a job changes to it.

use allotment_proto::allot::JobSpec;

macro_rules! fields {
    ($($number:literal $field:ident),* $(,)?) => {
        /// What `spec` changes to `template`; `None` when nothing.
        pub fn difference(template: &JobSpec, spec: JobSpec) -> Option<JobSpec> {
            if *template == spec {
                return None;
            }
            let mut changes = JobSpec::default();
            $(if template.$field != spec.$field {
                if spec.$field.is_none() {
                    changes.reset.push($number);
                }
                changes.$field = spec.$field;
            })*
            Some(changes)
        }

        /// The job that `changes` makes of `template`.
        pub fn overlay(template: &JobSpec, changes: &JobSpec) -> JobSpec {
            let mut spec = template.clone();
            $(if changes.$field.is_some() {
                spec.$field.clone_from(&changes.$field);
            } else if changes.reset.contains(&$number) {
                spec.$field = None;
            })*
            spec
        }
    };
}

fields! {
    1 executable,
    2 arguments,
    3 environment,
    4 initial_dir,
    5 input,
    6 output,
    7 error,
    8 log,
    9 cpus_milli,
    10 memory_mib,
    11 disk_kib,
    12 transfer_input,
    13 transfer_output,
    14 transfer_executable,
    15 file_transfer,
    16 max_retries,
    17 success_exit_code,
    18 retry_until,
    19 priority,
    20 hold,
    21 attributes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_its_template_and_its_changes() {
        let template = JobSpec {
            executable: Some("/bin/a".to_owned()),
            max_retries: Some(3),
            input: Some("/x".to_owned()),
            ..Default::default()
        };
        let spec = JobSpec {
            executable: Some("/bin/a".to_owned()),
            input: Some("/y".to_owned()),
            hold: Some(true),
            ..Default::default()
        };
        let changes = difference(&template, spec.clone()).unwrap();
        assert_eq!(changes.executable, None);
        assert_eq!(overlay(&template, &changes), spec);
        assert_eq!(difference(&template, template.clone()), None);
    }
}
