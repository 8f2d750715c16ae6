//! The forms of `queue`: how many jobs, over which items, under which names.

use std::path::Path;

use super::SubmitError;
use super::arith::{self, Number};
use super::lines::shorten;
use super::macros::Macros;
use super::world::{Kind, World};

/// What one `queue` statement asks for: `count` jobs for each item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Jobs per item.
    pub count: u32,
    /// Names of the item's parts.
    pub variables: Vec<String>,
    /// The items, each with one value per variable.
    pub items: Vec<Vec<String>>,
}

impl Plan {
    /// How many jobs it makes.
    pub fn jobs(&self) -> usize {
        (self.count as usize).saturating_mul(self.items.len())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    In,
    From,
    Matching(Matching),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matching {
    Files,
    Dirs,
    Any,
}

/// Reads the arguments of `queue`.
///
/// # Errors
/// [`SubmitError`] on a malformed count, list, slice or pattern, or an unreadable file.
pub fn plan(
    line: usize,
    arguments: &str,
    items: Option<Vec<(usize, String)>>,
    macros: &mut Macros<'_>,
    world: &dyn World,
) -> Result<Plan, SubmitError> {
    macros.set_live(0, 0, 0, 0, &[], &[]);
    let arguments = macros.expand(arguments, line)?;
    let fail = |problem: String| SubmitError::new(line, problem);
    let Some((head, source, rest)) = split(&arguments) else {
        if items.is_some() {
            return Err(fail(
                "a list needs `in`, `from` or `matching` before it: `queue x in (a, b)`".to_owned(),
            ));
        }
        return Ok(Plan {
            count: count(&arguments).map_err(fail)?,
            variables: Vec::new(),
            items: vec![Vec::new()],
        });
    };
    let (number, names) = head_parts(head);
    let count = count(number).map_err(fail)?;
    let mut variables: Vec<String> = names
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if let Some(bad) = variables.iter().find(|name| !is_name(name)) {
        return Err(fail(format!(
            "`{}` is no name for a variable of `queue`",
            shorten(bad)
        )));
    }
    if variables.is_empty() {
        variables.push("Item".to_owned());
    }
    let (slice, rest) = take_slice(rest).map_err(fail)?;
    let listed = match source {
        Source::In => words(line, rest, items, macros)?,
        Source::From => rows(line, rest, items, macros, world)?,
        Source::Matching(kind) => {
            let patterns = words(line, rest, items, macros)?;
            matching(line, &patterns, kind, world)?
        }
    };
    if listed.len() > super::JOBS_MAX {
        return Err(fail(format!(
            "the list has {} items; at most {} are read",
            listed.len(),
            super::JOBS_MAX
        )));
    }
    let picked = slice.apply(listed);
    let items = picked
        .into_iter()
        .map(|item| divide(&item, variables.len()))
        .collect();
    Ok(Plan {
        count,
        variables,
        items,
    })
}

/// What stands before, at and after `in`, `from` or `matching`.
fn split(arguments: &str) -> Option<(&str, Source, &str)> {
    let mut at = 0;
    for word in arguments.split_inclusive(char::is_whitespace) {
        let begin = at;
        at += word.len();
        let bare = word.trim_end();
        let (bare, end) = match bare.find('[') {
            // `in[1:]` without a blank.
            Some(cut) => (bare.get(..cut)?, begin + cut),
            None => (bare, begin + bare.len()),
        };
        let source = match bare.to_ascii_lowercase().as_str() {
            "in" => Source::In,
            "from" => Source::From,
            "matching" => Source::Matching(Matching::Any),
            _ => continue,
        };
        let (head, rest) = (arguments.get(..begin)?, arguments.get(end..)?.trim_start());
        if source == Source::In || source == Source::From {
            return Some((head, source, rest));
        }
        for (word, kind) in [
            ("files", Matching::Files),
            ("dirs", Matching::Dirs),
            ("any", Matching::Any),
        ] {
            let Some(first) = rest.get(..word.len()) else {
                continue;
            };
            let after = rest.get(word.len()..)?;
            let alone = after
                .chars()
                .next()
                .is_none_or(|c| c.is_whitespace() || c == '[');
            if first.eq_ignore_ascii_case(word) && alone {
                return Some((head, Source::Matching(kind), after.trim_start()));
            }
        }
        return Some((head, source, rest));
    }
    None
}

/// The count and the names before the keyword: `2 x,y`.
fn head_parts(head: &str) -> (&str, &str) {
    let begins_name = |word: &str| {
        word.chars()
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
    };
    let mut at = 0;
    for word in head.split_inclusive(char::is_whitespace) {
        if begins_name(word.trim()) {
            break;
        }
        at += word.len();
    }
    head.split_at(at.min(head.len()))
}

fn is_name(name: &str) -> bool {
    let proper = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    name.chars().all(proper) && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn count(text: &str) -> Result<u32, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(1);
    }
    let Some(Number::Int(n)) = arith::evaluate(text) else {
        return Err(format!(
            "`{}` is no number of jobs; write `queue N`, `queue x in (a, b)` or \
             `queue x from FILE`",
            shorten(text)
        ));
    };
    let max = super::JOBS_MAX;
    u32::try_from(n)
        .ok()
        .filter(|n| *n as usize <= max)
        .ok_or_else(|| format!("{n} is no number of jobs; use 1 to {max}"))
}

/// Python's `[start:end:step]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Slice {
    start: Option<i64>,
    end: Option<i64>,
    step: Option<i64>,
    index: bool,
}

