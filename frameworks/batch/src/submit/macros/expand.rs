//! How `$(name)` and `$FUNCTION(...)` expand.

use super::arith::{self, Number};
use super::format::{format_int, format_real};
use super::text::{Path, substr, unquote};
use super::{DEPTH_MAX, EXPANSION_MAX, Macros, shorten};

impl Macros<'_> {
    pub(super) fn expand_at(&self, text: &str, depth: usize) -> Result<String, String> {
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
