//! One job's description from the expanded commands.

use std::path::Path;

use allotment_proto::allot::{FileTransfer, JobSpec, JobVariable, JobVariables, StringList};

use super::SubmitError;
use super::arith;
use super::commands::Command;
use super::lines::shorten;
use super::macros::Macros;
use super::quote;
use super::world::{Kind, World};

/// Builds the jobs of one `queue` statement, checking each file only once.
pub(crate) struct Builder<'a> {
    world: &'a dyn World,
    warnings: &'a mut Vec<String>,
    /// Files that were found; most jobs share them.
    seen: std::collections::BTreeSet<String>,
}

const DEFAULT_RETRIES: u32 = 2;

impl<'a> Builder<'a> {
    pub(crate) fn new(world: &'a dyn World, warnings: &'a mut Vec<String>) -> Self {
        Self {
            world,
            warnings,
            seen: std::collections::BTreeSet::new(),
        }
    }

    /// The name people know the submission by.
    pub(crate) fn batch_name(&self, macros: &Macros<'_>) -> Result<String, SubmitError> {
        let name = macros.command(Command::BatchName.names())?;
        Ok(name.map_or_else(String::new, |name| unquoted(&name).to_owned()))
    }

    /// The job that the macros describe now; `line` is where `queue` stands.
    pub(crate) fn build(
        &mut self,
        line: usize,
        macros: &Macros<'_>,
    ) -> Result<JobSpec, SubmitError> {
        let get = |command: Command| macros.command(command.names());
        let at = |command: Command, problem: String| {
            let (line, name) = (macros.line_of(command.names(), line), command.names());
            SubmitError::new(
                line,
                format!("`{}`: {problem}", name.first().unwrap_or(&"")),
            )
        };
        self.check_universe(get(Command::Universe)?)
            .map_err(|problem| at(Command::Universe, problem))?;
        if let Some(value) = get(Command::Notification)?
            && !matches!(value.to_ascii_lowercase().as_str(), "never" | "0")
        {
            self.warn("`notification` has no effect: no mail is sent");
        }

        let folder = match get(Command::InitialDir)? {
            Some(folder) => self.world.folder().join(folder),
            None => self.world.folder().to_owned(),
        };
        let folder = text(&folder);
        self.check_folder(&folder)
            .map_err(|problem| at(Command::InitialDir, problem))?;

        let transfer_executable = match get(Command::TransferExecutable)? {
            Some(value) => boolean(&value)
                .map(Some)
                .map_err(|problem| at(Command::TransferExecutable, problem))?,
            None => None,
        };
        let file_transfer = get(Command::ShouldTransferFiles)?
            .map(|value| file_transfer(&value))
            .transpose()
            .map_err(|problem| at(Command::ShouldTransferFiles, problem))?;
        if let Some(value) = get(Command::WhenToTransferOutput)? {
            check_when(&value).map_err(|problem| at(Command::WhenToTransferOutput, problem))?;
        }

        let executable = get(Command::Executable)?.ok_or_else(|| {
            let problem = "there is no `executable`; name the program to run, for example \
                           `executable = /bin/echo`";
            SubmitError::new(line, problem)
        })?;
        let executable = unquoted(&executable).to_owned();
        let sent = transfer_executable.unwrap_or(true);
        let executable = if sent {
            let path = text(&self.world.folder().join(executable));
            self.check_file(&path).map_err(|problem| {
                let hint = "name an existing program, or set transfer_executable = false when \
                            the agents have it";
                at(Command::Executable, format!("{problem}; {hint}"))
            })?;
            path
        } else {
            executable
        };

        let in_folder = |value: &str| text(&Path::new(&folder).join(value));
        let file = |command: Command| -> Result<Option<String>, SubmitError> {
            let value = get(command)?;
            Ok(value
                .map(|value| in_folder(unquoted(&value)))
                .filter(|path| path != "/dev/null"))
        };
        let input = file(Command::Input)?;
        if let Some(input) = &input {
            self.check_file(input)
                .map_err(|problem| at(Command::Input, problem))?;
        }
        let transfer_input = match get(Command::TransferInput)? {
            Some(value) => {
                let mut items = Vec::new();
                for item in list(&value) {
                    let item = self
                        .input_file(&folder, item)
                        .map_err(|problem| at(Command::TransferInput, problem))?;
                    items.push(item);
                }
                Some(StringList { items })
            }
            None => None,
        };
        let transfer_output = match get(Command::TransferOutput)? {
            Some(value) => {
                let items: Vec<String> = list(unquoted(&value)).map(str::to_owned).collect();
                if let Some(bad) = items.iter().find(|name| !is_plain_name(name)) {
                    let problem = format!(
                        "{bad:?} is not a file at the top of the sandbox; folders are not \
                         brought back yet"
                    );
                    return Err(at(Command::TransferOutput, problem));
                }
                Some(StringList { items })
            }
            None => None,
        };

        let arguments = match get(Command::Arguments)? {
            Some(value) => {
                quote::arguments(&value).map_err(|problem| at(Command::Arguments, problem))?
            }
            None => Vec::new(),
        };
        let environment = self
            .environment(macros)
            .map_err(|(command, problem)| match problem {
                Problem::Macro(error) => error,
                Problem::Value(problem) => at(command, problem),
            })?;

        let cpus_milli = get(Command::RequestCpus)?
            .map(|value| cpus(&value))
            .transpose()
            .map_err(|problem| at(Command::RequestCpus, problem))?;
        let memory_mib = get(Command::RequestMemory)?
            .map(|value| size(&value, 1024))
            .transpose()
            .map_err(|problem| at(Command::RequestMemory, problem))?;
        let disk_kib = get(Command::RequestDisk)?
            .map(|value| size(&value, 1))
            .transpose()
            .map_err(|problem| at(Command::RequestDisk, problem))?;

        let integer = |command: Command, low: i64, high: i64| {
            let Some(value) = get(command)? else {
                return Ok(None);
            };
            let number = arith::evaluate(&value).and_then(arith::Number::as_i64);
            match number.filter(|n| (low..=high).contains(n)) {
                Some(n) => Ok(Some(n)),
                None => Err(at(
                    command,
                    format!("{:?} is no integer from {low} to {high}", shorten(&value)),
                )),
            }
        };
        let success_exit_code = integer(Command::SuccessExitCode, 0, 255)?;
        let retry_until = integer(Command::RetryUntil, 0, 255).map_err(|error| {
            SubmitError::new(
                error.line,
                format!("{}; expressions are not supported yet", error.problem),
            )
        })?;
        let max_retries = integer(Command::MaxRetries, 0, 1_000_000)?;
        let max_retries = match max_retries {
            Some(n) => Some(u32::try_from(n).unwrap_or(u32::MAX)),
            // HTCondor's DEFAULT_JOB_MAX_RETRIES.
            None if retry_until.is_some() || success_exit_code.is_some() => Some(DEFAULT_RETRIES),
            None => None,
        };
        let priority = integer(Command::Priority, i32::MIN.into(), i32::MAX.into())?;
        let hold = match get(Command::Hold)? {
            Some(value) => Some(boolean(&value).map_err(|problem| at(Command::Hold, problem))?),
            None => None,
        };
        let attributes: Vec<JobVariable> = macros
            .attributes()?
            .into_iter()
            .map(|(name, value)| JobVariable { name, value })
            .collect();
        let narrow = |n: i64| i32::try_from(n).unwrap_or(0);
        Ok(JobSpec {
            executable: Some(executable),
            arguments: some_unless(arguments.is_empty(), StringList { items: arguments }),
            environment: some_unless(environment.is_empty(), JobVariables { items: environment }),
            output: file(Command::Output)?,
            error: file(Command::Error)?,
            log: file(Command::Log)?,
            input,
            initial_dir: Some(folder.clone()),
            cpus_milli,
            memory_mib,
            disk_kib,
            transfer_input,
            transfer_output,
            transfer_executable,
            file_transfer: file_transfer.map(Into::into),
            max_retries,
            success_exit_code: success_exit_code.map(narrow),
            retry_until: retry_until.map(narrow),
            priority: priority.map(narrow),
            hold,
            attributes: some_unless(attributes.is_empty(), JobVariables { items: attributes }),
            reset: Vec::new(),
        })
    }

