//! Keys of inputs: equal keys mean that making the image again would make the same one.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use ignore::WalkBuilder;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use sha2::{Digest, Sha256};

/// Characters of a key.
const LEN: usize = 16;

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)]));
    bytes.iter().flat_map(digits).collect()
}

/// The files below `folder` that Docker would send as a build context, sorted.
///
/// # Errors
/// The folder cannot be read.
pub fn context_files(folder: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let ignored = docker_ignore(folder)?;
    let mut files = Vec::new();
    // A context is what is on disk, whatever git makes of it.
    for entry in WalkBuilder::new(folder).standard_filters(false).build() {
        let entry = entry.with_context(|| format!("read the folder {folder}"))?;
        let path =
            Utf8Path::from_path(entry.path()).with_context(|| format!("{:?} is not UTF-8", entry.path()))?;
        let is_folder = entry.file_type().is_some_and(|kind| kind.is_dir());
        if !is_folder && !ignored.matched_path_or_any_parents(path, false).is_ignore() {
            files.push(path.to_owned());
        }
    }
    files.sort();
    Ok(files)
}

/// .dockerignore as patterns of git's kind. Docker's are anchored at the context, git's are not.
pub(crate) fn docker_ignore(folder: &Utf8Path) -> Result<Gitignore> {
    let mut builder = GitignoreBuilder::new(folder);
    let file = folder.join(".dockerignore");
    if let Ok(text) = std::fs::read_to_string(&file) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (not, pattern) = line.strip_prefix('!').map_or(("", line), |pattern| ("!", pattern));
            let pattern = pattern.trim_start_matches("./").trim_start_matches('/');
            builder
                .add_line(None, &format!("{not}/{pattern}"))
                .with_context(|| format!("understand `{line}` in {file}"))?;
        }
    }
    Ok(builder.build()?)
}

/// The key of a folder's files (path, content, whether executable and by all) and of `more`.
///
/// # Errors
/// A file cannot be read.
pub fn of_folder<'a>(folder: &Utf8Path, more: impl IntoIterator<Item = &'a str>) -> Result<String> {
    let mut hash = Sha256::new();
    let mut folders = BTreeSet::new();
    for path in context_files(folder)? {
        let relative = path.strip_prefix(folder).unwrap_or(&path);
        let above = relative.ancestors().skip(1).filter(|above| !above.as_str().is_empty());
        folders.extend(above.map(|above| folder.join(above)));
        let meta = path.symlink_metadata().with_context(|| format!("read {path}"))?;
        if meta.is_symlink() {
            part(&mut hash, relative.as_str().as_bytes());
            part(&mut hash, b"link");
            part(
                &mut hash,
                path.read_link_utf8().with_context(|| format!("read {path}"))?.as_str().as_bytes(),
            );
        } else if meta.is_file() {
            part(&mut hash, relative.as_str().as_bytes());
            part(&mut hash, if is_executable(&meta) { b"program" } else { b"file" });
            part(&mut hash, &std::fs::read(&path).with_context(|| format!("read {path}"))?);
            if is_private(&meta) {
                part(&mut hash, b"private");
            }
        }
    }
    for path in folders {
        if is_private(&path.metadata().with_context(|| format!("read {path}"))?) {
            part(&mut hash, path.strip_prefix(folder).unwrap_or(&path).as_str().as_bytes());
            part(&mut hash, b"private folder");
        }
    }
    for text in more {
        part(&mut hash, text.as_bytes());
    }
    Ok(hex(&hash.finalize())[..LEN].to_owned())
}

/// With its length in front, so that two parts never look like one.
fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn is_executable(meta: &Metadata) -> bool {
    meta.permissions().mode() & 0o111 != 0
}

/// Whether others may not read or run what its owner may: an image takes that over, and its programs may be those others.
///
/// The other bits differ between checkouts (umask 022, 002), and no program of an image minds them.
fn is_private(meta: &Metadata) -> bool {
    let mode = meta.permissions().mode();
    (mode >> 6) & !mode & 0o5 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(files: &[(&str, &str)]) -> Folder {
            let folder = Folder(tempfile::tempdir().unwrap());
            for (path, text) in files {
                folder.write(path, text);
            }
            folder
        }

        fn path(&self) -> &Utf8Path {
            Utf8Path::from_path(self.0.path()).unwrap()
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn chmod(&self, path: &str, mode: u32) {
            std::fs::set_permissions(self.path().join(path), std::fs::Permissions::from_mode(mode)).unwrap();
        }

        fn key(&self) -> String {
            of_folder(self.path(), []).unwrap()
        }
    }

    #[test]
    fn a_key_follows_what_others_may_read_and_not_the_umask() {
        let folder = Folder::new(&[("sub/a", "1")]);
        let key = |folders, files| {
            folder.chmod("sub", folders);
            folder.chmod("sub/a", files);
            folder.key()
        };
        let usual = key(0o755, 0o644);
        assert_eq!(key(0o775, 0o664), usual);
        assert_ne!(key(0o755, 0o600), usual);
        assert_ne!(key(0o700, 0o644), usual);
        assert_ne!(key(0o755, 0o744), key(0o755, 0o755));
    }

    #[test]
    fn a_key_follows_names_contents_and_modes() {
        let folder = Folder::new(&[("a", "1"), ("sub/b", "2")]);
        let first = folder.key();
        assert_eq!(first, Folder::new(&[("sub/b", "2"), ("a", "1")]).key());
        folder.write("a", "3");
        let changed = folder.key();
        assert_ne!(first, changed);
        folder.chmod("a", 0o755);
        assert_ne!(changed, folder.key());
        assert_ne!(of_folder(folder.path(), ["x"]).unwrap(), folder.key());
    }

    #[test]
    fn moving_bytes_between_files_changes_the_key() {
        assert_ne!(
            Folder::new(&[("a", "12"), ("b", "3")]).key(),
            Folder::new(&[("a", "1"), ("b", "23")]).key()
        );
    }

    #[test]
    fn what_docker_ignores_does_not_count() {
        let folder =
            Folder::new(&[(".dockerignore", "tests\n**/__pycache__\n!tests/keep\n"), ("app/a.py", "1")]);
        let key = folder.key();
        folder.write("tests/t.py", "x");
        folder.write("app/__pycache__/a.pyc", "x");
        assert_eq!(key, folder.key());
        // Only a folder `tests` at the top is meant.
        folder.write("app/tests/t.py", "x");
        assert_ne!(key, folder.key());
    }
}
