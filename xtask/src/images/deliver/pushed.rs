//! Which compressed layers Docker would push.
//!
//! Docker asks a registry for a layer by the digest of its compressed form, which no node knows that got the layer
//! uncompressed. What was once pushed tells which is which. These are facts about content, true on every machine: a lost
//! file costs Docker one more compression of each layer and nothing else.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use super::held::Blob;

/// Layers that are remembered at most.
const MOST: usize = 5000;

/// The memory of pushed layers.
#[derive(Debug, Default)]
pub(super) struct Pushed {
    file: Utf8PathBuf,
    /// By the layer's uncompressed digest.
    layers: BTreeMap<String, Compressed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Compressed {
    digest: String,
    bytes: u64,
}

impl Pushed {
    /// Reads the memory; one that cannot be read is empty.
    pub(super) fn load(file: &Utf8Path) -> Pushed {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        Pushed { file: file.to_owned(), layers: serde_json::from_str(&text).unwrap_or_default() }
    }

    /// Whether it is known how Docker would push the layer of this uncompressed digest.
    pub(super) fn knows(&self, plain: &str) -> bool {
        self.layers.contains_key(plain)
    }

    /// Uncompressed digests and sizes of compressed layers, by the compressed digest.
    pub(super) fn by_compressed(&self) -> BTreeMap<String, (String, u64)> {
        let entry = |(plain, compressed): (&String, &Compressed)| {
            (compressed.digest.clone(), (plain.clone(), compressed.bytes))
        };
        self.layers.iter().map(entry).collect()
    }

    /// Remembers a layer.
    pub(super) fn learn(&mut self, plain: &str, blob: &Blob) {
        if plain != blob.digest {
            self.layers
                .insert(plain.to_owned(), Compressed { digest: blob.digest.clone(), bytes: blob.bytes });
        }
    }

    /// Writes the memory down, whole or not at all.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn save(&mut self) -> Result<()> {
        while self.layers.len() > MOST {
            self.layers.pop_first();
        }
        let folder = self.file.parent().context("the memory of pushed layers has no folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("make the folder {folder}"))?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer(&mut file, &self.layers)?;
        file.persist(&self.file).with_context(|| format!("write {}", self.file))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = Utf8Path::from_path(folder.path()).unwrap().join("sub/pushed.json");
        let mut pushed = Pushed::load(&file);
        pushed.learn("sha256:1", &Blob { digest: "sha256:2".into(), bytes: 3 });
        pushed.learn("sha256:9", &Blob { digest: "sha256:9".into(), bytes: 3 });
        pushed.save().unwrap();
        let again = Pushed::load(&file);
        assert!(again.knows("sha256:1") && !again.knows("sha256:9"));
        assert_eq!(again.by_compressed()["sha256:2"], ("sha256:1".to_owned(), 3));
        std::fs::write(&file, "{").unwrap();
        assert!(!Pushed::load(&file).knows("sha256:1"));
    }
}
