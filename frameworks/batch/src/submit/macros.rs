//! The macros of a submit file: what is set, what is automatic, and how `$` expands.
//!
//! - `expand`: `$(name)` and `$FUNCTION(...)`.
//! - `text`, `format`: what the functions do to texts and numbers.

mod expand;
mod format;
mod text;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::SubmitError;
use super::arith;
use super::commands::{self, Verdict};
use super::lines::{Assign, shorten};
use super::world::World;

/// The deepest chain of macros that name macros.
const DEPTH_MAX: usize = 64;
/// The longest expansion, in bytes; macros can double at every step.
const EXPANSION_MAX: usize = 4 * 1024 * 1024;

#[derive(Debug)]
struct Entry {
    name: String,
    value: String,
    line: usize,
    used: Cell<bool>,
}

/// All macros at one point of a submit file.
pub struct Macros<'w> {
    world: &'w dyn World,
    submit_file: String,
    table: BTreeMap<String, Entry>,
    /// What changes from job to job.
    live: BTreeMap<String, String>,
    cluster: u32,
    live_used: Cell<bool>,
    new_executable: bool,
    no_effect: Vec<String>,
    /// Work left for the expansion of one value.
    budget: RefCell<usize>,
}

impl std::fmt::Debug for Macros<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Macros")
            .field("table", &self.table)
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

impl<'w> Macros<'w> {
    /// The automatic macros alone.
    pub fn new(submit_file: &str, world: &'w dyn World) -> Self {
        Self {
            world,
            submit_file: submit_file.to_owned(),
            table: BTreeMap::new(),
            live: BTreeMap::new(),
            cluster: 0,
            live_used: Cell::new(false),
            new_executable: false,
            no_effect: Vec::new(),
            budget: RefCell::new(EXPANSION_MAX),
        }
    }

    /// Takes `name = value`.
    ///
    /// # Errors
    /// When it is a command that is not supported yet.
    pub fn assign(&mut self, assign: Assign) -> Result<(), SubmitError> {
        let Assign { line, name, value } = assign;
        match commands::judge(&name) {
            Verdict::Refused(instead) if !commands::is_harmless(&name, &value) => {
                let problem = format!(
                    "`{} = {}` is not supported yet and would change what runs: {instead}",
                    name,
                    shorten(&value)
                );
                return Err(SubmitError::new(line, problem));
            }
            Verdict::NoEffect(why) => {
                let text = format!("line {line}: `{name}` has no effect: {why}");
                self.no_effect.push(text);
            }
            Verdict::Known(commands::Command::Executable) => self.new_executable = true,
            Verdict::Refused(_) | Verdict::Known(_) | Verdict::Custom => {}
        }
        let key = name.to_ascii_lowercase();
        // `A = $(A) more` adds to what A was.
        let value = match self.table.get(&key) {
            Some(old) => replace_self(&value, &key, &old.value),
            None => value,
        };
        if value.len() > EXPANSION_MAX {
            let problem = format!("`{name}` has grown beyond {EXPANSION_MAX} bytes; shorten it");
            return Err(SubmitError::new(line, problem));
        }
        let used = Cell::new(false);
        self.table.insert(
            key,
            Entry {
                name,
                value,
                line,
                used,
            },
        );
        Ok(())
    }

    /// Whether `executable` was set since the last call.
    pub fn take_new_executable(&mut self) -> bool {
        std::mem::take(&mut self.new_executable)
    }

    /// Sets what changes from job to job.
    pub fn set_live(
        &mut self,
        cluster: u32,
        proc: u32,
        row: usize,
        step: u32,
        variables: &[String],
        item: &[String],
    ) {
        self.cluster = cluster;
        self.live.clear();
        for name in ["process", "procid"] {
            self.live.insert(name.to_owned(), proc.to_string());
        }
        for name in ["row", "itemindex"] {
            self.live.insert(name.to_owned(), row.to_string());
        }
        self.live.insert("step".to_owned(), step.to_string());
        for (variable, value) in variables.iter().zip(item) {
            self.live
                .insert(variable.to_ascii_lowercase(), value.clone());
        }
        self.live_used.set(false);
    }

    /// Whether anything that changes from job to job was looked at since [`Self::set_live`].
    pub fn live_used(&self) -> bool {
        self.live_used.get()
    }

    /// Where a command was set, else `line`.
    pub fn line_of(&self, names: &[&str], line: usize) -> usize {
        let set = names.iter().find_map(|name| self.table.get(*name));
        set.map_or(line, |entry| entry.line)
    }

    /// A command's expanded value under the first of its `names` that is set and not empty.
    ///
    /// # Errors
    /// When its macros cannot be expanded.
    pub fn command(&self, names: &[&str]) -> Result<Option<String>, SubmitError> {
        for name in names {
            // `queue arguments from ...` sets the command for each job.
            if let Some(value) = self.live.get(*name) {
                self.live_used.set(true);
                let value = value.trim();
                if !value.is_empty() {
                    return Ok(Some(value.to_owned()));
                }
            }
            if let Some(entry) = self.table.get(*name) {
                entry.used.set(true);
                let value = self.expand(&entry.value, entry.line)?;
                let value = value.trim();
                if !value.is_empty() {
                    return Ok(Some(value.to_owned()));
                }
            }
        }
        Ok(None)
    }

    /// The custom attributes, expanded, in the order of their names.
    ///
    /// # Errors
    /// When a macro in them cannot be expanded.
    pub fn attributes(&self) -> Result<Vec<(String, String)>, SubmitError> {
        let mut out = Vec::new();
        for (key, entry) in self.table.range("my.".to_owned()..) {
            if !key.starts_with("my.") {
                break;
            }
            let value = self.expand(&entry.value, entry.line)?;
            let name = entry.name.get(3..).unwrap_or_default();
            if !value.trim().is_empty() {
                out.push((name.to_owned(), value.trim().to_owned()));
            }
        }
        Ok(out)
    }

    /// Sentences about lines that had no effect.
    pub fn unused(&self) -> Vec<String> {
        let mut out = self.no_effect.clone();
        for (key, entry) in &self.table {
            if !entry.used.get()
                && !key.starts_with("my.")
                && commands::judge(&entry.name) == Verdict::Custom
            {
                out.push(format!(
                    "line {}: `{}` is no command and no other line uses it; is it a typo?",
                    entry.line, entry.name
                ));
            }
        }
        out
    }

    /// `text` with all macros replaced.
    ///
    /// # Errors
    /// On endless or unsupported macros; `line` is named.
    pub fn expand(&self, text: &str, line: usize) -> Result<String, SubmitError> {
        *self.budget.borrow_mut() = EXPANSION_MAX;
        self.expand_at(text, 0)
            .map_err(|problem| SubmitError::new(line, problem))
    }
}

/// `value` with `$(key)` replaced by `old`, whatever the case.
fn replace_self(value: &str, key: &str, old: &str) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find("$(") {
        let after = rest.get(at + 2..).unwrap_or_default();
        let itself = after.find(')').filter(|end| {
            let name = after.get(..*end).unwrap_or_default();
            name.trim().eq_ignore_ascii_case(key)
        });
        match itself {
            Some(end) => {
                out.push_str(rest.get(..at).unwrap_or_default());
                out.push_str(old);
                rest = after.get(end + 1..).unwrap_or_default();
            }
            None => {
                out.push_str(rest.get(..at + 2).unwrap_or_default());
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}