    fn warn(&mut self, text: &str) {
        if !self.warnings.iter().any(|known| known == text) {
            self.warnings.push(text.to_owned());
        }
    }

    fn check_universe(&self, universe: Option<String>) -> Result<(), String> {
        let Some(universe) = universe else {
            return Ok(());
        };
        if universe.eq_ignore_ascii_case("vanilla") || universe == "5" {
            return Ok(());
        }
        Err(format!(
            "universe {:?} is not supported yet; only vanilla is",
            shorten(&universe)
        ))
    }

    fn check_folder(&mut self, folder: &str) -> Result<(), String> {
        if self.seen.contains(folder) {
            return Ok(());
        }
        match self.world.kind(Path::new(folder)) {
            Some(Kind::Directory) => {
                self.seen.insert(folder.to_owned());
                Ok(())
            }
            Some(Kind::File) => Err(format!("{folder} is not a directory")),
            None => Err(format!("there is no directory {folder}; make it first")),
        }
    }

    fn check_file(&mut self, path: &str) -> Result<(), String> {
        if self.seen.contains(path) {
            return Ok(());
        }
        match self.world.kind(Path::new(path)) {
            Some(Kind::File) => {
                self.seen.insert(path.to_owned());
                Ok(())
            }
            Some(Kind::Directory) => Err(format!("{path} is a directory, not a file")),
            None => Err(format!("there is no file {path}")),
        }
    }

