//! What a node's image store holds, asked by one command.

use std::collections::{BTreeMap, BTreeSet};

use crate::images::LOCAL;

/// A shell script that lists what a node holds: its machine, the exact sizes of its blobs, the names of its images, its content
/// with the labels that say what belongs to what, and of our images and those of `names` what they are. One command, because
/// each costs a process in the node's container.
///
/// The sizes come from the folder in which containerd keeps blobs (github.com/containerd/containerd,
/// docs/content-flow.md), because `ctr content ls` rounds them. Only some images are listed in full, because `ctr images ls`
/// adds up the size of each; the names of all are listed beside the rest, because a `ctr` takes longest to start.
pub(super) fn script(names: &[String]) -> String {
    let named: String = names.iter().map(|name| format!(" 'name==\"{name}\"'")).collect();
    let ours = LOCAL.replace('.', "[.]");
    format!(
        r#"echo MACHINE $(uname -m)
cd /var/lib/containerd/io.containerd.content.v1.content/blobs/sha256 2>/dev/null && stat -c 'SIZE %n %s' -- * 2>/dev/null
ctr --namespace k8s.io images ls --quiet | sed 's/^/NAME /' | {{
ctr --namespace k8s.io images ls 'name~="^{ours}/"'{named} && ctr --namespace k8s.io content ls && cat; }}"#
    )
}

const CONFIG: &str = "containerd.io/gc.ref.content.config=";
const LAYER: &str = "containerd.io/gc.ref.content.l.";
const CHILD: &str = "containerd.io/gc.ref.content.m.";
const PLAIN: &str = "containerd.io/uncompressed=";
const SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";
/// The label of an image that we brought: Docker's id of it, and what the name meant then.
pub(super) const SOURCE: &str = "k8s-test.local/source";

/// With the target, because labels stay when a name moves to another content.
fn source(id: &str, target: &str) -> String {
    format!("{id}@{target}")
}

/// A blob in a content store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// `sha256:…`.
    pub digest: String,
    /// Its size.
    pub bytes: u64,
}

/// What a node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The node's machine as the kernel names it, such as `x86_64`.
    pub machine: String,
    names: BTreeSet<String>,
    images: BTreeMap<String, Image>,
    content: BTreeMap<String, Content>,
    /// Uncompressed layers, by the digest of the blob that has them.
    layers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Image {
    target: String,
    source: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    bytes: Option<u64>,
    config: Option<String>,
    layers: Vec<String>,
    children: Vec<String>,
    unpacked: bool,
    layer: bool,
    /// Older than a day.
    old: bool,
}

impl Held {
    /// Reads the answer to the script.
    #[must_use]
    pub fn parse(answer: &str) -> Held {
        let mut held = Held::default();
        let mut sizes = BTreeMap::new();
        let mut in_content = false;
        for line in answer.lines() {
            if let Some(machine) = line.strip_prefix("MACHINE ") {
                machine.trim().clone_into(&mut held.machine);
            } else if let Some((hex, size)) = line.strip_prefix("SIZE ").and_then(|rest| rest.split_once(' '))
            {
                if let Ok(size) = size.trim().parse() {
                    sizes.insert(format!("sha256:{hex}"), size);
                }
            } else if let Some(name) = line.strip_prefix("NAME ") {
                held.names.insert(name.trim().to_owned());
            } else if line.starts_with("REF") {
                in_content = false;
            } else if line.starts_with("DIGEST") {
                in_content = true;
            } else if in_content {
                held.read_content(line, &sizes);
            } else {
                held.read_image(line);
            }
        }
        held
    }

    fn read_image(&mut self, line: &str) {
        // REF TYPE DIGEST SIZE PLATFORMS LABELS, of which only the size has a space.
        let mut columns = line.split_whitespace();
        let (Some(name), Some(_), Some(target)) = (columns.next(), columns.next(), columns.next()) else {
            return;
        };
        let labels = columns.next_back().unwrap_or_default();
        let source = labels.split(',').find_map(|label| label.strip_prefix(SOURCE)?.strip_prefix('='));
        let image = Image { target: target.to_owned(), source: source.map(str::to_owned) };
        self.images.insert(name.to_owned(), image);
    }

