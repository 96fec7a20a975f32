//! The ledger on disk: what the reaper has to know when the run itself cannot tell any more.
//!
//! Each line is the whole of it as of one moment, and the last whole line counts: so one that was cut by a crash costs
//! nothing, because what it announced had not been made.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cleanup::Policy;
use crate::ledger::Made;

/// Its name in a run's folder.
pub const FILE: &str = "journal.jsonl";

/// What is known at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was written.
    pub at: Timestamp,
    /// By what the end is decided.
    pub policy: Policy,
    /// The programs that remove things, once they were found.
    #[serde(default)]
    pub tools: Option<Tools>,
    /// What was made.
    pub made: Made,
    /// Whether the end was cared for: nobody else has anything to do.
    #[serde(default)]
    pub done: bool,
}

/// The programs that remove things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    /// kind.
    pub kind: Utf8PathBuf,
    /// helm.
    pub helm: Utf8PathBuf,
}

/// The journal of a run under way.
#[derive(Debug)]
pub struct Journal {
    /// What the next line will say.
    pub(crate) entry: Entry,
    file: File,
}

impl Journal {
    /// Begins the journal of a run in the run's folder.
    ///
    /// # Errors
    /// The folder or the file cannot be written.
    pub fn begin(policy: Policy) -> Result<Journal> {
        let folder = &policy.output;
        std::fs::create_dir_all(folder).with_context(|| format!("make the folder {folder}"))?;
        let path = folder.join(FILE);
        // That of an earlier run into the same folder says nothing of this one, but its reaper may still read it.
        let _ = std::fs::remove_file(&path);
        let file = File::options().append(true).create_new(true).open(&path);
        let file = file.with_context(|| format!("write {path}"))?;
        let entry = Entry { at: Timestamp::now(), policy, tools: None, made: Made::default(), done: false };
        Ok(Journal { entry, file })
    }

    /// Appends what is known, by one call of the system, so that a killed run leaves all of it or nothing.
    pub(crate) fn append(&mut self) {
        self.entry.at = Timestamp::now();
        let Ok(mut line) = serde_json::to_string(&self.entry) else { return };
        line.push('\n');
        // A full disk ends the run elsewhere; what is not in the journal is removed when its lease is over.
        let _ = self.file.write_all(line.as_bytes());
    }
}

/// A journal as its reader holds it: also when its folder is removed, or another run begins one there.
#[derive(Debug)]
pub struct Reader(File);

impl Reader {
    /// Opens the journal in `folder`; nothing where none was begun.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(folder: &Utf8Path) -> Result<Option<Reader>> {
        let path = folder.join(FILE);
        match File::options().read(true).append(true).open(&path) {
            Ok(file) => Ok(Some(Reader(file))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {path}")),
        }
    }

    /// The last whole entry.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn last(&mut self) -> Result<Option<Entry>> {
        let mut text = String::new();
        self.0.rewind()?;
        self.0.read_to_string(&mut text).context("read the journal")?;
        Ok(last(&text))
    }

    /// Writes that nobody has anything to do any more; for whoever looks, nothing depends on it.
    pub fn done(&mut self, entry: Entry) {
        if let Ok(line) = serde_json::to_string(&Entry { done: true, at: Timestamp::now(), ..entry }) {
            let _ = self.0.write_all(format!("{line}\n").as_bytes());
        }
    }
}

/// The last whole entry of the journal in `folder`; nothing where none was begun.
///
/// # Errors
/// The file cannot be read.
pub fn read(folder: &Utf8Path) -> Result<Option<Entry>> {
    Reader::open(folder)?.map_or(Ok(None), |mut reader| reader.last())
}

fn last(text: &str) -> Option<Entry> {
    text.lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Keep;
    use crate::ledger::{Ledger, ReleaseName};
    use crate::plan::ClusterPlan;

    fn policy(output: &Utf8Path) -> Policy {
        Policy {
            run: "r".to_owned(),
            keep: Keep::OnFailure,
            cluster: ClusterPlan::Kubeconfig { file: "/k".into(), context: Some("c".to_owned()) },
            output: output.to_owned(),
        }
    }

    #[test]
    fn what_was_recorded_is_read_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap().join("run");
        assert_eq!(read(&folder).unwrap(), None);
        let ledger = Ledger::default();
        ledger.keep_in(Journal::begin(policy(&folder)).unwrap());
        ledger.record(|made| made.namespaces.push("a-3fcd70".to_owned()));
        ledger.note(|entry| entry.tools = Some(Tools { kind: "/kind".into(), helm: "/helm".into() }));
        let release = ReleaseName { name: "r".to_owned(), namespace: "a-3fcd70".to_owned() };
        ledger.record(|made| made.releases.push(release));
        let entry = read(&folder).unwrap().unwrap();
        assert_eq!((entry.made, entry.policy), (ledger.made(), policy(&folder)));
        assert_eq!(entry.tools.unwrap().helm, "/helm");
        assert!(!entry.done);
    }

    #[test]
    fn a_line_that_was_cut_counts_as_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let ledger = Ledger::default();
        ledger.keep_in(Journal::begin(policy(folder)).unwrap());
        ledger.record(|made| made.namespaces.push("a".to_owned()));
        let before = std::fs::read_to_string(folder.join(FILE)).unwrap();
        ledger.record(|made| made.namespaces.push("b".to_owned()));
        let after = std::fs::read_to_string(folder.join(FILE)).unwrap();
        for cut in before.len()..after.len() - 1 {
            assert_eq!(last(&after[..cut]).unwrap().made.namespaces, ["a"]);
        }
        assert_eq!(last(&after).unwrap().made.namespaces, ["a", "b"]);
    }
}
