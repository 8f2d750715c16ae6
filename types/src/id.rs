//! Ids as newtypes: short to print, cheap to clone, impossible to mix up.

use std::fmt;
use std::sync::Arc;

/// The longest id that is accepted, in bytes; sandbox paths are made of them.
pub const LEN_MAX: usize = 255;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// There was nothing.
    #[error("{kind} id is empty; give it at least one character")]
    Empty {
        /// Which kind of id.
        kind: &'static str,
    },
    /// More than [`LEN_MAX`] bytes.
    #[error("{kind} id has {len} bytes but at most {LEN_MAX} are allowed; shorten it")]
    TooLong {
        /// Which kind of id.
        kind: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// `.` and `..` name directories.
    #[error("{kind} id {id:?} names a directory; choose another")]
    Reserved {
        /// Which kind of id.
        kind: &'static str,
        /// The id.
        id: String,
    },
    /// A slash, a space or a control character.
    #[error(
        "{kind} id {id:?} holds {found:?}; slashes, whitespace and control characters are not \
         allowed, because ids become file names"
    )]
    Forbidden {
        /// Which kind of id.
        kind: &'static str,
        /// The id.
        id: String,
        /// The first character that may not be there.
        found: char,
    },
}

fn check(kind: &'static str, id: &str) -> Result<(), IdError> {
    if id.is_empty() {
        return Err(IdError::Empty { kind });
    }
    if id.len() > LEN_MAX {
        return Err(IdError::TooLong {
            kind,
            len: id.len(),
        });
    }
    if id == "." || id == ".." {
        return Err(IdError::Reserved {
            kind,
            id: id.to_owned(),
        });
    }
    match id
        .chars()
        .find(|c| *c == '/' || c.is_control() || c.is_whitespace())
    {
        Some(found) => Err(IdError::Forbidden {
            kind,
            id: id.to_owned(),
            found,
        }),
        None => Ok(()),
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps an id from outside.
            ///
            /// # Errors
            /// [`IdError`] when it is empty, longer than [`LEN_MAX`] bytes, `.` or `..`, or
            /// holds a slash, whitespace or a control character (Mesos' rules for ids).
            pub fn parse(id: &str) -> Result<Self, IdError> {
                check($kind, id)?;
                Ok(Self(id.into()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(id: &str) -> Result<Self, IdError> {
                Self::parse(id)
            }
        }
    };
}

id_type! {
    /// Given by the master at an agent's registration; kept across restarts.
    AgentId, "agent"
}
id_type! {
    /// Given by the master at a framework's first subscription; kept across failovers.
    FrameworkId, "framework"
}
id_type! {
    /// Chosen by the framework; unique among its live tasks.
    TaskId, "task"
}
id_type! {
    /// Chosen by the framework; unique among its live executors on one agent.
    ExecutorId, "executor"
}
id_type! {
    /// Given by the master to each offer; never used twice in one master run.
    OfferId, "offer"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_leave_a_directory_are_refused() {
        for id in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a\nb",
            "a\0b",
            &"x".repeat(256),
        ] {
            assert!(TaskId::parse(id).is_err(), "{id:?} was accepted");
        }
        for id in ["web.1", "..a", "größe", "a-b_c.d"] {
            assert!(TaskId::parse(id).is_ok(), "{id:?} was refused");
        }
    }
}
