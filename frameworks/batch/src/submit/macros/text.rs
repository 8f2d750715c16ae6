//! Texts cut into pieces, for `$SUBSTR`, `$BASENAME` and `$F`.

/// A path in its parts.
pub(super) struct Path<'a> {
    /// With the slash at its end, or empty.
    pub(super) folder: &'a str,
    pub(super) name: &'a str,
    /// With its dot, or empty.
    pub(super) extension: &'a str,
}

impl<'a> Path<'a> {
    pub(super) fn of(text: &'a str) -> Self {
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

/// Without the double quotes around it.
pub(super) fn unquote(text: &str) -> &str {
    let text = text.trim();
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    inner.unwrap_or(text)
}

/// Part of a text, by characters; numbers below 0 count from its end.
pub(super) fn substr(text: &str, start: i64, length: Option<i64>) -> String {
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
