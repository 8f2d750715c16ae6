//! A submit file as numbered statements; what they mean is left to others.

use super::SubmitError;

/// `name = value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assign {
    /// Where it begins, counted from 1.
    pub line: usize,
    /// As written, without `+`; custom attributes begin with `MY.`.
    pub name: String,
    /// As written, trimmed.
    pub value: String,
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// `name = value`.
    Assign(Assign),
    /// `queue ...`.
    Queue {
        /// Where it begins, counted from 1.
        line: usize,
        /// What follows the word; up to an opening `(` when `items` is there.
        arguments: String,
        /// The lines between `(` and `)`, with their numbers.
        items: Option<Vec<(usize, String)>>,
    },
}

impl Statement {
    /// Where it begins, counted from 1.
    pub fn line(&self) -> usize {
        match self {
            Self::Assign(assign) => assign.line,
            Self::Queue { line, .. } => *line,
        }
    }
}

/// Splits `text` into statements.
///
/// # Errors
/// [`SubmitError`] on a line that is none, or that this parser does not do yet.
pub fn read(text: &str) -> Result<Vec<Statement>, SubmitError> {
    let mut lines = Lines::new(text);
    let mut out = Vec::new();
    while let Some((number, line)) = lines.next_logical() {
        if let Some(rest) = keyword(&line, "queue") {
            out.push(queue(number, rest, &mut lines)?);
        } else {
            out.push(Statement::Assign(assignment(number, &line)?));
        }
    }
    Ok(out)
}

/// What follows `word` when the line begins with it, as a word of its own.
fn keyword<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let head = line.get(..word.len())?;
    let rest = line.get(word.len()..)?;
    let alone = rest
        .chars()
        .next()
        .is_none_or(|c| c.is_whitespace() || c == '(');
    // `queue = x` would be a macro called queue, which HTCondor does not allow either.
    (head.eq_ignore_ascii_case(word) && alone).then(|| rest.trim())
}

fn queue(number: usize, rest: &str, lines: &mut Lines<'_>) -> Result<Statement, SubmitError> {
    let Some(open) = opening(rest) else {
        return Ok(Statement::Queue {
            line: number,
            arguments: rest.to_owned(),
            items: None,
        });
    };
    let (head, tail) = rest.split_at(open);
    let tail = tail.get(1..).unwrap_or("").trim();
    let mut items = Vec::new();
    let done = |items| {
        Ok(Statement::Queue {
            line: number,
            arguments: head.trim().to_owned(),
            items: Some(items),
        })
    };
    if let Some(inner) = tail.strip_suffix(')') {
        items.push((number, inner.trim().to_owned()));
        return done(items);
    }
    if !tail.is_empty() {
        items.push((number, tail.to_owned()));
    }
    while let Some((at, line)) = lines.next_raw() {
        let line = line.trim();
        if line == ")" {
            return done(items);
        }
        if line.starts_with('#') {
            continue;
        }
        if let Some(last) = line.strip_suffix(')')
            && !last.contains('(')
        {
            items.push((at, last.trim().to_owned()));
            return done(items);
        }
        items.push((at, line.to_owned()));
    }
    Err(SubmitError::new(
        number,
        "the list that `queue` opens with `(` is never closed; end it with a line `)`",
    ))
}

/// Where the item list opens: a `(` that follows `in`, `from` or `matching` and is not part of a
/// macro.
fn opening(rest: &str) -> Option<usize> {
    let mut before = None;
    for (at, c) in rest.char_indices() {
        if c == '(' && before != Some('$') {
            let head = rest.get(..at)?.to_ascii_lowercase();
            let words = ["in", "from", "matching", "files", "dirs", "any"];
            let bare = head.trim_end();
            let bare = if bare.ends_with(']') {
                bare.get(..bare.rfind('[')?)?.trim_end()
            } else {
                bare
            };
            let last = bare.rsplit(|c: char| c.is_whitespace()).next()?;
            return words.contains(&last).then_some(at);
        }
        before = Some(c);
    }
    None
}

fn assignment(number: usize, line: &str) -> Result<Assign, SubmitError> {
    let word = line
        .split(|c: char| c.is_whitespace() || matches!(c, '=' | ':'))
        .next()
        .unwrap_or("");
    if ["if", "elif", "else", "endif", "include"]
        .iter()
        .any(|w| word.eq_ignore_ascii_case(w))
        && !line
            .get(word.len()..)
            .is_some_and(|rest| rest.trim_start().starts_with('='))
    {
        let problem = format!(
            "`{}` is not supported yet; write the lines that shall count directly",
            word.to_ascii_lowercase()
        );
        return Err(SubmitError::new(number, problem));
    }
    let Some((name, value)) = line.split_once('=') else {
        let problem = format!(
            "`{}` is neither `name = value` nor `queue ...`",
            shorten(line)
        );
        return Err(SubmitError::new(number, problem));
    };
    let name = name.trim();
    if name.ends_with('@') {
        let problem = "values over several lines (`name @=tag`) are not supported yet; continue \
                       lines with a backslash at their end";
        return Err(SubmitError::new(number, problem));
    }
    let (custom, bare) = match name.strip_prefix('+') {
        Some(bare) => (true, bare.trim()),
        None => match name.split_once('.') {
            Some((my, bare)) if my.eq_ignore_ascii_case("my") => (true, bare),
            _ => (false, name),
        },
    };
    let proper = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if bare.is_empty() || !bare.chars().all(proper) {
        let problem = format!(
            "`{}` is no name; names are made of letters, digits, `_` and `.`",
            shorten(name)
        );
        return Err(SubmitError::new(number, problem));
    }
    Ok(Assign {
        line: number,
        name: if custom {
            format!("MY.{bare}")
        } else {
            bare.to_owned()
        },
        value: value.trim().to_owned(),
    })
}

/// At most 60 characters of a line, for messages; control characters become spaces.
pub(crate) fn shorten(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut out: String = text.chars().take(60).map(clean).collect();
    if text.chars().nth(60).is_some() {
        out.push('…');
    }
    out
}

struct Lines<'a> {
    rest: std::iter::Enumerate<std::str::Lines<'a>>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            rest: text.lines().enumerate(),
        }
    }

    /// One line as it is.
    fn next_raw(&mut self) -> Option<(usize, &'a str)> {
        self.rest.next().map(|(at, line)| (at + 1, line))
    }

    /// The next line that says something, with its continuations.
    fn next_logical(&mut self) -> Option<(usize, String)> {
        loop {
            let (number, line) = self.next_raw()?;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut whole = line.to_owned();
            while let Some(head) = whole.strip_suffix('\\') {
                whole = head.to_owned();
                let Some((_, more)) = self.next_raw() else {
                    break;
                };
                let more = more.trim();
                // A comment between continued lines is left out, as HTCondor does.
                if more.starts_with('#') {
                    whole.push('\\');
                    continue;
                }
                whole.push_str(more);
            }
            let whole = whole.trim();
            if !whole.is_empty() {
                return Some((number, whole.to_owned()));
            }
        }
    }
}
