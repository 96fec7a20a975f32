//! Programs that play `kind` and `docker`: shell scripts on a PATH of their own.

use kind_client::{Builder, Kind};
use std::error::Error;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

/// Records its arguments, then does what the script beside it says.
const PLAYER: &str = "#!/bin/sh\nprintf '%s\\n' \"$*\" >> \"$0.calls\"\nplay=\"$0.sh\"\n. \"$play\"\n";

/// A folder with programs that play `kind` and `docker`.
pub(crate) struct Fake {
    folder: TempDir,
}

impl Fake {
    /// `kind` and `docker` that do what these POSIX shell scripts say.
    pub(crate) fn new(kind: &str, docker: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (program, script) in [("kind", kind), ("docker", docker)] {
            symlink(player(), folder.path().join(program)).unwrap();
            fs::write(folder.path().join(format!("{program}.sh")), script).unwrap();
        }
        Self { folder }
    }

    /// A `kind` that does what this script says.
    pub(crate) fn kind(script: &str) -> Self {
        Self::new(script, "exit 125")
    }

    /// A `docker` that does what this script says.
    pub(crate) fn docker(script: &str) -> Self {
        Self::new("exit 1", script)
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A client that finds the programs on its PATH.
    pub(crate) fn client(&self) -> Kind {
        self.builder().build()
    }

    pub(crate) fn builder(&self) -> Builder {
        let own = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.path().to_owned()).chain(std::env::split_paths(&own));
        let path = std::env::join_paths(folders).unwrap();
        Kind::builder()
            .env("PATH", path)
            .env("FAKE", self.path())
            .deadline(Duration::from_secs(30))
            .grace(Duration::from_secs(5))
    }

    /// The arguments of each call of a program, in order.
    pub(crate) fn calls(&self, program: &str) -> Vec<String> {
        let calls = fs::read_to_string(self.path().join(format!("{program}.calls"))).unwrap_or_default();
        calls.lines().map(|line| line.replace(&self.path().display().to_string(), "FAKE")).collect()
    }

    /// What a script wrote to a file of this name in `$FAKE`; waits for it for at most ten seconds.
    pub(crate) async fn written(&self, file: &str) -> String {
        let path = self.path().join(file);
        for _ in 0..1000 {
            match fs::read_to_string(&path) {
                Ok(text) if text.ends_with('\n') => return text.trim_end().to_owned(),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        panic!("the script has not written {}", path.display());
    }
}

/// The one executable behind all fakes. A file that was just written cannot always be run in a process with
/// several threads: another thread's fork may still hold it open for writing. This one is written before the
/// first fork.
fn player() -> &'static Path {
    static PLAYER_PATH: OnceLock<PathBuf> = OnceLock::new();
    PLAYER_PATH.get_or_init(|| {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("player-{}", std::process::id()));
        fs::write(&path, PLAYER).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    })
}

/// An error with its sources, one per line.
pub(crate) fn report(err: &(dyn Error + 'static)) -> String {
    let mut texts = vec![err.to_string()];
    let mut source = err.source();
    while let Some(err) = source {
        texts.push(err.to_string());
        source = err.source();
    }
    texts.join("\n")
}