impl Slice {
    fn apply(self, items: Vec<String>) -> Vec<String> {
        let len = i64::try_from(items.len()).unwrap_or(i64::MAX);
        let at = |n: i64| if n < 0 { len.saturating_add(n) } else { n };
        let (start, end) = if self.index {
            let start = at(self.start.unwrap_or(0));
            (start, start.saturating_add(1))
        } else {
            (self.start.map_or(0, at), self.end.map_or(len, at))
        };
        let step = self.step.unwrap_or(1);
        let picked = |n: &i64| *n >= start && *n < end && (n - start.max(0)) % step == 0;
        (0..len)
            .zip(items)
            .filter(|(n, _)| picked(n))
            .map(|(_, item)| item)
            .collect()
    }
}

fn take_slice(rest: &str) -> Result<(Slice, &str), String> {
    let Some(inner) = rest.strip_prefix('[') else {
        return Ok((Slice::default(), rest));
    };
    let bad = || format!("`{}` is no slice; write [start:end:step]", shorten(rest));
    let (inner, after) = inner.split_once(']').ok_or_else(bad)?;
    let mut numbers = Vec::new();
    for part in inner.split(':') {
        let part = part.trim();
        numbers.push(if part.is_empty() {
            None
        } else {
            Some(part.parse::<i64>().map_err(|_| bad())?)
        });
    }
    let slice = match numbers.as_slice() {
        [index] => Slice {
            start: *index,
            index: true,
            ..Slice::default()
        },
        [start, end] => Slice {
            start: *start,
            end: *end,
            ..Slice::default()
        },
        [start, end, step] => Slice {
            start: *start,
            end: *end,
            step: *step,
            index: false,
        },
        _ => return Err(bad()),
    };
    if slice.step.is_some_and(|step| step < 1) {
        return Err(format!(
            "the slice [{inner}] steps backwards or stands still; use a step of at least 1"
        ));
    }
    Ok((slice, after.trim_start()))
}

/// Words between blanks and commas, from the line or from the list.
fn words(
    line: usize,
    rest: &str,
    items: Option<Vec<(usize, String)>>,
    macros: &Macros<'_>,
) -> Result<Vec<String>, SubmitError> {
    let mut out = Vec::new();
    let lines = items.unwrap_or_else(|| vec![(line, rest.to_owned())]);
    for (at, text) in lines {
        let text = macros.expand(&text, at)?;
        out.extend(
            text.split(|c: char| c == ',' || c.is_whitespace())
                .filter(|word| !word.is_empty())
                .map(str::to_owned),
        );
    }
    Ok(out)
}

/// Lines, from a file or from the list.
fn rows(
    line: usize,
    rest: &str,
    items: Option<Vec<(usize, String)>>,
    macros: &Macros<'_>,
    world: &dyn World,
) -> Result<Vec<String>, SubmitError> {
    let mut out = Vec::new();
    if let Some(items) = items {
        for (at, text) in items {
            let text = macros.expand(&text, at)?;
            if !text.trim().is_empty() {
                out.push(text.trim().to_owned());
            }
        }
        return Ok(out);
    }
    let name = rest.trim();
    if name.is_empty() {
        return Err(SubmitError::new(
            line,
            "`from` names no file; write `queue x from FILE` or a list in parentheses",
        ));
    }
    if name.ends_with('|') {
        return Err(SubmitError::new(
            line,
            "items from a command are not supported yet; write its output into a file and use \
             `queue ... from FILE`",
        ));
    }
    let path = world.folder().join(name);
    let text = world.read(&path).map_err(|error| {
        SubmitError::new(line, format!("cannot read {}: {error}", path.display()))
    })?;
    // As HTCondor reads item files: blank lines are none, `#` begins an item like any other.
    let rows = text.lines().map(str::trim).filter(|row| !row.is_empty());
    out.extend(rows.map(str::to_owned));
    Ok(out)
}