    fn input_file(&mut self, folder: &str, item: &str) -> Result<String, String> {
        let item = unquoted(item);
        if let Some((scheme, _)) = item.split_once("://") {
            if scheme.eq_ignore_ascii_case("http") {
                return Ok(item.to_owned());
            }
            return Err(format!(
                "agents cannot fetch {item:?} yet; use files of this machine or http://"
            ));
        }
        let path = text(&Path::new(folder).join(item.trim_end_matches('/')));
        self.check_file(&path).map_err(|problem| {
            if problem.contains("is a directory") {
                format!("{problem}; folders are not transferred yet, name their files")
            } else {
                problem
            }
        })?;
        Ok(path)
    }

    fn environment(&self, macros: &Macros<'_>) -> Result<Vec<JobVariable>, (Command, Problem)> {
        let get = |command: Command| {
            let value = macros.command(command.names());
            value.map_err(|error| (command, Problem::Macro(error)))
        };
        let mut merged: Vec<(String, String)> = Vec::new();
        if let Some(value) = get(Command::Getenv)? {
            let wanted = Wanted::parse(&value);
            for (name, value) in self.world.variables() {
                if wanted.takes(&name) {
                    merged.push((name, value));
                }
            }
        }
        if let Some(value) = get(Command::Environment)? {
            let own = quote::environment(&value)
                .map_err(|problem| (Command::Environment, Problem::Value(problem)))?;
            for (name, value) in own {
                match merged.iter_mut().find(|(known, _)| *known == name) {
                    Some(known) => known.1 = value,
                    None => merged.push((name, value)),
                }
            }
        }
        Ok(merged
            .into_iter()
            .map(|(name, value)| JobVariable { name, value })
            .collect())
    }
}

enum Problem {
    Macro(SubmitError),
    Value(String),
}

/// Which variables `getenv` takes.
enum Wanted {
    All,
    None,
    Names(Vec<String>),
}

impl Wanted {
    fn parse(value: &str) -> Self {
        match boolean(value) {
            Ok(true) => Self::All,
            Ok(false) => Self::None,
            Err(_) => Self::Names(list(value).map(str::to_owned).collect()),
        }
    }

