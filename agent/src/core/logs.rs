//! How large a task's stdout and stderr may grow before they are put aside, and how many of those
//! are kept.
//!
//! The agent's settings apply unless the task's environment says otherwise, by the variables of
//! Mesos' `LogrotateContainerLogger` (Mesos, `logging.md`): `CONTAINER_LOGGER_MAX_STDOUT_SIZE`
//! (`10MB`; `0B` for no bound) and `CONTAINER_LOGGER_LOGROTATE_STDOUT_OPTIONS` (`rotate 9`), and
//! the same for STDERR.

/// The least bound, as in Mesos: a page.
const SIZE_MIN: u64 = 4096;
/// The most files to keep of each; each is renamed at every rotation.
const FILES_MAX: u32 = 1000;

/// The bound of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBound {
    /// Bytes after which `stdout` becomes `stdout.1`; `None`: it grows as it will.
    pub size_max: Option<u64>,
    /// How many files are kept beside the current one.
    pub files_max: u32,
}

/// The bounds of both streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// Of stdout.
    pub stdout: LogBound,
    /// Of stderr.
    pub stderr: LogBound,
}

impl LogBounds {
    /// Whether anything is bounded.
    pub const fn are_set(&self) -> bool {
        self.stdout.size_max.is_some() || self.stderr.size_max.is_some()
    }
}

/// The bounds of a task with this environment.
pub(super) fn bounds(
    default: LogBound,
    environment: &[(String, String)],
) -> Result<LogBounds, String> {
    let get = |name: &str| {
        let found = environment.iter().rev().find(|(set, _)| set == name);
        found.map(|(_, value)| value.as_str())
    };
    let bound = |stream: &str| -> Result<LogBound, String> {
        let mut bound = default;
        let name = format!("CONTAINER_LOGGER_MAX_{stream}_SIZE");
        if let Some(text) = get(&name) {
            bound.size_max = size(text).map_err(|why| format!("{name} is {text:?}, {why}"))?;
        }
        let name = format!("CONTAINER_LOGGER_LOGROTATE_{stream}_OPTIONS");
        if let Some(text) = get(&name) {
            bound.files_max = files(text).ok_or_else(|| {
                format!(
                    "{name} is {text:?}, of which this agent understands only `rotate N` with N \
                     up to {FILES_MAX}; leave out the rest"
                )
            })?;
        }
        Ok(bound)
    };
    Ok(LogBounds {
        stdout: bound("STDOUT")?,
        stderr: bound("STDERR")?,
    })
}

/// Reads `10MB` as Mesos does, in steps of 1024; `None` for zero.
pub(crate) fn size(text: &str) -> Result<Option<u64>, String> {
    let wrong = "which is no size; write it like 512KB, 10MB or 1GB";
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| wrong.to_owned())?;
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "B" => 1,
        "KB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return Err(wrong.to_owned()),
    };
    let bytes = number.checked_mul(unit).ok_or_else(|| wrong.to_owned())?;
    match bytes {
        0 => Ok(None),
        1..SIZE_MIN => Err(format!(
            "which is too little; give at least {SIZE_MIN}B, or 0B for no bound"
        )),
        _ => Ok(Some(bytes)),
    }
}

fn files(options: &str) -> Option<u32> {
    let mut words = options.split_whitespace();
    match (words.next()?, words.next()?.parse().ok()?, words.next()) {
        ("rotate", n @ 0..=FILES_MAX, None) => Some(n),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: LogBound = LogBound {
        size_max: None,
        files_max: 9,
    };

    fn of(variables: &[(&str, &str)]) -> Result<LogBounds, String> {
        let environment: Vec<(String, String)> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        bounds(DEFAULT, &environment)
    }

    #[test]
    fn a_task_bounds_each_stream_as_in_mesos() {
        let bounds = of(&[
            ("CONTAINER_LOGGER_MAX_STDOUT_SIZE", "10MB"),
            ("CONTAINER_LOGGER_LOGROTATE_STDERR_OPTIONS", "rotate 3"),
        ])
        .unwrap();
        assert_eq!(bounds.stdout.size_max, Some(10 << 20));
        assert_eq!(bounds.stdout.files_max, 9);
        assert_eq!((bounds.stderr.size_max, bounds.stderr.files_max), (None, 3));
        assert!(bounds.are_set());
        assert!(
            !of(&[("CONTAINER_LOGGER_MAX_STDOUT_SIZE", "0B")])
                .unwrap()
                .are_set()
        );
    }

    #[test]
    fn what_is_no_bound_is_refused_by_name() {
        for (name, value) in [
            ("CONTAINER_LOGGER_MAX_STDOUT_SIZE", "10"),
            ("CONTAINER_LOGGER_MAX_STDOUT_SIZE", "MB"),
            ("CONTAINER_LOGGER_MAX_STDERR_SIZE", "1KB"),
            ("CONTAINER_LOGGER_MAX_STDERR_SIZE", "99999999999TB"),
            ("CONTAINER_LOGGER_LOGROTATE_STDOUT_OPTIONS", "rotate"),
            (
                "CONTAINER_LOGGER_LOGROTATE_STDOUT_OPTIONS",
                "rotate 5\ncompress",
            ),
            ("CONTAINER_LOGGER_LOGROTATE_STDOUT_OPTIONS", "rotate 1001"),
        ] {
            let error = of(&[(name, value)]).unwrap_err();
            assert!(
                error.contains(name) && error.contains(&format!("{value:?}")),
                "{error}"
            );
        }
    }
}