    fn read_content(&mut self, line: &str, sizes: &BTreeMap<String, u64>) {
        // DIGEST SIZE AGE LABELS; the age has spaces, the labels have none.
        let mut columns = line.split_whitespace();
        let Some(digest) = columns.next() else { return };
        // `ctr` writes ages in words: seconds, minutes, hours, then days and more.
        let old = !["second", "minute", "hour"].iter().any(|unit| line.contains(unit));
        let mut content = Content { bytes: sizes.get(digest).copied(), old, ..Content::default() };
        let mut layers = BTreeMap::new();
        for label in columns.next_back().unwrap_or_default().split(',') {
            if let Some(config) = label.strip_prefix(CONFIG) {
                content.config = Some(config.to_owned());
            } else if let Some((at, layer)) = label.strip_prefix(LAYER).and_then(|rest| rest.split_once('='))
            {
                layers.insert(at.parse::<usize>().unwrap_or(usize::MAX), layer.to_owned());
            } else if let Some((_, child)) = label.strip_prefix(CHILD).and_then(|rest| rest.split_once('=')) {
                content.children.push(child.to_owned());
            } else if let Some(plain) = label.strip_prefix(PLAIN) {
                self.layers.insert(plain.to_owned(), digest.to_owned());
                content.layer = true;
            } else if label.starts_with(SNAPSHOT) {
                content.unpacked = true;
            }
        }
        content.layers = layers.into_values().collect();
        self.content.insert(digest.to_owned(), content);
    }

    /// The blob of this digest.
    #[must_use]
    pub fn blob(&self, digest: &str) -> Option<Blob> {
        let bytes = self.content.get(digest)?.bytes?;
        Some(Blob { digest: digest.to_owned(), bytes })
    }

    /// The blob that has the layer of this uncompressed digest, compressed or not.
    #[must_use]
    pub fn layer(&self, plain: &str) -> Option<Blob> {
        self.blob(plain).or_else(|| self.blob(self.layers.get(plain)?))
    }

    /// Whether the blob of this digest is known to be a layer.
    #[must_use]
    pub fn is_layer(&self, digest: &str) -> bool {
        self.content.get(digest).is_some_and(|content| content.layer && content.bytes.is_some())
    }

    /// Whether the image of this name came more than a day ago.
    #[must_use]
    pub fn is_old(&self, name: &str) -> bool {
        self.images
            .get(name)
            .and_then(|image| self.content.get(&image.target))
            .is_some_and(|target| target.old)
    }

    /// Whether there is an image of this full name, whatever its content.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// The names of all images.
    pub fn all_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The digest of the configuration of the image of this name.
    #[must_use]
    pub fn config(&self, name: &str) -> Option<&str> {
        self.manifest(name)?.config.as_deref()
    }

    /// The value of [`SOURCE`] that says of the image of this name as it is now that it is Docker's `id`.
    pub(super) fn source_of(&self, name: &str, id: &str) -> Option<String> {
        Some(source(id, &self.images.get(name)?.target))
    }

    /// Why the image of this name is not the one of which Docker says `id`; nothing where it is.
    ///
    /// Docker's id is the digest of the configuration in its classic store. In its containerd store it is the digest of
    /// a manifest or an index, which the node may hold as it is, or know by the label that our deliveries set.
    #[must_use]
    pub fn differs(&self, name: &str, id: &str) -> Option<String> {
        let Some(image) = self.images.get(name) else { return Some(format!("it has no image {name}")) };
        let Some(manifest) = self.manifest(name) else {
            return Some(format!("its image {name} has no manifest of this platform"));
        };
        let config = manifest.config.as_deref();
        let same = config == Some(id)
            || image.target == id
            || image.source.as_deref() == Some(source(id, &image.target).as_str());
        if !same {
            let config = config.unwrap_or("none");
            return Some(format!(
                "its image {name} has the configuration {config}, which is not Docker's {id}"
            ));
        }
        let unpacked =
            config.and_then(|config| self.content.get(config)).is_some_and(|config| config.unpacked);
        let lost: BTreeSet<&String> =
            manifest.layers.iter().filter(|layer| !self.content.contains_key(*layer)).collect();
        if !unpacked && !lost.is_empty() {
            let lost = Vec::from_iter(lost.into_iter().map(String::as_str)).join(", ");
            return Some(format!("its image {name} lacks the layers {lost}"));
        }
        None
    }

