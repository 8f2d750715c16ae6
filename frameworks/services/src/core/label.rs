//! Label selectors of `GET /v2/apps?label=…`.

use std::collections::BTreeMap;

enum Test {
    Exists,
    Is(String),
    IsNot(String),
    In(Vec<String>),
    NotIn(Vec<String>),
}

/// Selectors that must all hold.
pub struct Selector(Vec<(String, Test)>);

impl std::fmt::Debug for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Selector").field(&self.0.len()).finish()
    }
}

struct Reader<'a>(std::iter::Peekable<std::str::Chars<'a>>);

impl Reader<'_> {
    fn space(&mut self) {
        while self.0.next_if(|c| c.is_whitespace()).is_some() {}
    }

    fn eat(&mut self, wanted: char) -> Option<()> {
        self.space();
        self.0.next_if_eq(&wanted).map(|_| ())
    }

    fn term(&mut self) -> Option<String> {
        self.space();
        let mut term = String::new();
        while let Some(c) = self.0.peek().copied() {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                term.push(c);
                self.0.next();
            } else if c == '\\' {
                self.0.next();
                term.push(self.0.next()?);
            } else {
                break;
            }
        }
        (!term.is_empty()).then_some(term)
    }

    fn list(&mut self) -> Option<Vec<String>> {
        self.eat('(')?;
        let mut terms = vec![self.term()?];
        while self.eat(',').is_some() {
            terms.push(self.term()?);
        }
        self.eat(')')?;
        Some(terms)
    }

    fn one(&mut self) -> Option<(String, Test)> {
        let name = self.term()?;
        self.space();
        let test = match self.0.peek() {
            Some('=') => {
                self.0.next();
                self.0.next_if_eq(&'=')?;
                Test::Is(self.term()?)
            }
            Some('!') => {
                self.0.next();
                self.0.next_if_eq(&'=')?;
                Test::IsNot(self.term()?)
            }
            Some(',') | None => Test::Exists,
            Some(_) => match self.term()?.as_str() {
                "in" => Test::In(self.list()?),
                "notin" => Test::NotIn(self.list()?),
                _ => return None,
            },
        };
        Some((name, test))
    }
}

impl Selector {
    /// Reads selectors joined by commas.
    ///
    /// # Errors
    /// A sentence with the text that could not be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "Can not parse label selector {text:?}; write for example `env==prod, tier in (web, db)`"
            )
        };
        let mut reader = Reader(text.chars().peekable());
        let mut all = vec![reader.one().ok_or_else(refuse)?];
        while reader.eat(',').is_some() {
            all.push(reader.one().ok_or_else(refuse)?);
        }
        reader.space();
        if reader.0.next().is_some() {
            return Err(refuse());
        }
        Ok(Self(all))
    }

    /// Whether these labels satisfy every selector.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(name, test)| {
            labels.get(name).is_some_and(|value| match test {
                Test::Exists => true,
                Test::Is(wanted) => value == wanted,
                Test::IsNot(other) => value != other,
                Test::In(some) => some.contains(value),
                Test::NotIn(some) => !some.contains(value),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_follow_marathons_grammar() {
        let labels: BTreeMap<String, String> = [("env", "prod"), ("a b", "x")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        for (text, wanted) in [
            ("env", true),
            ("env==prod", true),
            (" env == prod , env", true),
            ("env != dev", true),
            ("tier != dev", false),
            ("env in (dev, prod)", true),
            ("env notin (dev,prod)", false),
            ("tier", false),
            ("a\\ b==x", true),
        ] {
            assert_eq!(
                Selector::parse(text).unwrap().matches(&labels),
                wanted,
                "{text}"
            );
        }
        for text in [
            "", "==x", "env=", "env=prod", "env in", "env in (", "env x", "env,,",
        ] {
            assert!(Selector::parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
