//! Both syntaxes of `arguments` and `environment`.
//!
//! Old: words between blanks, `\"` is a quote. New: the whole value in double quotes, single
//! quotes group, a doubled quote of either kind stands for itself.

/// The words of an `arguments` value.
///
/// # Errors
/// What is wrong with it.
pub fn arguments(value: &str) -> Result<Vec<String>, String> {
    if let Some(inner) = new_syntax(value)? {
        return words(&inner);
    }
    old_words(value)
}

/// The variables of an `environment` value, in order.
///
/// # Errors
/// What is wrong with it.
pub fn environment(value: &str) -> Result<Vec<(String, String)>, String> {
    let entries = match new_syntax(value)? {
        Some(inner) => words(&inner)?,
        None => value
            .split(';')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
            .map(str::to_owned)
            .collect(),
    };
    let pair = |entry: String| match entry.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!(
            "{entry:?} is no variable; write NAME=value, several of them in the form \
             \"A=1 B='two words'\""
        )),
    };
    entries.into_iter().map(pair).collect()
}

/// What stands between the outer double quotes; `None` for the old syntax.
fn new_syntax(value: &str) -> Result<Option<String>, String> {
    let Some(rest) = value.strip_prefix('"') else {
        return Ok(None);
    };
    let mut inner = String::new();
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        if c != '"' {
            inner.push(c);
            continue;
        }
        if chars.as_str().starts_with('"') {
            chars.next();
            inner.push('"');
            continue;
        }
        let after = chars.as_str().trim();
        if after.is_empty() {
            return Ok(Some(inner));
        }
        return Err(format!(
            "{after:?} follows the closing double quote; write \"\" for a double quote inside"
        ));
    }
    Err("the double quote at its beginning is never closed".to_owned())
}

/// Words between blanks, grouped by single quotes.
fn words(inner: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c.is_whitespace() {
            out.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        if c != '\'' {
            word.push(c);
            continue;
        }
        loop {
            match chars.next() {
                Some('\'') if chars.as_str().starts_with('\'') => {
                    chars.next();
                    word.push('\'');
                }
                Some('\'') => break,
                Some(c) => word.push(c),
                None => {
                    return Err(
                        "a single quote is never closed; write '' for a quote inside quotes"
                            .to_owned(),
                    );
                }
            }
        }
    }
    out.extend(word);
    Ok(out)
}

fn old_words(value: &str) -> Result<Vec<String>, String> {
    let unescaped = value.replace("\\\"", "\u{0}");
    if unescaped.contains('"') {
        return Err(
            "it holds an unescaped double quote; put the whole value into double quotes and \
             double the inner ones, or write \\\""
                .to_owned(),
        );
    }
    Ok(unescaped
        .split_whitespace()
        .map(|word| word.replace('\u{0}', "\""))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_group_and_double() {
        assert_eq!(
            arguments(r#""a 'b c' d''e ""q"" 'it''s' ''""#).unwrap(),
            ["a", "b c", "de", "\"q\"", "it's", ""]
        );
        assert_eq!(arguments(r#"a b\"c 'd'"#).unwrap(), ["a", "b\"c", "'d'"]);
        assert!(arguments(r#"a "b"#).is_err());
        assert!(arguments(r#""a"#).is_err());
        assert!(arguments(r#""a 'b""#).is_err());
        assert!(arguments(r#""a" b"#).is_err());
    }

    #[test]
    fn environments_come_in_two_syntaxes() {
        let pairs = |value: &str| {
            let pairs = environment(value).unwrap();
            pairs
                .into_iter()
                .map(|(n, v)| format!("{n}={v}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(pairs("A=1;B=2 3;"), ["A=1", "B=2 3"]);
        assert_eq!(pairs(r#""A=1 B='x y'""#), ["A=1", "B=x y"]);
        assert!(environment("A").is_err());
        assert!(environment("=1").is_err());
    }
}
