//! From an order to launch to a plan for the kernel, and from its refusal to a sentence.

use std::ffi::CString;

use nix::errno::Errno;

use super::sys::{Credentials, Entrance, Hardening, Stage, TaskPlan};
use super::wire::Launch;

/// Lays out everything that the start of the task needs.
pub(super) fn task_plan(
    launch: &Launch,
    cgroups: Vec<Entrance>,
    open_files: (u64, u64),
    die_with_init: bool,
    hardening: Hardening,
) -> Result<TaskPlan, String> {
    let text = |what: &str, bytes: &[u8]| {
        CString::new(bytes).map_err(|_| format!("{what} holds a NUL byte; remove it"))
    };
    let texts = |what: &str, list: &[String]| -> Result<Vec<CString>, String> {
        list.iter()
            .map(|item| text(what, item.as_bytes()))
            .collect()
    };
    let path = launch
        .env
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or("/usr/local/bin:/usr/bin:/bin");
    let programs = if launch.program.contains('/') {
        vec![text("the program", launch.program.as_bytes())?]
    } else {
        path.split(':')
            .map(|directory| {
                let directory = if directory.is_empty() { "." } else { directory };
                text(
                    "the program",
                    format!("{directory}/{}", launch.program).as_bytes(),
                )
            })
            .collect::<Result<_, _>>()?
    };
    let mut argv = texts("an argument", &launch.argv)?;
    if argv.is_empty() {
        argv.push(text("the program", launch.program.as_bytes())?);
    }
    Ok(TaskPlan::new(
        cgroups,
        text("the sandbox path", &launch.directory)?,
        programs,
        argv,
        texts("an environment variable", &launch.env)?,
        launch.user.as_ref().map(|user| Credentials {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        }),
        open_files,
        die_with_init,
        hardening,
    ))
}

/// One sentence on why a task could not be started.
pub(super) fn failure_message(program: &str, stage: i32, errno: i32) -> String {
    let errno = Errno::from_raw(errno);
    let why = errno.desc();
    match Stage::from_number(stage) {
        Some(Stage::Exec) => {
            let advice = match errno {
                Errno::ENOENT => {
                    "; install it on the agent, ship it as a URI, or check its name and the \
                     interpreter in its first line"
                }
                Errno::EACCES => "; make it executable (chmod +x, or `executable` of its URI)",
                Errno::E2BIG => "; arguments and environment together are too long",
                _ => "",
            };
            format!("cannot run {program:?}: {why}{advice}")
        }
        Some(Stage::Output) => format!(
            "cannot open stdout and stderr in the sandbox: {why}; free space on the agent's disk"
        ),
        Some(Stage::Directory) => format!("cannot enter the sandbox: {why}"),
        Some(Stage::Cgroup) => format!("cannot put {program:?} into its cgroups: {why}"),
        Some(Stage::Credentials) => format!("cannot become the task's user: {why}"),
        Some(Stage::Mount) => format!("cannot mount the container's own /proc: {why}"),
        Some(Stage::Journal) => format!(
            "cannot write down that the container exists: {why}; free space on the agent's disk"
        ),
        Some(Stage::Enter) => format!("cannot enter the container: {why}"),
        Some(Stage::Volume) => format!("cannot mount a volume: {why}"),
        Some(Stage::Sys) => format!("cannot make /sys read-only: {why}"),
        Some(Stage::Capabilities) => format!("cannot set the task's capabilities: {why}"),
        Some(Stage::Seccomp) => format!("cannot filter the task's system calls: {why}"),
        Some(Stage::Limits) => format!(
            "cannot set the task's rlimits: {why}; ask for no more than the agent itself has"
        ),
        Some(Stage::Session | Stage::Clone) | None => {
            format!("cannot start a process for {program:?}: {why}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_program_is_looked_for_along_the_tasks_own_path() {
        let launch = Launch {
            program: "x".to_owned(),
            env: vec!["PATH=/wrong".to_owned(), "PATH=/a::/b".to_owned()],
            ..Default::default()
        };
        let plan = task_plan(&launch, Vec::new(), (1, 1), false, Hardening::default()).unwrap();
        assert_eq!(plan.programs(), [c"/a/x", c"./x", c"/b/x"]);
    }

    #[test]
    fn a_nul_byte_is_refused_with_a_sentence() {
        let launch = Launch {
            program: "x".to_owned(),
            argv: vec!["a\0b".to_owned()],
            ..Default::default()
        };
        let error =
            task_plan(&launch, Vec::new(), (1, 1), false, Hardening::default()).unwrap_err();
        assert_eq!(error, "an argument holds a NUL byte; remove it");
    }
}
