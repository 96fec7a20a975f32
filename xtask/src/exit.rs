//! Exit codes, and how an error carries the one it must end with.

use std::fmt;
use std::io::ErrorKind;

/// How the program ends; part of the contract with CI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything asked for was done; 0.
    Passed,
    /// At least one test failed; 1.
    TestsFailed,
    /// Wrong usage or configuration; 2.
    Usage,
    /// The environment lacks something; 3.
    Environment,
    /// A deployment cannot become ready; 4.
    NotReady,
    /// Something could not be cleaned up; 5.
    Leftovers,
    /// Ended by SIGINT (130) or SIGTERM (143).
    Interrupted(Signal),
}

/// A signal that ends a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// What CI systems and init send.
    Terminate,
}

impl Exit {
    /// The process' exit status.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Exit::Passed => 0,
            Exit::TestsFailed => 1,
            Exit::Usage => 2,
            Exit::Environment => 3,
            Exit::NotReady => 4,
            Exit::Leftovers => 5,
            Exit::Interrupted(Signal::Interrupt) => 130,
            Exit::Interrupted(Signal::Terminate) => 143,
        }
    }

    /// The code that `error` was given nearest to where it arose.
    ///
    /// An error nobody classified is one of the environment: the tests did not fail and the user typed
    /// nothing wrong.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Exit {
        error.chain().filter_map(|e| e.downcast_ref::<Coded>()).last().map_or(Exit::Environment, |c| c.exit)
    }
}

/// An error with its exit code; shows nothing of its own.
struct Coded {
    exit: Exit,
    error: anyhow::Error,
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl fmt::Debug for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Coded {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Gives errors their exit code.
pub trait ExitWith<T> {
    /// The error, if any, ends the program with `exit` unless something below it was classified already.
    ///
    /// # Errors
    /// The same error.
    fn or_exit(self, exit: Exit) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> ExitWith<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> anyhow::Result<T> {
        self.map_err(|error| coded(exit, error.into()))
    }
}

/// An error that ends the program with `exit`.
#[must_use]
pub fn coded(exit: Exit, error: anyhow::Error) -> anyhow::Error {
    let nearest = error.chain().filter_map(|e| e.downcast_ref::<Coded>()).last();
    let exit = nearest.map_or(exit, |nearest| nearest.exit);
    anyhow::Error::new(Coded { exit, error })
}

/// Returns early with an error of the given exit code.
#[macro_export]
macro_rules! fail {
    ($exit:expr, $($message:tt)*) => {
        return Err($crate::exit::coded($exit, anyhow::anyhow!($($message)*)))
    };
}

/// The whole chain as a person reads it: the first line what failed, each cause on a line of its own.
#[must_use]
pub fn message(error: &anyhow::Error) -> String {
    let mut lines: Vec<String> = Vec::new();
    for cause in error.chain() {
        // The library's own text shows the whole answer twice, as a person and as a debugger would read it.
        let text = match cause.downcast_ref::<kube::Error>() {
            Some(kube::Error::Api(status)) => {
                lines.push(status.message.clone());
                break;
            }
            _ => cause.to_string(),
        };
        // Libraries often repeat their source in their own text.
        if lines.last().is_none_or(|last| !last.contains(&text)) {
            lines.push(text);
        }
    }
    let full = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::StorageFull)
    };
    let mut text = lines.join("\n  caused by: ");
    if error.chain().any(full) {
        text.push_str(
            "\n  the disk with that path is full; make room (`docker system df` says what Docker holds)",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn the_classification_nearest_to_the_cause_wins() {
        let error = Err::<(), _>(anyhow!("no such chart"))
            .or_exit(Exit::Usage)
            .context("install release dagster")
            .or_exit(Exit::NotReady)
            .unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert_eq!(message(&error), "install release dagster\n  caused by: no such chart");
    }

    #[test]
    fn of_a_full_disk_it_is_said_what_to_do() {
        let error =
            anyhow::Error::new(std::io::Error::from(ErrorKind::StorageFull)).context("write /x/report.json");
        let text = message(&error);
        assert!(text.starts_with("write /x/report.json\n") && text.contains("make room"), "{text}");
    }

    #[test]
    fn the_api_servers_own_words_are_shown() {
        let status = kube::core::Status::failure("namespaces \"x\" not found", "NotFound").with_code(404);
        let error = anyhow::Error::new(kube::Error::Api(status.boxed())).context("delete the namespace x");
        assert_eq!(message(&error), "delete the namespace x\n  caused by: namespaces \"x\" not found");
    }

    #[test]
    fn classifying_twice_in_a_row_keeps_the_first() {
        let error = coded(Exit::NotReady, coded(Exit::Usage, anyhow!("x")));
        assert_eq!(Exit::of(&error), Exit::Usage);
    }

    #[test]
    fn an_unclassified_error_is_the_environments() {
        assert_eq!(Exit::of(&anyhow!("disk on fire")), Exit::Environment);
    }

    #[test]
    fn signals_keep_their_conventional_codes() {
        assert_eq!(Exit::Interrupted(Signal::Interrupt).code(), 130);
        assert_eq!(Exit::Interrupted(Signal::Terminate).code(), 143);
    }
}
