//! What went wrong with a program: its command, the cause, and the end of its output.

use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// A program that could not be run, was ended, or failed.
///
/// Its text is the command in a form to paste into a shell, the cause, and the last lines that the program
/// wrote to its standard error.
#[derive(Debug)]
pub struct Failure {
    pub(crate) command: Box<str>,
    pub(crate) cause: Cause,
    pub(crate) tail: Box<[String]>,
}

impl Failure {
    /// The command, quoted for a shell. What it was given on its standard input is not part of it.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Why it failed.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// The last lines of the program's standard error: at most 20, each of at most 2000 bytes.
    #[must_use]
    pub fn tail(&self) -> &[String] {
        &self.tail
    }

    /// How the program ended, if it ran and ended by itself.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        match self.cause {
            Cause::Status(status) => Some(status),
            _ => None,
        }
    }
}

/// Why a program failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cause {
    /// There is no such program.
    NotFound {
        /// What to do about it.
        remedy: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The operating system does not let this user run the program.
    NotPermitted(io::Error),
    /// The program ended with a status other than 0.
    Status(ExitStatus),
    /// The program had not ended after this time, and was ended.
    Deadline(Duration),
    /// The call was cancelled, and the program was ended or never started.
    Cancelled,
    /// The program succeeded with an output that this crate does not understand. The text says which.
    NotUnderstood(String),
    /// The call was refused before anything ran. The text says what is wrong with which argument.
    Argument(String),
    /// What the caller gave to be read as the program's input, or to be written with its output, failed.
    Stream(io::Error),
    /// The operating system failed in another way to start the program or to talk to it.
    Io(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = &self.command;
        match &self.cause {
            Cause::NotFound { remedy, .. } => write!(f, "`{command}`: the program is missing; {remedy}")?,
            Cause::NotPermitted(_) => {
                write!(f, "`{command}`: may not be run by this user; make the program executable")?;
            }
            Cause::Status(status) => write!(f, "`{command}`: {status}")?,
            Cause::Deadline(limit) => {
                write!(f, "`{command}`: had not ended after {limit:?} and was stopped; allow it more time")?;
            }
            Cause::Cancelled => write!(f, "`{command}`: cancelled")?,
            Cause::NotUnderstood(what) => write!(f, "`{command}`: output not understood: {what}")?,
            Cause::Argument(what) => write!(f, "`{command}`: not run: {what}")?,
            Cause::Stream(_) => write!(f, "`{command}`: its input or output broke off")?,
            Cause::Io(_) => write!(f, "`{command}`: cannot run the program")?,
        }
        self.tail.iter().try_for_each(|line| write!(f, "\n  | {line}"))
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.cause {
            Cause::NotFound { source, .. } => Some(source),
            Cause::NotPermitted(source) | Cause::Stream(source) | Cause::Io(source) => Some(source),
            _ => None,
        }
    }
}
