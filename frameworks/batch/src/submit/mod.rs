//! HTCondor submit files: from text to the jobs it describes, on the submitting side.
//!
//! - [`lines`]: text to numbered statements.
//! - [`macros`]: `$(x)`, `$ENV(x)`, `$INT(x)` and their kin; [`arith`]: the sums inside them.
//! - [`queue`]: the forms of `queue` and the items they go over.
//! - [`quote`]: both syntaxes of arguments and environments.
//! - [`commands`]: which commands are known, refused or without effect.
//! - [`job`]: one job's [`JobSpec`] from the expanded commands.
//! - [`world`]: what a submit file may look at: variables, files, the date.
//!
//! Nothing here talks to a server; what a description asks is judged against the machine that
//! submits, as `condor_submit` does.

pub mod arith;
pub mod commands;
pub mod job;
pub mod lines;
pub mod macros;
pub mod queue;
pub mod quote;
pub mod spec;
pub mod world;

use allotment_proto::allot::{ClusterSubmission, JobSpec, ProcRun};
use job::Builder;
use lines::Statement;
use macros::Macros;

pub use world::{Machine, World};

/// The most jobs of one submit file; a longer list is a mistake more often than a wish.
pub const JOBS_MAX: usize = 1_000_000;
/// The longest submit file, in bytes.
pub const TEXT_MAX: usize = 16 * 1024 * 1024;

/// Why a submit file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct SubmitError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub problem: String,
}

impl SubmitError {
    pub(crate) fn new(line: usize, problem: impl Into<String>) -> Self {
        Self {
            line,
            problem: problem.into(),
        }
    }
}

/// The jobs of a submit file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Submission {
    /// One cluster per executable, in order.
    pub clusters: Vec<ClusterSubmission>,
    /// What is accepted but has no effect, in sentences.
    pub warnings: Vec<String>,
}

impl Submission {
    /// How many jobs there are.
    pub fn jobs(&self) -> usize {
        let runs = self.clusters.iter().flat_map(|c| &c.procs);
        runs.map(|run| run.count as usize).sum()
    }
}

/// Reads a submit file and expands its jobs. Clusters are numbered from `first_cluster`.
///
/// # Errors
/// [`SubmitError`]: the line, and what to do about it.
pub fn expand(
    text: &str,
    submit_file: &str,
    owner: &str,
    first_cluster: u32,
    world: &dyn World,
) -> Result<Submission, SubmitError> {
    if text.len() > TEXT_MAX {
        let problem = format!(
            "the submit file has {} bytes; at most {TEXT_MAX} are read — move the items into a \
             file and use `queue ... from FILE`",
            text.len()
        );
        return Err(SubmitError::new(1, problem));
    }
    let statements = lines::read(text)?;
    let mut macros = Macros::new(submit_file, world);
    let mut out = Submission::default();
    let mut last_line = 1;
    let mut queued = false;
    let mut total = 0usize;
    for statement in statements {
        last_line = statement.line();
        match statement {
            Statement::Assign(assign) => macros.assign(assign)?,
            Statement::Queue {
                line,
                arguments,
                items,
            } => {
                queued = true;
                let plan = queue::plan(line, &arguments, items, &mut macros, world)?;
                total = total.saturating_add(plan.jobs());
                if total > JOBS_MAX {
                    let problem =
                        format!("the file asks for {total} jobs; at most {JOBS_MAX} at a time");
                    return Err(SubmitError::new(line, problem));
                }
                enqueue(
                    line,
                    &plan,
                    owner,
                    first_cluster,
                    &mut macros,
                    world,
                    &mut out,
                )?;
            }
        }
    }
    if !queued {
        return Err(SubmitError::new(
            last_line,
            "the file has no `queue` statement, so it describes no job; end it with `queue`",
        ));
    }
    if out.jobs() == 0 {
        return Err(SubmitError::new(
            last_line,
            "the `queue` statements make no job; check the count, the list or the patterns",
        ));
    }
    out.warnings.extend(macros.unused());
    out.warnings.dedup();
    Ok(out)
}

fn enqueue(
    line: usize,
    plan: &queue::Plan,
    owner: &str,
    first_cluster: u32,
    macros: &mut Macros<'_>,
    world: &dyn World,
    out: &mut Submission,
) -> Result<(), SubmitError> {
    if plan.jobs() == 0 {
        return Ok(());
    }
    // A new executable since the last `queue` starts a new cluster.
    let fresh = out.clusters.is_empty() || macros.take_new_executable();
    macros.take_new_executable();
    if fresh {
        let n = u32::try_from(out.clusters.len()).unwrap_or(u32::MAX);
        out.clusters.push(ClusterSubmission {
            cluster: Some(first_cluster.saturating_add(n)),
            owner: owner.to_owned(),
            ..Default::default()
        });
    }
    let Some(cluster) = out.clusters.last_mut() else {
        return Ok(());
    };
    let id = cluster.cluster.unwrap_or(first_cluster);
    let mut proc = cluster.procs.iter().map(|run| run.count).sum::<u32>();
    let mut builder = Builder::new(world, &mut out.warnings);
    for (row, item) in plan.items.iter().enumerate() {
        for step in 0..plan.count {
            macros.set_live(id, proc, row, step, &plan.variables, item);
            let spec = builder.build(line, macros)?;
            let first = cluster.procs.is_empty();
            if first {
                cluster.batch_name = builder.batch_name(macros)?;
            }
            // Without a macro that changes from job to job the rest are the same.
            let same = !macros.live_used();
            let count = if same {
                u32::try_from(plan.jobs()).unwrap_or(u32::MAX)
            } else {
                1
            };
            push(cluster, first, spec, count);
            proc = proc.saturating_add(count);
            if same {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn push(cluster: &mut ClusterSubmission, first: bool, spec: JobSpec, count: u32) {
    let changes = if first {
        cluster.template = spec;
        None
    } else {
        spec::difference(&cluster.template, spec)
    };
    match cluster.procs.last_mut() {
        Some(run) if run.changes == changes => run.count = run.count.saturating_add(count),
        _ => cluster.procs.push(ProcRun { count, changes }),
    }
}
