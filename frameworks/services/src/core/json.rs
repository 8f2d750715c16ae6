//! Reading JSON that a user wrote: bounds, types with paths, and no field unread.

use serde_json::{Map, Value};

use super::answer::{Answer, Problems};

/// The largest body that is read, in bytes.
pub const BODY_LEN_MAX: usize = 1024 * 1024;
/// The deepest nesting that is read.
pub const DEPTH_MAX: usize = 64;

/// Reads a body.
///
/// # Errors
/// 400 in Marathon's form when it is no JSON, nests too deep or is too large.
pub fn read(body: &[u8]) -> Result<Value, Answer> {
    let refuse = |details: String| {
        let body = serde_json::json!({ "message": "Invalid JSON", "details": details });
        Err(Answer::json(400, body))
    };
    if body.len() > BODY_LEN_MAX {
        return refuse(format!(
            "the body has {} bytes, at most {BODY_LEN_MAX} are read",
            body.len()
        ));
    }
    // Checked before parsing, because the parser descends as it reads.
    let depth = depth(body);
    if depth > DEPTH_MAX {
        return refuse(format!(
            "the body nests {depth} levels deep, at most {DEPTH_MAX} are read"
        ));
    }
    match serde_json::from_slice(body) {
        Ok(value) => Ok(value),
        Err(error) if body.is_empty() => refuse(format!("the body is empty: {error}")),
        Err(error) => refuse(error.to_string()),
    }
}

/// How deep brackets nest outside of strings.
fn depth(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut text, mut escaped) = (0_usize, 0, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'[' | b'{' if !text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// What a value is, for people.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// One object being read, field by field.
#[derive(Debug)]
pub struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
    read: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which must be an object.
    pub fn of(path: impl Into<String>, value: &'a Value, problems: &mut Problems) -> Option<Self> {
        let path = path.into();
        match value {
            Value::Object(map) => Some(Self {
                path,
                map,
                read: Vec::new(),
            }),
            other => {
                let at = if path.is_empty() { "/" } else { &path };
                problems.shape(at, format!("expected an object, got {}", kind(other)));
                None
            }
        }
    }

    /// The path of one field.
    pub fn at(&self, key: &str) -> String {
        format!("{}/{key}", self.path)
    }

    /// A field as it is; `null` counts as absent.
    pub fn any(&mut self, key: &'static str) -> Option<&'a Value> {
        self.read.push(key);
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        problems: &mut Problems,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.any(key)?;
        let found = read(value);
        if found.is_none() {
            problems.shape(
                self.at(key),
                format!("expected {wanted}, got {}", kind(value)),
            );
        }
        found
    }

    /// A text.
    pub fn text(&mut self, key: &'static str, problems: &mut Problems) -> Option<String> {
        self.typed(key, "a string", problems, |v| v.as_str().map(str::to_owned))
    }

    /// A boolean.
    pub fn flag(&mut self, key: &'static str, problems: &mut Problems) -> Option<bool> {
        self.typed(key, "a boolean", problems, Value::as_bool)
    }

    /// A number.
    pub fn number(&mut self, key: &'static str, problems: &mut Problems) -> Option<f64> {
        self.typed(key, "a number", problems, Value::as_f64)
    }

    /// A whole number between `min` and `max`; `3.0` counts as 3.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the range is checked first and lies far below 2^53"
    )]
    pub fn whole(
        &mut self,
        key: &'static str,
        (min, max): (u64, u64),
        problems: &mut Problems,
    ) -> Option<u64> {
        let number = self.number(key, problems)?;
        if number.fract() != 0.0 {
            problems.shape(
                self.at(key),
                format!("expected a whole number, got {number}"),
            );
            return None;
        }
        if number < min as f64 || number > max as f64 {
            problems.rule(
                self.at(key),
                format!("must be between {min} and {max}, got {number}"),
            );
            return None;
        }
        Some(number as u64)
    }

    /// An array.
    pub fn list(&mut self, key: &'static str, problems: &mut Problems) -> Option<&'a Vec<Value>> {
        self.typed(key, "an array", problems, Value::as_array)
    }

    /// An array of texts.
    pub fn texts(&mut self, key: &'static str, problems: &mut Problems) -> Option<Vec<String>> {
        let list = self.list(key, problems)?;
        let mut texts = Vec::with_capacity(list.len());
        for (i, item) in list.iter().enumerate() {
            match item.as_str() {
                Some(text) => texts.push(text.to_owned()),
                None => problems.shape(
                    format!("{}({i})", self.at(key)),
                    format!("expected a string, got {}", kind(item)),
                ),
            }
        }
        Some(texts)
    }

    /// An object.
    pub fn object(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<&'a Map<String, Value>> {
        self.typed(key, "an object", problems, Value::as_object)
    }

    /// An object as fields of its own.
    pub fn inner(&mut self, key: &'static str, problems: &mut Problems) -> Option<Fields<'a>> {
        let value = self.any(key)?;
        Fields::of(self.at(key), value, problems)
    }

    /// Refuses `key` unless it is absent or `harmless`.
    pub fn unsupported(
        &mut self,
        key: &'static str,
        harmless: impl Fn(&Value) -> bool,
        sentence: &str,
        problems: &mut Problems,
    ) {
        if let Some(value) = self.any(key)
            && !harmless(value)
        {
            problems.rule(self.at(key), sentence);
        }
    }

    /// Reports every field that nobody read; `null` counts as absent here too.
    pub fn finish(self, problems: &mut Problems) {
        for (key, value) in self.map {
            if !value.is_null() && !self.read.contains(&key.as_str()) {
                let shown: String = key.chars().take(80).collect();
                problems.rule(
                    format!("{}/{shown}", self.path),
                    format!("{shown:?} is not a known field; remove it or correct its spelling"),
                );
            }
        }
    }
}

/// Whether a value is an empty array or object.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_nesting_is_refused_before_it_is_parsed() {
        let deep = "[".repeat(100_000);
        assert_eq!(read(deep.as_bytes()).unwrap_err().status, 400);
        let fine = format!("{}{}", "[".repeat(64), "]".repeat(64));
        assert!(read(fine.as_bytes()).is_ok());
        let over = format!("{}{}", "[".repeat(65), "]".repeat(65));
        assert_eq!(read(over.as_bytes()).unwrap_err().status, 400);
        assert!(read(format!("\"{}\\\"[\"", "[".repeat(500)).as_bytes()).is_ok());
    }

    #[test]
    fn a_syntax_error_is_400_with_the_parsers_text() {
        for body in [
            &b""[..],
            b"{",
            b"{\"a\":NaN}",
            b"{\"a\":1e999}",
            b"\xff",
            b"{}x",
        ] {
            let answer = read(body).unwrap_err();
            assert_eq!(answer.status, 400);
            let body = answer.body.unwrap();
            assert_eq!(body["message"], "Invalid JSON");
            assert!(body["details"].is_string());
        }
    }

    #[test]
    fn a_huge_body_is_refused() {
        assert_eq!(read(&vec![b' '; BODY_LEN_MAX + 1]).unwrap_err().status, 400);
    }
}
