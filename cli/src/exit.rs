//! Exit codes and the one place where an error becomes text.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | it was tried and failed |
//! | 2 | wrong usage: a flag, an argument or an input file; nothing was done |
//! | 3 | no such thing |
//! | 4 | master, agent or framework cannot be reached |
//!
//! `allot run`, `allot task exec` and `allot task attach` end with the exit code of what ran
//! instead (128 + N after signal N), and with 200 plus the code above when they fail themselves.

use std::process::ExitCode;

use crate::output;

/// Errors that have an exit code of their own; every other error exits with 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// A flag, an argument or an input file is wrong and nothing was done.
    #[error("{0}")]
    Usage(String),
    /// What was named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Nobody answers; the text has the address, the cause and what to do.
    #[error("{0}")]
    Unreachable(String),
}

impl Failure {
    /// The exit code.
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Unreachable(_) => 4,
        }
    }
}

/// An exit status as the system counts it.
pub(crate) fn status(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

/// Failures of commands that pass on the code of another one end with this plus the code that any
/// other command would have ended with, so that they cannot be taken for the other's codes.
const OWN_FAILURE: u8 = 200;
/// What a shell reports after a closed pipe.
const PIPE_CLOSED: u8 = 128 + 13;

/// How to exit with the code of another command, or with why there is none.
pub(crate) fn of_command(ended: anyhow::Result<u8>) -> ExitCode {
    let error = match ended {
        Ok(code) => return ExitCode::from(code),
        Err(error) if is_closed_pipe(&error) => return ExitCode::from(PIPE_CLOSED),
        Err(error) => error,
    };
    output::complain(&format!("{error:#}"));
    ExitCode::from(OWN_FAILURE + code_of(&error))
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

fn code_of(error: &anyhow::Error) -> u8 {
    let failure = error.chain().find_map(|e| e.downcast_ref::<Failure>());
    failure.map_or(1, Failure::code)
}

/// Prints the error chain as one line on stderr and says which code to exit with.
///
/// A reader that closed the pipe (`allot task list | head`) wants no message.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    output::complain(&format!("{error:#}"));
    ExitCode::from(code_of(error))
}