/// One item as values of `n` variables: cut at blanks and commas, the last takes the rest.
fn divide(item: &str, n: usize) -> Vec<String> {
    let mut out = Vec::with_capacity(n);
    let mut rest = item.trim();
    for _ in 1..n {
        let end = rest
            .find(|c: char| c == ',' || c.is_whitespace())
            .unwrap_or(rest.len());
        let (value, after) = rest.split_at(end);
        out.push(value.to_owned());
        rest = after.strip_prefix(',').unwrap_or(after).trim_start();
    }
    out.push(rest.to_owned());
    out
}

fn matching(
    line: usize,
    patterns: &[String],
    kind: Matching,
    world: &dyn World,
) -> Result<Vec<String>, SubmitError> {
    let mut out = Vec::new();
    for pattern in patterns {
        let mut found = Vec::new();
        walk(world, "", pattern, kind, &mut found).map_err(|error| {
            SubmitError::new(
                line,
                format!("cannot look for `{}`: {error}", shorten(pattern)),
            )
        })?;
        found.sort();
        for name in found {
            if !out.contains(&name) {
                out.push(name);
            }
        }
    }
    Ok(out)
}

/// Follows `pattern` below `base` one path component at a time.
fn walk(
    world: &dyn World,
    base: &str,
    pattern: &str,
    kind: Matching,
    found: &mut Vec<String>,
) -> std::io::Result<()> {
    let (part, more) = match pattern.split_once('/') {
        Some((part, more)) => (part, Some(more)),
        None => (pattern, None),
    };
    let place = |name: &str| world.folder().join(Path::new(base)).join(name);
    let candidates = if part.is_empty() || !part.contains(['*', '?', '[']) {
        vec![part.to_owned()]
    } else {
        let folder = world.folder().join(base);
        match world.list(&folder) {
            Ok(names) => names
                .into_iter()
                .filter(|name| !name.starts_with('.') || part.starts_with('.'))
                .filter(|name| glob(part, name))
                .collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Vec::new(),
            Err(error) => return Err(error),
        }
    };
    for name in candidates {
        match more {
            Some(more) => walk(world, &format!("{base}{name}/"), more, kind, found)?,
            None => match (world.kind(&place(&name)), kind) {
                (Some(Kind::File), Matching::Files | Matching::Any) => {
                    found.push(format!("{base}{name}"));
                }
                (Some(Kind::Directory), Matching::Dirs | Matching::Any) => {
                    found.push(format!("{base}{name}/"));
                }
                (Some(_) | None, _) => {}
            },
        }
    }
    Ok(())
}

/// Shell patterns: `*`, `?` and `[a-z]`; linear in both lengths but for one point of return.
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some(_) => {
                if let Some((ok, next)) = one(&pattern, p, name.get(n).copied())
                    && ok
                {
                    p = next;
                    n += 1;
                    continue;
                }
            }
            None => {}
        }
        let Some((at, from)) = star else {
            return false;
        };
        star = Some((at, from + 1));
        p = at + 1;
        n = from + 1;
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

/// Whether the pattern element at `p` takes `c`, and where the next one begins.
fn one(pattern: &[char], p: usize, c: Option<char>) -> Option<(bool, usize)> {
    let c = c?;
    match pattern.get(p)? {
        '?' => Some((true, p + 1)),
        '[' => {
            let negated = matches!(pattern.get(p + 1), Some('!' | '^'));
            let start = p + 1 + usize::from(negated);
            let close = (start + 1..pattern.len()).find(|i| pattern.get(*i) == Some(&']'));
            let Some(close) = close else {
                return Some((c == '[', p + 1));
            };
            let set = pattern.get(start..close)?;
            let mut hit = false;
            let mut i = 0;
            while let Some(low) = set.get(i) {
                match (set.get(i + 1), set.get(i + 2)) {
                    (Some('-'), Some(high)) => {
                        hit |= (*low..=*high).contains(&c);
                        i += 3;
                    }
                    _ => {
                        hit |= *low == c;
                        i += 1;
                    }
                }
            }
            Some((hit != negated, close + 1))
        }
        other => Some((*other == c, p + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_are_the_shells() {
        for (pattern, name, expected) in [
            ("*.dat", "a.dat", true),
            ("*.dat", "a.data", false),
            ("a?c", "abc", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("a*b*c", "aXbYbZc", true),
            ("", "", true),
            ("[", "[", true),
        ] {
            assert_eq!(glob(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn slices_are_pythons() {
        let items: Vec<String> = "a b c d e".split(' ').map(str::to_owned).collect();
        for (slice, expected) in [
            ("[::2]", "a c e"),
            ("[1:3]", "b c"),
            ("[-2:]", "d e"),
            ("[2]", "c"),
            ("[:-1]", "a b c d"),
            ("[1::3]", "b e"),
        ] {
            let (slice, _) = take_slice(slice).unwrap();
            assert_eq!(slice.apply(items.clone()).join(" "), expected);
        }
        assert!(take_slice("[::0]").is_err());
        assert!(take_slice("[a]").is_err());
    }
}
