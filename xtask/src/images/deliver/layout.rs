//! The OCI image layout that nodes import: its documents and its frame of tar
//! (github.com/opencontainers/image-spec, image-layout.md and manifest.md).

use anyhow::{Context, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_tar::Header;

use super::held::Blob;
use crate::images::key::hex;

/// Docker's type for a layer that says nothing of its compression: containerd looks at its first bytes
/// (github.com/containerd/containerd, core/images/mediatypes.go, `DiffCompression`).
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Where containerd reads an image's name from.
pub(super) const NAME: &str = "io.containerd.image.name";
/// tar's unit.
const BLOCK: u64 = 512;

/// A reference to a blob.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub(super) annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Platform {
    pub(super) architecture: String,
    pub(super) os: String,
}

impl Descriptor {
    /// Whether this is of an index's child for Linux on `arch`.
    pub(super) fn is_for(&self, arch: &str) -> bool {
        self.platform.as_ref().is_some_and(|platform| platform.os == "linux" && platform.architecture == arch)
    }
}

/// A manifest or an index.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) manifests: Vec<Descriptor>,
}

/// The digest of `bytes`, `sha256:…`.
#[must_use]
pub(super) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn descriptor(media_type: &str, digest: String, size: u64) -> Descriptor {
    Descriptor { media_type: media_type.into(), digest, size, platform: None, annotations: [].into() }
}

/// An image's manifest for a node: its configuration and its layers, as that node has or gets them.
pub(super) fn manifest(config: &[u8], layers: &[Blob]) -> Bytes {
    let document = Document {
        schema_version: 2,
        media_type: MANIFEST.to_owned(),
        config: Some(descriptor(CONFIG, digest(config), config.len() as u64)),
        layers: layers.iter().map(|blob| descriptor(LAYER, blob.digest.clone(), blob.bytes)).collect(),
        manifests: Vec::new(),
    };
    to_json(&document)
}

/// The index of a layout: manifests by full name.
pub(super) fn index(named: &[(String, Bytes)]) -> Bytes {
    let manifests = named.iter().map(|(name, manifest)| {
        let mut descriptor = descriptor(MANIFEST, digest(manifest), manifest.len() as u64);
        descriptor.annotations.insert(NAME.to_owned(), name.clone());
        descriptor
    });
    to_json(&Document {
        schema_version: 2,
        media_type: INDEX.to_owned(),
        manifests: manifests.collect(),
        ..Document::default()
    })
}

/// The digests of an image's layers before any compression, from its configuration.
pub(super) fn plain_layers(config: &[u8]) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Config {
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        #[serde(default)]
        diff_ids: Vec<String>,
    }
    let config: Config = serde_json::from_slice(config).context("understand an image's configuration")?;
    Ok(config.rootfs.diff_ids)
}

fn to_json(document: &Document) -> Bytes {
    // Maps with other keys than strings are what JSON cannot have; here are none.
    serde_json::to_vec(document).unwrap_or_default().into()
}

/// The file that makes a folder an OCI image layout.
pub(super) const LAYOUT: (&str, &[u8]) = ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);

/// The header of a file in a tar archive.
pub(super) fn header(name: &str, size: u64) -> std::io::Result<Bytes> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_entry_type(tokio_tar::EntryType::Regular);
    header.set_cksum();
    Ok(Bytes::copy_from_slice(header.as_bytes()))
}

/// What fills a file's last block.
pub(super) fn padding(size: u64) -> Bytes {
    let rest = usize::try_from(size % BLOCK).unwrap_or(0);
    Bytes::from(if rest == 0 { Vec::new() } else { vec![0; BLOCK as usize - rest] })
}

/// What ends an archive.
pub(super) fn end() -> Bytes {
    Bytes::from(vec![0; 2 * BLOCK as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_fill_whole_blocks() {
        let lengths = [0, 1, 511, 512, 513].map(|size| padding(size).len());
        assert_eq!(lengths, [0, 511, 1, 0, 511]);
        assert_eq!(header("blobs/sha256/x", 9 << 30).unwrap().len(), 512);
    }

    #[test]
    fn an_index_names_its_manifests() {
        let blob = Blob { digest: "sha256:11".into(), bytes: 3 };
        let manifest = manifest(b"{}", &[blob]);
        let index = index(&[("k8s-test.local/a:1".to_owned(), manifest.clone())]);
        let read: Document = serde_json::from_slice(&index).unwrap();
        assert_eq!(read.manifests[0].digest, digest(&manifest));
        assert_eq!(read.manifests[0].annotations[NAME], "k8s-test.local/a:1");
        let read: Document = serde_json::from_slice(&manifest).unwrap();
        assert_eq!((read.layers[0].size, read.config.unwrap().size), (3, 2));
    }
}