    /// The manifest of the image of this name; of an index the one whose configuration is there.
    fn manifest(&self, name: &str) -> Option<&Content> {
        let target = self.content.get(&self.images.get(name)?.target)?;
        if target.config.is_some() {
            return Some(target);
        }
        let mut manifests = target.children.iter().filter_map(|child| self.content.get(child));
        manifests.find(|child| child.config.as_ref().is_some_and(|config| self.content.contains_key(config)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "MACHINE x86_64
SIZE aa 674
SIZE c0 450
SIZE 11 112700000
SIZE 22 5000
NAME registry.k8s.io/pause:3.10
REF\t\tTYPE\t\tDIGEST\t\tSIZE\tPLATFORMS\tLABELS
k8s-test.local/app:1 application/vnd.oci.image.manifest.v1+json sha256:aa 385.8 MiB linux/amd64 io.cri-containerd.image=managed
k8s-test.local/index:1 application/vnd.oci.image.index.v1+json sha256:1d 385.8 MiB linux/amd64 k8s-test.local/source=sha256:50@sha256:1d,x=y
DIGEST\t\tSIZE\tAGE\tLABELS
sha256:aa\t674B\t44 minutes\tcontainerd.io/gc.ref.content.l.1=sha256:22,containerd.io/gc.ref.content.config=sha256:c0,containerd.io/gc.ref.content.l.0=sha256:11
sha256:c0\t450B\t44 minutes\t-
sha256:11\t112.7MB\t4 minutes\tcontainerd.io/uncompressed=sha256:11
sha256:22\t5kB\tAbout an hour\tcontainerd.io/uncompressed=sha256:2f
sha256:1d\t728B\t4 minutes\tcontainerd.io/gc.ref.content.m.0=sha256:gone,containerd.io/gc.ref.content.m.1=sha256:aa
";

    #[test]
    fn reads_images_and_layers() {
        let held = Held::parse(ANSWER);
        assert_eq!(held.machine, "x86_64");
        assert!(held.names("registry.k8s.io/pause:3.10") && !held.names("registry.k8s.io/pause"));
        assert_eq!(held.config("k8s-test.local/app:1"), Some("sha256:c0"));
        assert_eq!(held.config("k8s-test.local/index:1"), Some("sha256:c0"));
        assert_eq!(held.layer("sha256:11"), Some(Blob { digest: "sha256:11".into(), bytes: 112_700_000 }));
        assert_eq!(held.layer("sha256:2f"), Some(Blob { digest: "sha256:22".into(), bytes: 5000 }));
        assert_eq!(held.layer("sha256:33"), None);
    }

    #[test]
    fn a_name_alone_is_no_proof() {
        let held = Held::parse(ANSWER);
        assert_eq!(held.differs("k8s-test.local/app:1", "sha256:c0"), None);
        let other = held.differs("k8s-test.local/app:1", "sha256:c1").unwrap();
        assert!(other.contains("the configuration sha256:c0"), "{other}");
        assert!(held.differs("k8s-test.local/app:2", "sha256:c0").unwrap().contains("has no image"));
    }

    #[test]
    fn an_image_from_dockers_containerd_store_is_known_by_its_label() {
        let held = Held::parse(ANSWER);
        assert_eq!(held.differs("k8s-test.local/index:1", "sha256:50"), None);
        let moved = ANSWER.replace("sha256:50@sha256:1d", "sha256:50@sha256:1c");
        assert!(Held::parse(&moved).differs("k8s-test.local/index:1", "sha256:50").is_some());
        assert_eq!(held.differs("k8s-test.local/index:1", "sha256:1d"), None);
    }

    #[test]
    fn an_image_without_its_layers_is_none_unless_it_is_unpacked() {
        let cut: String =
            ANSWER.lines().filter(|line| !line.starts_with("sha256:22")).map(|l| format!("{l}\n")).collect();
        let lost = Held::parse(&cut).differs("k8s-test.local/app:1", "sha256:c0").unwrap();
        assert!(lost.ends_with("lacks the layers sha256:22"), "{lost}");
        let unpacked = cut.replace(
            "sha256:c0\t450B\t44 minutes\t-",
            "sha256:c0\t450B\t1 hour\tcontainerd.io/gc.ref.snapshot.overlayfs=sha256:x",
        );
        assert_eq!(Held::parse(&unpacked).differs("k8s-test.local/app:1", "sha256:c0"), None);
    }
}
