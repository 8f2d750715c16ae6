//! The macros of a submit file: what is set, what is automatic, and how `$` expands.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::SubmitError;
use super::arith::{self, Number};
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

    fn expand_at(&self, text: &str, depth: usize) -> Result<String, String> {
        if depth > DEPTH_MAX {
            return Err("a macro refers to itself through others; break the circle".to_owned());
        }
        {
            let mut budget = self.budget.borrow_mut();
            *budget = budget.checked_sub(text.len() + 1).ok_or_else(|| {
                format!("its macros expand to more than {EXPANSION_MAX} bytes; shorten them")
            })?;
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(rest.get(..at).unwrap_or_default());
            rest = rest.get(at + 1..).unwrap_or_default();
            if rest.starts_with("$(") {
                return Err(format!(
                    "`${}` is filled in from the machine that runs the job, which is not \
                     supported yet; write a value",
                    shorten(rest)
                ));
            }
            let word = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            let (name, after) = rest.split_at(word);
            let Some((inside, after)) = parenthesized(after) else {
                out.push('$');
                continue;
            };
            let value = if name.is_empty() {
                self.variable(inside, depth)?
            } else {
                self.function(name, inside, depth)?
            };
            match value {
                Some(value) => {
                    out.push_str(&value);
                    rest = after;
                }
                // No macro: the `$` stands for itself.
                None => out.push('$'),
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    /// `$(name)` or `$(name:default)`; `None` when what stands inside is no name.
    fn variable(&self, inside: &str, depth: usize) -> Result<Option<String>, String> {
        let inside = if inside.contains('$') {
            self.expand_at(inside, depth + 1)?
        } else {
            inside.to_owned()
        };
        let (name, default) = match inside.split_once(':') {
            Some((name, default)) => (name, Some(default)),
            None => (inside.as_str(), None),
        };
        let proper = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !name.chars().all(proper) {
            return Ok(None);
        }
        let value = self.value(name, depth)?;
        Ok(Some(
            value.unwrap_or_else(|| default.unwrap_or_default().to_owned()),
        ))
    }

    /// The expanded value of a macro.
    fn value(&self, name: &str, depth: usize) -> Result<Option<String>, String> {
        let key = name.to_ascii_lowercase();
        if let Some(value) = self.live.get(&key) {
            self.live_used.set(true);
            if let Some(shadowed) = self.table.get(&key) {
                shadowed.used.set(true);
            }
            return Ok(Some(value.clone()));
        }
        if let Some(entry) = self.table.get(&key) {
            entry.used.set(true);
            return self.expand_at(&entry.value, depth + 1).map(Some);
        }
        let (year, month, day) = self.world.date();
        Ok(match key.as_str() {
            "cluster" | "clusterid" => Some(self.cluster.to_string()),
            "dollar" => Some("$".to_owned()),
            "submit_file" => Some(self.submit_file.clone()),
            "submit_time" => Some(self.world.time().to_string()),
            "year" => Some(year.to_string()),
            "month" => Some(format!("{month:02}")),
            "day" => Some(format!("{day:02}")),
            _ => None,
        })
    }

    /// The value of a macro, or the text itself when no macro has its name.
    fn value_or_text(&self, text: &str, depth: usize) -> Result<String, String> {
        let text = self.expand_at(text.trim(), depth + 1)?;
        Ok(self.value(&text, depth)?.unwrap_or(text))
    }

    /// `$NAME(inside)`; `None` when there is no such function.
    fn function(&self, name: &str, inside: &str, depth: usize) -> Result<Option<String>, String> {
        let bad = |what: &str| format!("`${name}({})` {what}", shorten(inside));
        let parts: Vec<&str> = inside.split(',').collect();
        let first = parts.first().copied().unwrap_or_default();
        Ok(Some(match name {
            "ENV" => {
                let inside = self.expand_at(inside, depth + 1)?;
                let (name, default) = match inside.split_once(':') {
                    Some((name, default)) => (name, Some(default)),
                    None => (inside.as_str(), None),
                };
                match (self.world.variable(name.trim()), default) {
                    (Some(value), _) => value,
                    (None, Some(default)) => default.to_owned(),
                    // What HTCondor writes.
                    (None, None) => "UNDEFINED".to_owned(),
                }
            }
            "INT" | "REAL" => {
                let text = self.value_or_text(first, depth)?;
                let number = arith::evaluate(&text)
                    .ok_or_else(|| bad(&format!("is no number: {:?}", shorten(&text))))?;
                let format = parts.get(1).map(|format| format.trim());
                let shown = if name == "INT" {
                    number
                        .as_i64()
                        .and_then(|n| format_int(n, format.unwrap_or("%d")))
                } else {
                    format_real(number, format)
                };
                shown.ok_or_else(|| bad("has a format that is not supported; use %d or %.2f"))?
            }
            "STRING" => {
                if parts.len() > 1 {
                    return Err(bad("has a format, which is not supported yet"));
                }
                let text = self.value_or_text(first, depth)?;
                unquote(&text).to_owned()
            }
            "CHOICE" => {
                let index = self.value_or_text(first, depth)?;
                let index = arith::evaluate(&index)
                    .and_then(Number::as_i64)
                    .ok_or_else(|| bad(&format!("has the index {:?}", shorten(&index))))?;
                let choices = self.choices(parts.get(1..).unwrap_or_default(), depth)?;
                let chosen = usize::try_from(index).ok().and_then(|i| choices.get(i));
                chosen.cloned().ok_or_else(|| {
                    bad(&format!(
                        "asks for choice {index} of {}, counted from 0",
                        choices.len()
                    ))
                })?
            }
            "RANDOM_CHOICE" => {
                self.live_used.set(true);
                let choices = self.choices(&parts, depth)?;
                let at = self.world.random(choices.len() as u64);
                let chosen = usize::try_from(at).ok().and_then(|i| choices.get(i));
                chosen
                    .cloned()
                    .ok_or_else(|| bad("has nothing to choose from"))?
            }
            "RANDOM_INTEGER" => {
                self.live_used.set(true);
                let mut numbers = Vec::new();
                for part in &parts {
                    let text = self.value_or_text(part, depth)?;
                    numbers.extend(arith::evaluate(&text).and_then(Number::as_i64));
                }
                let (low, high, step) = match numbers.as_slice() {
                    [low, high] => (*low, *high, 1),
                    [low, high, step] => (*low, *high, *step),
                    _ => return Err(bad("needs a least and a greatest integer")),
                };
                let choices = (step > 0 && low <= high)
                    .then(|| high.checked_sub(low))
                    .flatten()
                    .map(|span| span / step)
                    .and_then(|n| u64::try_from(n).ok()?.checked_add(1))
                    .ok_or_else(|| bad("needs a least, a greatest integer and a positive step"))?;
                let at = i64::try_from(self.world.random(choices)).unwrap_or(0);
                low.saturating_add(at.saturating_mul(step)).to_string()
            }
            "SUBSTR" => {
                let text = self.value_or_text(first, depth)?;
                let number = |at: usize| -> Result<Option<i64>, String> {
                    let Some(part) = parts.get(at) else {
                        return Ok(None);
                    };
                    let text = self.value_or_text(part, depth)?;
                    let number = arith::evaluate(&text).and_then(Number::as_i64);
                    number
                        .map(Some)
                        .ok_or_else(|| bad("needs integers for start and length"))
                };
                let start = number(1)?.ok_or_else(|| bad("needs a start"))?;
                substr(&text, start, number(2)?)
            }
            "BASENAME" | "DIRNAME" => {
                let text = self.value_or_text(first, depth)?;
                let path = Path::of(&text);
                if name == "BASENAME" {
                    format!("{}{}", path.name, path.extension)
                } else {
                    path.folder.to_owned()
                }
            }
            _ if name.starts_with('F')
                && name.chars().skip(1).all(|c| "fpduwnxbqa".contains(c)) =>
            {
                let key = self.expand_at(first.trim(), depth + 1)?;
                let text = self.value(&key, depth)?.unwrap_or_default();
                self.path_parts(name.get(1..).unwrap_or_default(), &text)
                    .ok_or_else(|| bad("uses a conversion that is not supported yet"))?
            }
            "EVAL" => return Err(bad("is a ClassAd expression, which is not supported yet")),
            _ => return Ok(None),
        }))
    }

    /// The items of `$CHOICE`: written out, or the list that one macro holds.
    fn choices(&self, parts: &[&str], depth: usize) -> Result<Vec<String>, String> {
        if let [one] = parts {
            let name = self.expand_at(one.trim(), depth + 1)?;
            if let Some(list) = self.value(&name, depth)? {
                return Ok(list
                    .split(|c: char| c == ',' || c.is_whitespace())
                    .filter(|item| !item.is_empty())
                    .map(str::to_owned)
                    .collect());
            }
            return Ok(vec![name]);
        }
        parts
            .iter()
            .map(|part| self.expand_at(part.trim(), depth + 1))
            .collect()
    }

    /// `$F[fpdnxqa]`: parts of a path.
    fn path_parts(&self, letters: &str, text: &str) -> Option<String> {
        if letters.contains(['u', 'w', 'b']) {
            return None;
        }
        let mut text = unquote(text).to_owned();
        if letters.contains('f') && !text.starts_with('/') && !text.is_empty() {
            text = self
                .world
                .folder()
                .join(&text)
                .to_string_lossy()
                .into_owned();
        }
        let path = Path::of(&text);
        let mut out = String::new();
        let any = letters.contains(['p', 'd', 'n', 'x']);
        if !any {
            out.push_str(&text);
        } else {
            if letters.contains('p') {
                out.push_str(path.folder);
            } else if letters.contains('d') {
                let trimmed = path.folder.strip_suffix('/').unwrap_or(path.folder);
                let last = trimmed.rfind('/').map_or(0, |at| at + 1);
                out.push_str(path.folder.get(last..).unwrap_or_default());
            }
            if letters.contains('n') {
                out.push_str(path.name);
            }
            if letters.contains('x') {
                out.push_str(path.extension);
            }
        }
        if letters.contains('q') {
            let quote = if letters.contains('a') { '\'' } else { '"' };
            out.insert(0, quote);
            out.push(quote);
        }
        Some(out)
    }
}

struct Path<'a> {
    /// With the slash at its end, or empty.
    folder: &'a str,
    name: &'a str,
    /// With its dot, or empty.
    extension: &'a str,
}

impl<'a> Path<'a> {
    fn of(text: &'a str) -> Self {
        let text = unquote(text);
        let cut = text.rfind('/').map_or(0, |at| at + 1);
        let (folder, file) = text.split_at(cut);
        let dot = file.rfind('.').unwrap_or(file.len());
        let (name, extension) = file.split_at(dot);
        Self {
            folder,
            name,
            extension,
        }
    }
}

fn unquote(text: &str) -> &str {
    let text = text.trim();
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    inner.unwrap_or(text)
}

/// What stands in the parentheses that `text` begins with, and what follows them.
fn parenthesized(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('(')?;
    let mut open = 0usize;
    for (at, c) in inner.char_indices() {
        match c {
            '(' => open += 1,
            ')' if open == 0 => return Some((inner.get(..at)?, inner.get(at + 1..)?)),
            ')' => open -= 1,
            _ => {}
        }
    }
    None
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

fn substr(text: &str, start: i64, length: Option<i64>) -> String {
    let chars: Vec<char> = text.chars().collect();
    let len = i64::try_from(chars.len()).unwrap_or(i64::MAX);
    let start = if start < 0 {
        len.saturating_add(start)
    } else {
        start
    }
    .clamp(0, len);
    let end = match length {
        None => len,
        Some(n) if n < 0 => len.saturating_add(n),
        Some(n) => start.saturating_add(n),
    }
    .clamp(start, len);
    let (start, end) = (
        usize::try_from(start).unwrap_or(0),
        usize::try_from(end).unwrap_or(0),
    );
    chars.get(start..end).unwrap_or_default().iter().collect()
}

/// The parts of `%[flags][width][.precision]letter`.
struct Format<'a> {
    before: &'a str,
    minus: bool,
    zero: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
    letter: char,
    after: &'a str,
}

impl<'a> Format<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        const WIDTH_MAX: usize = 200;
        let (before, rest) = text.split_once('%')?;
        let flags = rest.find(|c| !"-+0".contains(c))?;
        let (flags, rest) = rest.split_at(flags);
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (width, rest) = rest.split_at(end);
        let (precision, rest) = match rest.strip_prefix('.') {
            Some(rest) => {
                let end = rest.find(|c: char| !c.is_ascii_digit())?;
                let (digits, rest) = rest.split_at(end);
                (
                    Some(if digits.is_empty() {
                        0
                    } else {
                        digits.parse().ok()?
                    }),
                    rest,
                )
            }
            None => (None, rest),
        };
        let rest = rest.trim_start_matches('l');
        let letter = rest.chars().next()?;
        let after = rest.get(letter.len_utf8()..)?;
        let width: usize = if width.is_empty() {
            0
        } else {
            width.parse().ok()?
        };
        (width <= WIDTH_MAX && precision.is_none_or(|p| p <= WIDTH_MAX) && !after.contains('%'))
            .then_some(Self {
                before,
                minus: flags.contains('-'),
                zero: flags.contains('0'),
                plus: flags.contains('+'),
                width,
                precision,
                letter,
                after,
            })
    }

    fn pad(&self, negative: bool, digits: &str) -> String {
        let sign = match (negative, self.plus) {
            (true, _) => "-",
            (false, true) => "+",
            (false, false) => "",
        };
        let fill = self.width.saturating_sub(sign.len() + digits.len());
        let (before, after) = (self.before, self.after);
        if self.minus {
            format!("{before}{sign}{digits}{}{after}", " ".repeat(fill))
        } else if self.zero {
            format!("{before}{sign}{}{digits}{after}", "0".repeat(fill))
        } else {
            format!("{before}{}{sign}{digits}{after}", " ".repeat(fill))
        }
    }
}

fn format_int(number: i64, format: &str) -> Option<String> {
    let format = Format::parse(format)?;
    let size = number.unsigned_abs();
    let (negative, mut digits) = match format.letter {
        'd' | 'i' => (number < 0, size.to_string()),
        'u' => (false, number.cast_unsigned().to_string()),
        'x' => (false, format!("{number:x}")),
        'X' => (false, format!("{number:X}")),
        'o' => (false, format!("{number:o}")),
        _ => return None,
    };
    if let Some(precision) = format.precision {
        digits.insert_str(0, &"0".repeat(precision.saturating_sub(digits.len())));
    }
    Some(format.pad(negative, &digits))
}

fn format_real(number: Number, format: Option<&str>) -> Option<String> {
    let value = number.as_f64();
    let Some(format) = format else {
        return Some(format!("{value}"));
    };
    let format = Format::parse(format)?;
    match format.letter {
        'f' | 'F' => {
            let precision = format.precision.unwrap_or(6);
            let digits = format!("{:.precision$}", value.abs());
            Some(format.pad(value.is_sign_negative(), &digits))
        }
        _ => None,
    }
}