    /// The last pattern that fits decides; `!` takes away.
    fn takes(&self, name: &str) -> bool {
        let Self::Names(patterns) = self else {
            return matches!(self, Self::All);
        };
        let mut taken = patterns.iter().all(|pattern| pattern.starts_with('!'));
        for pattern in patterns {
            let (yes, pattern) = match pattern.strip_prefix('!') {
                Some(pattern) => (false, pattern),
                None => (true, pattern.as_str()),
            };
            let fits = match pattern.split_once('*') {
                Some((head, tail)) => {
                    name.len() >= head.len() + tail.len()
                        && name.starts_with(head)
                        && name.ends_with(tail)
                }
                None => name == pattern,
            };
            if fits {
                taken = yes;
            }
        }
        taken
    }
}

fn some_unless<T>(empty: bool, value: T) -> Option<T> {
    (!empty).then_some(value)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn unquoted(value: &str) -> &str {
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    inner.unwrap_or(value)
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn is_plain_name(name: &str) -> bool {
    !name.contains('/') && name != "." && name != ".."
}

fn boolean(value: &str) -> Result<bool, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "t" | "y" | "1" => Ok(true),
        "false" | "no" | "f" | "n" | "0" => Ok(false),
        _ => Err(format!("{:?} is neither true nor false", shorten(value))),
    }
}

fn file_transfer(value: &str) -> Result<FileTransfer, String> {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "true" => Ok(FileTransfer::Yes),
        "no" | "false" => Ok(FileTransfer::No),
        "if_needed" | "automatic" => Ok(FileTransfer::IfNeeded),
        _ => Err(format!(
            "{:?} is none of YES, NO and IF_NEEDED",
            shorten(value)
        )),
    }
}

fn check_when(value: &str) -> Result<(), String> {
    match value.to_ascii_lowercase().as_str() {
        "on_exit" | "on_exit_or_evict" => Ok(()),
        "on_success" => Err(
            "ON_SUCCESS is not supported yet: output comes home after every run; use ON_EXIT"
                .to_owned(),
        ),
        _ => Err(format!(
            "{:?} is neither ON_EXIT nor ON_EXIT_OR_EVICT",
            shorten(value)
        )),
    }
}

/// Thousandths of a core.
fn cpus(value: &str) -> Result<u64, String> {
    const CPUS_MAX: f64 = 1_000_000.0;
    let number = arith::evaluate(value).map(arith::Number::as_f64);
    let bad = || {
        format!(
            "{:?} is no number of cores; write 1, 2 or 0.5",
            shorten(value)
        )
    };
    let number = number.ok_or_else(bad)?;
    if !(0.001..=CPUS_MAX).contains(&number) {
        return Err(format!(
            "{number} cores cannot be asked for; use 0.001 to {CPUS_MAX}"
        ));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10^9"
    )]
    Ok((number * 1000.0).round() as u64)
}

/// A size in units of `unit` KiB, rounded up.
fn size(value: &str, unit: u64) -> Result<u64, String> {
    const SIZE_MAX: f64 = 1e12;
    let trimmed = value.trim();
    let bad = || {
        format!(
            "{:?} is no size; write a number and K, M, G or T, for example 512 MB — other \
             expressions are not supported yet",
            shorten(value)
        )
    };
    let digits = trimmed
        .rfind(|c: char| !c.is_ascii_alphabetic())
        .map_or(0, |at| at + 1);
    let (number, suffix) = trimmed.split_at_checked(digits).unwrap_or((trimmed, ""));
    let kib = match suffix.to_ascii_lowercase().as_str() {
        "" => unit,
        "k" | "kb" => 1,
        "m" | "mb" => 1024,
        "g" | "gb" => 1024 * 1024,
        "t" | "tb" => 1024 * 1024 * 1024,
        _ => return Err(bad()),
    };
    let number = arith::evaluate(number).map(arith::Number::as_f64);
    let number = number.ok_or_else(bad)?;
    #[expect(clippy::cast_precision_loss, reason = "powers of two")]
    let size = (number * kib as f64 / unit as f64).ceil();
    if !(1.0..=SIZE_MAX).contains(&size) {
        return Err(format!(
            "{:?} cannot be asked for; use more than 0 and less than an exabyte",
            shorten(value)
        ));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10^12"
    )]
    Ok(size as u64)
}
